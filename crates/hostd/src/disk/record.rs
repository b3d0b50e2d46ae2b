//! Disk of a sandbox, as its record in the ledger has it.

use serde::{Deserialize, Serialize};

use super::Backend;
use crate::images::identity::ImageIdentity;

/// A disk, decided before it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    pub backend: Backend,
    pub size_bytes: u64,
    /// Image below the disk. Sandboxes of versions that did not note it have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<ImageIdentity>,
}
