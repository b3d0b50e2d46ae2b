//! Errors as the SDKs of E2B read them: `code`, which is the status once more, and `message` in every
//! body, since those that lack one become errors of the parser (E2B contract 1.3).

use axum::Json;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};
use model::ErrorCode;
use serde_json::json;

use super::is_e2b_path;
use crate::api::error::Logged;
use crate::error::Error;

/// Tells newer SDKs whether to send a request again, whatever its status.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("should-retry");

pub(super) type Result<T> = std::result::Result<T, Failure>;

/// Error of a route of this face.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    message: String,
    /// Code of E2B's own list.
    slug: Option<&'static str>,
    /// `None` where a route refuses by itself.
    error: Option<Box<Error>>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            slug: None,
            error: None,
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Creates the failure of a call on a sandbox that is not there, or not any more.
    pub(super) fn no_sandbox(id: &str) -> Self {
        let id: String = id.chars().take(64).collect();
        let text = format!("sandbox {id:?} does not exist, or has ended");
        Self::new(StatusCode::NOT_FOUND, text)
    }

    /// Creates the failure of a call that this server has nothing for. `what` is its name.
    pub(super) fn unsupported(what: &str, instead: &str) -> Self {
        let text = format!("this server has no {what}; {instead}");
        Self::new(StatusCode::NOT_IMPLEMENTED, text)
    }

    #[must_use]
    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }

    #[must_use]
    pub(super) fn with_slug(self, slug: &'static str) -> Self {
        Self {
            slug: Some(slug),
            ..self
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = status_of(error.code);
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            message: error.message.clone(),
            slug: slug_of(error.code),
            error: Some(Box::new(error)),
        }
    }
}

impl From<model::InvalidValue> for Failure {
    fn from(error: model::InvalidValue) -> Self {
        Error::from(error).into()
    }
}

/// Returns the status of E2B's for a code. A failure of host or guest is no 502, which clients take
/// for a sandbox that is gone, and ask again.
const fn status_of(code: ErrorCode) -> u16 {
    match code {
        ErrorCode::AgentError => 500,
        code => code.http_status(),
    }
}

const fn slug_of(code: ErrorCode) -> Option<&'static str> {
    match code {
        ErrorCode::IdempotencyMismatch => Some("idempotency_request_mismatch"),
        ErrorCode::HostUnavailable => Some("sandbox_capacity_unavailable"),
        ErrorCode::InternalError => Some("internal_server_error"),
        ErrorCode::AgentError => Some("sandbox_create_failed"),
        _ => None,
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut body = json!({ "code": self.status.as_u16(), "message": self.message });
        if let Some(slug) = self.slug {
            body["error_code"] = json!(slug);
        }
        // Others may have been carried out, or would fail again: clients must not repeat them.
        let is_retryable = matches!(
            self.status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        );
        let mut response = (self.status, Json(body)).into_response();
        // The error's own response has the fields of its kind, such as `Retry-After`, and what the
        // log says of it.
        if let Some(error) = self.error {
            let (own, _) = error.into_response().into_parts();
            let is_of_body = |name: &HeaderName| [CONTENT_TYPE, CONTENT_LENGTH].contains(name);
            let fields = own.headers.iter().filter(|(name, _)| !is_of_body(name));
            for (name, value) in fields {
                response.headers_mut().append(name, value.clone());
            }
            response.extensions_mut().extend(own.extensions);
        }
        if self.status.is_server_error() && !is_retryable {
            let no = HeaderValue::from_static("false");
            response.headers_mut().insert(SHOULD_RETRY, no);
        }
        response.extensions_mut().insert(Translated);
        response
    }
}

/// Mark of a response whose body is in the form of this face.
#[derive(Debug, Clone, Copy)]
struct Translated;

/// Gives errors that no route of this face made the same form: a missing key, a rate limit, a path
/// without a route.
pub async fn translate_errors(request: Request, next: Next) -> Response {
    let is_ours = is_e2b_path(request.uri().path());
    let response = next.run(request).await;
    if !is_ours || response.extensions().get::<Translated>().is_some() {
        return response;
    }
    let logged = response.extensions().get::<Logged>().cloned();
    match logged {
        Some(Logged(error)) => Failure::from(error).into_response(),
        None => response,
    }
}
