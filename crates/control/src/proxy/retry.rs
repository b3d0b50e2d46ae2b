//! Sends a request to a guest, and once more where a kept connection broke before the guest can
//! have seen it.
//!
//! A server closes connections that it has kept for some time. If it does so just when a request is
//! on its addressing, the request ends without an answer, though nothing is wrong (RFC 9112, 9.3.1). A
//! request that may be sent twice (idempotent, without a body) then goes over a connection of its
//! own. All others fail: the guest may have acted on them.

use std::sync::Arc;

use axum::body::Body;
use http::request::Parts;
use http::{Extensions, Method, Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper_util::client::legacy::Error;

use super::GuestClients;
use super::connection_use::ConnectionUse;

/// Sends a request through a pooled connection, and perhaps again through one of its own.
pub(super) async fn send_with_retry(
    clients: &GuestClients,
    parts: Parts,
    body: Body,
) -> Result<Response<Incoming>, Error> {
    let again = can_repeat(&parts.method, &body).then(|| parts.clone());
    let request = Request::from_parts(parts, body);
    let error = match clients.pooled.request(request).await {
        Ok(answer) => return Ok(answer),
        Err(error) => error,
    };
    match again.filter(|_| broke_unanswered(&error)) {
        Some(parts) => {
            let request = Request::from_parts(parts, Body::empty());
            clients.unpooled.request(request).await
        }
        None => Err(error),
    }
}

/// Returns true if a request can be sent again: an idempotent method (RFC 9110, 9.2.2) without a
/// body.
fn can_repeat(method: &Method, body: &Body) -> bool {
    let is_idempotent = [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::PUT,
        Method::DELETE,
    ]
    .contains(method);
    is_idempotent && body.is_end_stream()
}

fn broke_unanswered(error: &Error) -> bool {
    let mut extensions = Extensions::new();
    error
        .connect_info()
        .inspect(|connected| connected.get_extras(&mut extensions));
    extensions
        .get::<Arc<ConnectionUse>>()
        .is_some_and(|used| used.is_kept_and_unanswered())
}
