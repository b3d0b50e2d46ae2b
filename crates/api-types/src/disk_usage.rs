//! Space that sandboxes and saved states take on the hosts' disks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bytes on the hosts' disks. Blocks that several of the things have are counted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Sizes {
    /// Allocated.
    pub size_bytes: u64,
    /// What is free when all of it is deleted.
    pub exclusive_bytes: u64,
    /// What stays, since others have it, too.
    pub shared_bytes: u64,
}

/// All things of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Space {
    pub count: u64,
    #[serde(flatten)]
    pub sizes: Sizes,
}

/// Space of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SandboxDiskUsage {
    #[schema(example = "sb-0123456789abcdefghij")]
    pub id: String,
    /// Everything that goes with the sandbox.
    pub total: Sizes,
    /// Disk, log, and memory that is in files while it runs.
    pub own: Sizes,
    /// Saved state while it is paused.
    pub paused: Sizes,
    pub checkpoints: Space,
}

/// Space of the team's sandboxes and snapshots, and of whole hosts for operators.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct DiskUsage {
    /// Disks, logs, and memory that is in files while they run.
    pub sandboxes: Space,
    /// Saved states of paused sandboxes.
    pub paused: Space,
    pub checkpoints: Space,
    pub snapshots: Space,
    /// Base images; for operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Space>,
    /// Memory of booted guests that creates begin with; for operators. It is made again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preboot_cache: Option<Space>,
    /// All of it; less than the sum of the kinds where they share blocks.
    pub total: Sizes,
    /// The team's sandboxes, by id.
    pub by_sandbox: Vec<SandboxDiskUsage>,
}
