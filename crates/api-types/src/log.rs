//! What happened in and to a sandbox.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    /// The guest's serial console. Written by the guest: do not trust it.
    Console,
    /// What the host agent did with the sandbox.
    Agent,
}

/// One line of `GET /v1/sandboxes/{id}/logs`, which answers with one such JSON object per line.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogEntry {
    /// RFC 3339.
    pub time: String,
    pub source: LogSource,
    pub line: String,
}
