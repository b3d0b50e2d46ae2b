//! Connect codes of our errors.

use connectrpc::{ConnectError, ErrorCode};
use host_rpc::client::has_connection_broken;
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
        sandbox::ErrorCode::PermissionDenied => ErrorCode::PermissionDenied,
        sandbox::ErrorCode::Internal => ErrorCode::Internal,
    };
    ConnectError::new(code, stdx::error::chain(&error))
}

/// Converts an error of a call to the guest agent.
pub(super) fn from_guest(error: guest::Error) -> ConnectError {
    let text = error.to_string();
    let code = match error {
        guest::Error::Unreachable(_) | guest::Error::Closed(_) => ErrorCode::Unavailable,
        guest::Error::Nonsense(_) | guest::Error::Broken(_) => ErrorCode::Internal,
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

/// Converts an error of the guest agent's Connect services: only code and text are passed on. A
/// connection that broke under a call is no reason to send it again: the guest may have done it.
pub(super) fn pass_on(error: &ConnectError) -> ConnectError {
    if has_connection_broken(error) {
        let cause = stdx::error::chain(error);
        return ConnectError::internal(guest::Error::Broken(cause).to_string());
    }
    let message: String = error
        .message
        .as_deref()
        .unwrap_or("the guest agent gave no reason")
        .chars()
        .take(1000)
        .collect();
    ConnectError::new(error.code, message)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use connectrpc::ErrorCode;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::{from_guest, pass_on};
    use crate::guest::Guest;

    /// Returns an address that takes calls and hangs up without an answer, or takes none.
    async fn start_guest(takes_calls: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        if takes_calls {
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let _ = stream.read(&mut [0; 1024]).await;
                }
            });
        }
        address
    }

    #[tokio::test]
    async fn call_on_broken_connection_is_ambiguous() {
        for (takes_calls, code) in [(true, ErrorCode::Internal), (false, ErrorCode::Unavailable)] {
            let guest = Guest::new(start_guest(takes_calls).await, "token");
            let request = guest_rpc::filesystem::RemoveRequest::default();
            let client = guest.filesystem_client().unwrap();
            let error = client.remove(request).await.unwrap_err();
            assert_eq!(pass_on(&error).code, code, "{error}");
            let error = guest.remove_upload("00").await.unwrap_err();
            assert_eq!(from_guest(error).code, code);
        }
    }
}
