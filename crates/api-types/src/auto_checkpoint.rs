//! Policy for checkpoints that a sandbox's host makes by itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// When the host of a sandbox makes checkpoints by itself: before each command, or each so many
/// seconds, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AutoCheckpoint {
    /// One before each command. Commands that run at the same time share one.
    #[serde(default)]
    #[schema(example = true)]
    pub before_each_command: bool,
    /// One each so many seconds, while the sandbox is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86400)]
    pub every_sec: Option<u32>,
    /// How many stay: the oldest go first. Default 10.
    #[serde(default = "keep")]
    #[schema(minimum = 1, maximum = 50)]
    pub keep: u32,
    /// Bytes that they may take together, without what others have, too. The newest one stays in
    /// any case. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
}

const fn keep() -> u32 {
    AutoCheckpoint::DEFAULT_KEEP
}

impl AutoCheckpoint {
    /// How many stay where the body does not say it.
    pub const DEFAULT_KEEP: u32 = model::AutoCheckpoint::DEFAULT_KEEP;
}

impl From<AutoCheckpoint> for model::AutoCheckpoint {
    fn from(policy: AutoCheckpoint) -> Self {
        Self {
            before_each_command: policy.before_each_command,
            every_sec: policy.every_sec,
            keep: policy.keep,
            max_bytes: policy.max_bytes,
        }
    }
}

impl From<model::AutoCheckpoint> for AutoCheckpoint {
    fn from(policy: model::AutoCheckpoint) -> Self {
        Self {
            before_each_command: policy.before_each_command,
            every_sec: policy.every_sec,
            keep: policy.keep,
            max_bytes: policy.max_bytes,
        }
    }
}
