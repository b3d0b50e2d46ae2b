//! Backend of the disks of sandboxes, and limits of their speed.

use linux::cgroup::DiskLimits;
use runtime::config::Variables;

use crate::disk::Choice;

const BACKEND: &str = "AGENT_DISK";
pub(crate) const MBPS: &str = "AGENT_DISK_MBPS";
pub(crate) const IOPS: &str = "AGENT_DISK_IOPS";

/// Disks of new sandboxes.
#[derive(Debug, Clone)]
pub struct DiskConfig {
    /// `AGENT_DISK`.
    pub backend: Choice,
    /// `AGENT_DISK_MBPS` and `AGENT_DISK_IOPS`: the most that each VMM may use of its disk.
    pub limits: DiskLimits,
}

impl DiskConfig {
    pub(super) fn from_variables(variables: &mut Variables<'_>) -> Self {
        let megabytes = read_limit(variables, MBPS);
        Self {
            backend: variables.parse_or(BACKEND, "auto, dm, reflink, qcow2 or copy", Choice::Auto),
            limits: DiskLimits {
                bytes: megabytes.map(|megabytes| megabytes.saturating_mul(1_000_000)),
                operations: read_limit(variables, IOPS),
            },
        }
    }
}

fn read_limit(variables: &mut Variables<'_>, name: &str) -> Option<u64> {
    let limit = variables.parse_or(name, "a number from 0, which is no limit", 0);
    (limit > 0).then_some(limit)
}
