//! The body of every error.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of every answer whose status is 400 or above.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// One of a small closed set; match on this, not on the message.
    pub code: String,
    /// What was wrong and what to do, for a person.
    pub message: String,
    /// Exit code that a shell gives for a program that cannot be started: 127 where there is no
    /// such program, 126 where it cannot be executed. Absent from all other errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}
