//! What is said of a sandbox beside its spec, and changes while it exists.

use serde::Serialize;

use crate::id::SandboxName;
use crate::label::Labels;

/// Name, labels and end of a sandbox. Only the control plane knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SandboxAttributes {
    /// Unique among the sandboxes of its team that are neither stopped nor failed.
    pub name: Option<SandboxName>,
    pub labels: Labels,
    /// Time at which it is stopped whatever it does, in milliseconds since the Unix epoch.
    pub ends_at: Option<i64>,
}
