//! Logging of requests: a line for each, all lines of a request under its id, and the causes of
//! faults: once, here, and never to the client.

use std::time::Instant;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderValue;
use runtime::trace::{REQUEST_ID, RequestContext, end_request, in_context, set_attribute};
use tracing::Instrument;

use crate::api::error::Logged;

pub(super) async fn log_request(request: Request, next: Next) -> Response {
    let (context, span) = RequestContext::begin(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let began = Instant::now();
    span.in_scope(|| set_attribute("url.path", &path));
    let handling = next.run(request).instrument(span.clone());
    let mut response = in_context(Some(context.clone()), handling).await;
    end_request(&span, response.status());
    let ms = began.elapsed().as_millis();
    let status = response.status().as_u16();
    context.span().in_scope(|| {
        let refused = response.extensions_mut().remove::<Logged>();
        match (status, refused) {
            (500.., Some(Logged(error))) => {
                tracing::error!(%method, path, status, ms, error = error.chain(), "request failed");
            }
            (500.., None) => tracing::error!(%method, path, status, ms, "request failed"),
            (400.., Some(Logged(error))) => {
                tracing::info!(%method, path, status, ms, why = error.message, "request refused")
            }
            _ if method.is_safe() && !context.wants_lines() => {
                tracing::debug!(%method, path, status, ms, "request");
            }
            _ => tracing::info!(%method, path, status, ms, "request"),
        }
    });
    if let Ok(id) = HeaderValue::from_str(context.request_id()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}
