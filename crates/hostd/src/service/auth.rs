//! Checks that every call carries the agent's token.

use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use listener::ConnectionHandle;
use subtle::ConstantTimeEq;

pub(super) async fn require_token(token: Arc<str>, request: Request, next: Next) -> Response {
    let sent = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if sent.is_some_and(|sent| sent.ct_eq(token.as_bytes()).into()) {
        request
            .extensions()
            .get::<ConnectionHandle>()
            .inspect(|connection| connection.trust());
        return next.run(request).await;
    }
    let body = r#"{"code":"unauthenticated","message":"the host agent's token is missing or wrong; set AGENT_TOKEN"}"#;
    (
        StatusCode::UNAUTHORIZED,
        [(CONTENT_TYPE, "application/json")],
        body,
    )
        .into_response()
}
