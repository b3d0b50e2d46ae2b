//! Errors of file operations, once for both protocols.

use std::io;
use std::path::Path;

use connectrpc::{ConnectError, ErrorCode};
use http::StatusCode;
use nix::libc;

use crate::http::error::HttpError;

/// Reason why a file operation did not happen; decides the status and the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    NotFound,
    AlreadyExists,
    /// The request can never work as it is.
    Invalid,
    Denied,
    /// The disk (or a quota, or its inodes) is full.
    NoSpace,
    /// A limit of the kernel or of the agent is reached.
    Exhausted,
    /// Refusal until something else has changed.
    Precondition,
    /// Events were lost.
    DataLoss,
    Internal,
}

/// A file operation that failed. The text is one line for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FileError {
    pub kind: Kind,
    pub message: String,
}

impl FileError {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// Creates the error for a refused system call on `path`; `doing` completes "cannot …", for
    /// example "read".
    pub fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        let path = path.display();
        let kind = kind(error);
        let message = match kind {
            Kind::NotFound => format!("path '{path}' does not exist"),
            Kind::Denied => format!("permission denied: cannot {doing} '{path}': {error}"),
            Kind::NoSpace => format!("not enough disk space: cannot {doing} '{path}': {error}"),
            _ => format!("cannot {doing} '{path}': {error}"),
        };
        Self { kind, message }
    }

    /// Creates the error for a failure to take the user's identity.
    pub fn identity(error: &io::Error) -> Self {
        Self::new(Kind::Internal, format!("cannot act as the user: {error}"))
    }

    /// Creates the error for a blocking task that ended without an answer.
    pub fn task(error: &tokio::task::JoinError) -> Self {
        Self::new(
            Kind::Internal,
            format!("the file task was broken off: {error}"),
        )
    }
}

fn kind(error: &io::Error) -> Kind {
    match error.raw_os_error() {
        Some(libc::ENOENT) => Kind::NotFound,
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => Kind::Denied,
        Some(libc::ENOSPC | libc::EDQUOT) => Kind::NoSpace,
        Some(libc::EEXIST | libc::ENOTEMPTY) => Kind::AlreadyExists,
        Some(libc::EMFILE | libc::ENFILE) => Kind::Exhausted,
        Some(libc::ETXTBSY | libc::EBUSY | libc::EXDEV) => Kind::Precondition,
        Some(
            libc::ENOTDIR
            | libc::EISDIR
            | libc::EINVAL
            | libc::ENAMETOOLONG
            | libc::ELOOP
            | libc::ENXIO,
        ) => Kind::Invalid,
        _ => Kind::Internal,
    }
}

impl From<FileError> for ConnectError {
    fn from(error: FileError) -> Self {
        let code = match error.kind {
            Kind::NotFound => ErrorCode::NotFound,
            Kind::AlreadyExists => ErrorCode::AlreadyExists,
            Kind::Invalid => ErrorCode::InvalidArgument,
            Kind::Denied => ErrorCode::PermissionDenied,
            Kind::NoSpace | Kind::Exhausted => ErrorCode::ResourceExhausted,
            Kind::Precondition => ErrorCode::FailedPrecondition,
            Kind::DataLoss => ErrorCode::DataLoss,
            Kind::Internal => ErrorCode::Internal,
        };
        Self::new(code, error.message)
    }
}

impl From<FileError> for HttpError {
    fn from(error: FileError) -> Self {
        let status = match error.kind {
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::AlreadyExists | Kind::Precondition => StatusCode::CONFLICT,
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::Denied => StatusCode::FORBIDDEN,
            Kind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            Kind::Exhausted => StatusCode::TOO_MANY_REQUESTS,
            Kind::DataLoss | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.message)
    }
}
