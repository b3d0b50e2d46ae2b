//! Which Connect code each of our errors has.

use connectrpc::{ConnectError, ErrorCode};
use model::InvalidValue;

use crate::guest;
use crate::sandbox::Refused;

pub(super) fn invalid(error: InvalidValue) -> ConnectError {
    ConnectError::invalid_argument(error.to_string())
}

pub(super) fn refused(error: Refused) -> ConnectError {
    let text = stdx::error::chain(&error);
    match error {
        Refused::Template(crate::images::Error::Unknown { .. })
        | Refused::Unknown(_)
        | Refused::NoCheckpoint { .. } => ConnectError::not_found(text),
        Refused::Disk(crate::disk::Error::TooSmall { .. }) | Refused::Invalid(_) => {
            ConnectError::invalid_argument(text)
        }
        Refused::StandsStill(_) | Refused::TooMany { .. } => ConnectError::resource_exhausted(text),
        Refused::Full(_) => ConnectError::unavailable(text),
        Refused::NotRunning { .. } | Refused::NotResumed(_) | Refused::Paused => {
            ConnectError::failed_precondition(text)
        }
        Refused::Taken { .. } => ConnectError::already_exists(text),
        Refused::InUse { .. } => ConnectError::aborted(text),
        Refused::Template(crate::images::Error::Io { .. })
        | Refused::Disk(_)
        | Refused::Failed(_) => ConnectError::internal(text),
    }
}

/// An error that the guest agent answered with an HTTP status.
pub(super) fn from_guest(error: guest::Error) -> ConnectError {
    let text = error.to_string();
    let code = match error {
        guest::Error::Unreachable(_) | guest::Error::Closed(_) => ErrorCode::Unavailable,
        guest::Error::Nonsense(_) => ErrorCode::Internal,
        guest::Error::Refused { status, .. } => match status {
            // 401 is a user whom the guest does not know: the token is right.
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

/// An error of the guest agent's Connect services, of which only code and text are passed on.
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
