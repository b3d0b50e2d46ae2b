//! The services of the contract, over [`World`](super::World), a file each.

mod commands;
mod files;
mod host;
mod images;
mod logs;
mod network;
mod sandboxes;
mod snapshots;
mod stats;
mod templates;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response as HttpResponse};
use connectrpc::ConnectError;
use host_rpc as rpc;

use super::world::Sandbox;
use super::{Shared, TOKEN, cut, tunnel};

pub(super) fn router(shared: Arc<Shared>) -> axum::Router {
    let tunnels = tunnel::router(Arc::clone(&shared));
    let services = rpc::services::register_services(&Arc::new(Agent {
        shared: Arc::clone(&shared),
    }));
    tunnels
        .fallback_service(services.into_axum_service())
        .layer(from_fn_with_state(Arc::clone(&shared), cut::cut_response))
        .layer(from_fn_with_state(shared, note_request))
        .layer(from_fn(check_token))
        .layer(from_fn(rpc::linger::linger))
}

/// Keeps the header fields by which requests are traced.
async fn note_request(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> HttpResponse {
    if let Some(id) = header_text(request.headers(), "x-request-id") {
        let trace = header_text(request.headers(), "traceparent").unwrap_or_default();
        shared.world().traces.insert(id, trace);
    }
    next.run(request).await
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

async fn check_token(request: Request, next: Next) -> HttpResponse {
    let right = format!("Bearer {TOKEN}");
    if request
        .headers()
        .get("authorization")
        .is_some_and(|sent| sent.as_bytes() == right.as_bytes())
    {
        return next.run(request).await;
    }
    let body = r#"{"code":"unauthenticated","message":"the host agent's token is missing or wrong; set AGENT_TOKEN"}"#;
    (
        StatusCode::UNAUTHORIZED,
        [("content-type", "application/json")],
        body,
    )
        .into_response()
}

/// The fake agent as its callers see it: implements all services.
struct Agent {
    shared: Arc<Shared>,
}

impl Agent {
    fn find<T>(&self, id: &str, look: impl FnOnce(&mut Sandbox) -> T) -> Result<T, ConnectError> {
        self.shared.world().sandbox(id).map(look)
    }
}

/// Returns an answer.
macro_rules! answer {
    ($message:ident { $($field:ident: $value:expr),* }) => {
        ::connectrpc::Response::ok(::host_rpc::$message { $($field: $value,)* ..Default::default() })
    };
}

/// Declares a call with one answer, to which the script is applied first.
macro_rules! unary {
    ($name:ident($self:ident, $request:ident: $message:ident) -> $response:ident, $call:literal, $answer:block) => {
        async fn $name(
            &$self,
            _: ::connectrpc::RequestContext,
            $request: ::connectrpc::ServiceRequest<'_, ::host_rpc::$message>,
        ) -> ::connectrpc::ServiceResult<::host_rpc::$response> {
            let $request = $request.to_owned_message();
            $self.shared.script.meet_barrier($call).await?;
            ::connectrpc::Response::ok($answer)
        }
    };
}

use {answer, unary};
