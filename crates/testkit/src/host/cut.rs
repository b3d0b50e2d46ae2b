//! Connections that break under a call, before or after it was carried out.

use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::Shared;
use super::script::Cut;

/// Cuts the connections that the script says: a layer around the service. The last part of a call's
/// path is its name.
pub(super) async fn cut_response(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let call = request.uri().path().rsplit('/').next();
    match call.and_then(|call| shared.script.take_cut(call)) {
        None => return next.run(request).await,
        Some(Cut::Before) => {}
        Some(Cut::After) => drop(next.run(request).await),
    }
    // Where a body fails, hyper breaks the connection.
    let broken =
        futures::stream::once(async { Err::<Bytes, _>(io::Error::other("the connection is cut")) });
    Response::new(Body::from_stream(broken))
}
