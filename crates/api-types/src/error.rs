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
}
