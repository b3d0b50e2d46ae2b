//! Errors as clients see them: one body for all, built in one place.

use api_types::{ErrorBody, ErrorDetail};
use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use model::ErrorCode;

use super::rate_limit;
use crate::error::Error;

/// Error left in the response for the request log: the chain of causes, which the client does not
/// get.
#[derive(Debug, Clone)]
pub struct Logged(pub Error);

/// Returns the error as the body of a response.
#[must_use]
pub fn error_body(error: &Error) -> ErrorBody {
    let code = error.code.as_str().to_owned();
    let message = error.message.clone();
    ErrorBody {
        error: ErrorDetail {
            code,
            message,
            exit_code: error.exit_code,
        },
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(error_body(&self))).into_response();
        if self.code == ErrorCode::Unauthorized {
            // RFC 9110 11.6.1.
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(quota) = &self.quota {
            rate_limit::append_refusal(response.headers_mut(), quota);
        }
        response.extensions_mut().insert(Logged(self));
        response
    }
}

/// Returns the error for paths without a route.
pub async fn no_route(uri: http::Uri) -> Error {
    Error::new(
        ErrorCode::NotFound,
        format!(
            "there is nothing at {}; /docs shows what there is",
            uri.path()
        ),
    )
}

/// Gives a body of ours to answers that libraries made on their own, such as that of a wrong
/// method.
pub async fn unify_errors(response: Response) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() || is_json(&response) {
        return response;
    }
    let error = match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            let allowed = response
                .headers()
                .get(ALLOW)
                .and_then(|allow| allow.to_str().ok())
                .unwrap_or("other methods");
            Error::new(
                ErrorCode::MethodNotAllowed,
                format!("this path takes {allowed}"),
            )
        }
        StatusCode::NOT_FOUND => Error::new(
            ErrorCode::NotFound,
            "there is nothing here; /docs shows what there is",
        ),
        status if status.is_client_error() => {
            Error::invalid(format!("the request is refused with status {status}"))
        }
        status => Error::new(
            ErrorCode::InternalError,
            format!("the control plane failed with status {status}"),
        ),
    };
    let allow = response.headers().get(ALLOW).cloned();
    let mut unified = error.into_response();
    if let Some(allow) = allow {
        unified.headers_mut().insert(ALLOW, allow);
    }
    unified
}

fn is_json(response: &Response) -> bool {
    response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"))
}

/// Returns the response for a handler that panicked; the panic hook has logged where.
pub fn panic_response(_: Box<dyn std::any::Any + Send>) -> Response {
    Error::new(
        ErrorCode::InternalError,
        "the control plane failed; its log has the cause",
    )
    .into_response()
}
