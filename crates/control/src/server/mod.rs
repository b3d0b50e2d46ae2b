//! Puts around every route what holds for all: a request id, the log line, errors in one form, and
//! the question who is asking; around all of that the ports of sandboxes.

mod log;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use listener::{ConnectionHandle, ListenerLimits};
use runtime::trace::try_step;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::api::error::Logged;
use crate::api::{self, Served};
use crate::app::App;
use crate::client_address::client_address;
use crate::error::Result;
use crate::metrics::InFlight;
use crate::proxy::{self, Proxy};
use crate::quota::QuotaState;
use crate::{auth, capsules, e2b, hosts};

/// Time at the end for answers that are on their way.
const GOODBYE: Duration = Duration::from_secs(10);

/// Routes that need no key. Every other route of the router needs one, so that a new route is
/// protected by default.
const PUBLIC: [&str; 14] = [
    "/",
    "/health",
    "/ready",
    "/openapi.json",
    "/openapi.yaml",
    "/docs",
    "/docs/",
    "/docs/{*rest}",
    "/docs/guide",
    "/docs/guide/",
    "/docs/guide/{*file}",
    "/test",
    "/test/",
    "/test/{*file}",
];

/// Builds the whole HTTP service.
pub fn build_service(app: &Arc<App>, served: Served) -> Router {
    let faces = e2b::routes().merge(capsules::routes());
    let routes = api::router(Arc::clone(app), served, faces)
        .layer(from_fn_with_state(Arc::clone(app), authorise));
    // Around the router and not in it: what a wrong method is told comes from the router itself.
    Router::new()
        .fallback_service(routes)
        .layer(map_response(api::error::unify_errors))
        .layer(CatchPanicLayer::custom(api::error::panic_response))
        .layer(from_fn(e2b::translate_errors))
        .layer(from_fn(log::log_request))
        // Outside of the log: paths of ports can hold links.
        .layer(from_fn_with_state(
            Proxy::new(Arc::clone(app)),
            proxy::intercept,
        ))
        .layer(from_fn(hosts::linger))
        .layer(CatchPanicLayer::custom(api::error::panic_response))
}

async fn authorise(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let matched = request
        .extensions()
        .get::<MatchedPath>()
        .map(MatchedPath::as_str);
    let is_public = match matched {
        Some(path) => PUBLIC.contains(&path),
        // No such route: below /v1 that is not told without a key.
        None => !request.uri().path().starts_with("/v1/"),
    };
    let in_flight = InFlight::begin(request.method(), matched);
    runtime::trace::name_request(|| in_flight.name());
    let mut quota = None;
    if !is_public {
        match admit(&app, &mut request).await {
            Ok(counted) => quota = counted,
            Err(error) => {
                let response = error.into_response();
                record_response(in_flight, &response);
                return response;
            }
        }
    }
    let mut response = next.run(request).await;
    if let Some(quota) = &quota {
        api::rate_limit::append_state(response.headers_mut(), quota);
    }
    record_response(in_flight, &response);
    response
}

fn record_response(in_flight: InFlight, response: &Response) {
    let error = response.extensions().get::<Logged>();
    in_flight.record(response.status(), error.map(|Logged(error)| error.code));
}

/// Looks up the principal of a request, and counts the request.
async fn admit(app: &App, request: &mut Request) -> Result<Option<QuotaState>> {
    let authenticated = auth::authenticate(&app.store, request.headers());
    let mut principal = try_step("authenticate", authenticated).await?;
    principal.address = client_address(app, request);
    request
        .extensions()
        .get::<ConnectionHandle>()
        .inspect(|connection| connection.trust());
    let quota = app.rate_limits.count_request(&principal.key_id)?;
    request.extensions_mut().insert(principal);
    Ok(quota)
}

/// Waits for `shutdown`, and then `time` longer, in which requests are still taken although
/// `/ready` tells load balancers to send no more. A shutdown of the app ends that early.
pub async fn drain(app: &App, time: Duration, shutdown: CancellationToken) {
    shutdown.cancelled().await;
    app.draining.cancel();
    let _ = app
        .shutdown
        .run_until_cancelled(tokio::time::sleep(time))
        .await;
    app.shutdown.cancel();
}

/// Serves until `stopping`, which ends open streams, and gives answers a moment to leave then.
pub async fn serve(
    service: Router,
    listener: TcpListener,
    app: &App,
    limits: ListenerLimits,
    stopping: impl Future<Output = ()>,
) -> std::io::Result<()> {
    raise_open_files()?;
    let late = async {
        app.shutdown.cancelled().await;
        tokio::time::sleep(GOODBYE).await;
    };
    tokio::select! {
        () = listener::serve(listener, service, limits, stopping) => {}
        () = late => tracing::warn!("requests are cut off: they did not end within {} s", GOODBYE.as_secs()),
    }
    Ok(())
}

/// Raises the soft limit of open files, which shells set for the sake of old programs (1024), to
/// the hard one: each connection to a port takes two descriptors here.
fn raise_open_files() -> std::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?)
}
