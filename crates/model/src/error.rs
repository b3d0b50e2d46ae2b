//! The closed set of error codes that users can meet, and errors of rejected values.

use serde::{Deserialize, Serialize};

/// Code of a failure, as clients match on it. REST and RPC use the same set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 400: the request itself is wrong.
    InvalidRequest,
    /// 401: no key, or a key that is not known.
    Unauthorized,
    /// 403: the key may not do this.
    Forbidden,
    /// 404: no such sandbox, template, file or route.
    NotFound,
    /// 405: the path exists, the method does not.
    MethodNotAllowed,
    /// 409: the sandbox is not in a state in which this can be done.
    InvalidState,
    /// 409: something with that name is there already, or another request was first.
    Conflict,
    /// 410: what was asked for is not kept any more.
    Expired,
    /// 413: a body or a value is over its limit.
    TooLarge,
    /// 415: the body is of a type that this route does not read.
    UnsupportedMediaType,
    /// 422: an idempotency key came again with another body.
    IdempotencyMismatch,
    /// 429: a quota or a rate limit.
    ResourceExhausted,
    /// 500: a fault of ours; the log has the cause.
    InternalError,
    /// 502: the host agent or the guest failed.
    AgentError,
    /// 503: no host can take it now.
    HostUnavailable,
    /// 504: it took longer than it was allowed to.
    Timeout,
    /// 507: a disk is full.
    InsufficientStorage,
}

impl ErrorCode {
    /// Every code, for documents and tests.
    pub const ALL: [Self; 17] = [
        Self::InvalidRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::InvalidState,
        Self::Conflict,
        Self::Expired,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::IdempotencyMismatch,
        Self::ResourceExhausted,
        Self::InternalError,
        Self::AgentError,
        Self::HostUnavailable,
        Self::Timeout,
        Self::InsufficientStorage,
    ];

    /// Returns the code as it stands in bodies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::InvalidState => "invalid_state",
            Self::Conflict => "conflict",
            Self::Expired => "expired",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::IdempotencyMismatch => "idempotency_mismatch",
            Self::ResourceExhausted => "resource_exhausted",
            Self::InternalError => "internal_error",
            Self::AgentError => "agent_error",
            Self::HostUnavailable => "host_unavailable",
            Self::Timeout => "timeout",
            Self::InsufficientStorage => "insufficient_storage",
        }
    }

    /// Returns the HTTP status that goes with the code.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::InvalidState | Self::Conflict => 409,
            Self::Expired => 410,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::IdempotencyMismatch => 422,
            Self::ResourceExhausted => 429,
            Self::InternalError => 500,
            Self::AgentError => 502,
            Self::HostUnavailable => 503,
            Self::Timeout => 504,
            Self::InsufficientStorage => 507,
        }
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A value that was refused. The text names the field, says what was wrong and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct InvalidValue {
    /// The field as the user spelled it, for example `memory_mb`.
    pub field: &'static str,
    /// Text for the user, as the rest of a sentence: what is wrong and what would be right.
    pub problem: String,
}

impl InvalidValue {
    pub fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self {
            field,
            problem: problem.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_spelling_is_as_str() {
        for code in ErrorCode::ALL {
            let json = serde_json::to_string(&code).unwrap();
            assert_eq!(json, format!("\"{code}\""));
        }
    }

    #[test]
    fn errors_document_lists_all_codes() {
        let document = include_str!("../../../docs/errors.md");
        let rows: Vec<&str> = document
            .lines()
            .filter(|line| line.starts_with("| `"))
            .collect();
        let expected = ErrorCode::ALL.map(|code| format!("| `{code}` | {} |", code.http_status()));
        assert_eq!(rows.len(), expected.len());
        for (row, start) in rows.iter().zip(&expected) {
            assert!(row.starts_with(start), "{row} should start with {start}");
        }
    }
}
