//! Connect codes of our errors.

use connectrpc::{ConnectError, ErrorCode};
use model::InvalidValue;

use crate::guest;
use crate::sandbox::{self, SandboxError};

pub(super) fn invalid_argument(error: InvalidValue) -> ConnectError {
    ConnectError::invalid_argument(error.to_string())
}

pub(super) fn from_sandbox_error(error: SandboxError) -> ConnectError {
    let code = match error.code() {
        sandbox::ErrorCode::NotFound => ErrorCode::NotFound,
        sandbox::ErrorCode::InvalidArgument => ErrorCode::InvalidArgument,
        sandbox::ErrorCode::ResourceExhausted => ErrorCode::ResourceExhausted,
        sandbox::ErrorCode::Unavailable => ErrorCode::Unavailable,
        sandbox::ErrorCode::FailedPrecondition => ErrorCode::FailedPrecondition,
        sandbox::ErrorCode::AlreadyExists => ErrorCode::AlreadyExists,
        sandbox::ErrorCode::Aborted => ErrorCode::Aborted,
        sandbox::ErrorCode::DeadlineExceeded => ErrorCode::DeadlineExceeded,
        sandbox::ErrorCode::Internal => ErrorCode::Internal,
    };
    ConnectError::new(code, stdx::error::chain(&error))
}

/// Converts an error of a call to the guest agent.
pub(super) fn from_guest(error: guest::Error) -> ConnectError {
    let text = error.to_string();
    let code = match error {
        guest::Error::Unreachable(_) | guest::Error::Closed(_) => ErrorCode::Unavailable,
        guest::Error::Nonsense(_) => ErrorCode::Internal,
        guest::Error::Refused { status, .. } => match status {
            // 401 means that the guest has no such user: the token is right.
            400 | 401 => ErrorCode::InvalidArgument,
            403 => ErrorCode::PermissionDenied,
            404 => ErrorCode::NotFound,
            409 => ErrorCode::AlreadyExists,
            413 | 507 => ErrorCode::ResourceExhausted,
            _ => ErrorCode::Internal,
        },
    };
    ConnectError::new(code, text)
}

/// Converts an error of the guest agent's Connect services: only code and text are passed on.
pub(super) fn pass_on(error: &ConnectError) -> ConnectError {
    let message: String = error
        .message
        .as_deref()
        .unwrap_or("the guest agent gave no reason")
        .chars()
        .take(1000)
        .collect();
    ConnectError::new(error.code, message)
}
