//! `/mcp`: the tools of the crate `mcp` over HTTP.
//!
//! They call the REST API of this process over loopback with the key of the request, so that scopes,
//! limits and the audit of changes are those of any client. A session lives in the memory of this
//! process; with a restart it is gone, and its client begins another.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use mcp::Caller;
use model::ErrorCode;

use crate::app::App;
use crate::auth::{Principal, sent_key};
use crate::error::{Error, Result};

/// Returns the route. The key has been checked before it.
pub(super) fn router(app: Arc<App>) -> Router<Arc<App>> {
    let service = mcp::http_service(app.shutdown.clone());
    Router::new()
        .route_service("/mcp", service)
        .layer(from_fn_with_state(app, name_caller))
}

/// Tells the service who calls.
async fn name_caller(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Result<Response> {
    let caller = caller(&app, &request)?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

fn caller(app: &App, request: &Request) -> Result<Caller> {
    let principal = request.extensions().get::<Principal>();
    let id = principal.map(|principal| principal.key_id.clone());
    let id = id.ok_or_else(|| Error::new(ErrorCode::Unauthorized, "no API key"))?;
    let key = sent_key(request.headers())?.to_owned();
    let url = app.own_address.url();
    let url =
        url.ok_or_else(|| Error::new(ErrorCode::HostUnavailable, "the server is starting"))?;
    Ok(Caller { url, key, id })
}
