//! What happened in and to a sandbox.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use model::LogSource;

/// One line of `GET /v1/sandboxes/{id}/logs`, which answers with one such JSON object per line.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogEntry {
    /// RFC 3339.
    pub time: String,
    pub source: LogSource,
    pub line: String,
}
