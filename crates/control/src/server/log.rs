//! One line per request, all lines of a request under its id, and the causes of faults: once, here,
//! and never to the client.

use std::time::Instant;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderValue;
use rand::RngExt;
use tracing::Instrument;

use crate::api::error::Logged;

const REQUEST_ID: &str = "x-request-id";
const MAX_ID: usize = 64;

pub(super) async fn log(request: Request, next: Next) -> Response {
    let id = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|id| usable(id.to_str().ok()?))
        .unwrap_or_else(random);
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!("request", id);
    let began = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let ms = began.elapsed().as_millis();
    let status = response.status().as_u16();
    span.in_scope(|| {
        let refused = response.extensions_mut().remove::<Logged>();
        match (status, refused) {
            (500.., Some(Logged(error))) => {
                tracing::error!(%method, path, status, ms, error = error.chain(), "request failed");
            }
            (500.., None) => tracing::error!(%method, path, status, ms, "request failed"),
            (400.., Some(Logged(error))) => {
                tracing::info!(%method, path, status, ms, why = error.message, "request refused")
            }
            _ if method.is_safe() => tracing::debug!(%method, path, status, ms, "request"),
            _ => tracing::info!(%method, path, status, ms, "request"),
        }
    });
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// A client's own id, if it is fit for a log.
fn usable(id: &str) -> Option<String> {
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    ((1..=MAX_ID).contains(&id.len()) && id.bytes().all(fit)).then(|| id.to_owned())
}

fn random() -> String {
    let id: u64 = rand::rng().random();
    format!("{id:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_clients_cannot_forge_log_lines() {
        assert_eq!(usable("a-B_9.z").as_deref(), Some("a-B_9.z"));
        for wrong in ["", "a b", "a\nb", "\u{e4}", &"a".repeat(65)] {
            assert_eq!(usable(wrong), None);
        }
    }
}
