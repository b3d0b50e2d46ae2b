//! Calls about the space that sandboxes and saved states take on a host.

use std::iter::Sum;
use std::ops::Add;

use host_rpc as rpc;
use model::{SandboxId, TemplateName};

use super::Host;
use super::calls::{FILES_TIMEOUT, query};
use crate::error::Result;

/// What is counted.
#[derive(Debug, Clone, Default)]
pub struct DiskUsageScope {
    pub sandboxes: Vec<SandboxId>,
    pub snapshots: Vec<TemplateName>,
    /// Everything counts, also what belongs to no team.
    pub whole_host: bool,
}

/// Bytes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    pub size_bytes: u64,
    /// Bytes that are free when all of it is removed.
    pub exclusive_bytes: u64,
}

/// Number of things of one kind, and their sizes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    pub count: u64,
    pub sizes: Sizes,
}

/// Space of one sandbox with all that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSpace {
    pub id: String,
    pub total: Sizes,
    pub own: Sizes,
    pub paused: Sizes,
    pub checkpoints: Space,
}

/// Space by kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskUsage {
    pub sandboxes: Space,
    pub paused: Space,
    pub checkpoints: Space,
    pub snapshots: Space,
    /// Of whole hosts alone, as the next one.
    pub images: Option<Space>,
    pub preboot: Option<Space>,
    pub total: Sizes,
    pub by_sandbox: Vec<SandboxSpace>,
}

impl Add for Sizes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            size_bytes: self.size_bytes.saturating_add(other.size_bytes),
            exclusive_bytes: self.exclusive_bytes.saturating_add(other.exclusive_bytes),
        }
    }
}

impl Add for Space {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            sizes: self.sizes + other.sizes,
        }
    }
}

/// Hosts share no files.
impl Sum for DiskUsage {
    fn sum<I: Iterator<Item = Self>>(hosts: I) -> Self {
        let both = |a: Option<Space>, b: Option<Space>| match (a, b) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        hosts.fold(Self::default(), |mut sum, host| {
            sum.by_sandbox.extend(host.by_sandbox);
            Self {
                sandboxes: sum.sandboxes + host.sandboxes,
                paused: sum.paused + host.paused,
                checkpoints: sum.checkpoints + host.checkpoints,
                snapshots: sum.snapshots + host.snapshots,
                images: both(sum.images, host.images),
                preboot: both(sum.preboot, host.preboot),
                total: sum.total + host.total,
                by_sandbox: sum.by_sandbox,
            }
        })
    }
}

impl From<rpc::Sizes> for Sizes {
    fn from(sizes: rpc::Sizes) -> Self {
        Self {
            size_bytes: sizes.size_bytes,
            exclusive_bytes: sizes.exclusive_bytes,
        }
    }
}

impl From<rpc::Space> for Space {
    fn from(space: rpc::Space) -> Self {
        Self {
            count: space.count.into(),
            sizes: space.sizes.into_option().unwrap_or_default().into(),
        }
    }
}

impl From<rpc::SandboxSpace> for SandboxSpace {
    fn from(space: rpc::SandboxSpace) -> Self {
        Self {
            id: space.sandbox_id,
            total: space.total.into_option().unwrap_or_default().into(),
            own: space.own.into_option().unwrap_or_default().into(),
            paused: space.paused.into_option().unwrap_or_default().into(),
            checkpoints: space.checkpoints.into_option().unwrap_or_default().into(),
        }
    }
}

impl From<rpc::GetDiskUsageResponse> for DiskUsage {
    fn from(usage: rpc::GetDiskUsageResponse) -> Self {
        let by_sandbox = usage.by_sandbox.into_iter().map(SandboxSpace::from);
        Self {
            sandboxes: usage.sandboxes.into_option().unwrap_or_default().into(),
            paused: usage.paused.into_option().unwrap_or_default().into(),
            checkpoints: usage.checkpoints.into_option().unwrap_or_default().into(),
            snapshots: usage.snapshots.into_option().unwrap_or_default().into(),
            images: usage.images.into_option().map(Space::from),
            preboot: usage.preboot.into_option().map(Space::from),
            total: usage.total.into_option().unwrap_or_default().into(),
            by_sandbox: by_sandbox.collect(),
        }
    }
}

impl Host {
    /// Measures the space of what is in scope.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn get_disk_usage(&self, scope: &DiskUsageScope) -> Result<DiskUsage> {
        let request = rpc::GetDiskUsageRequest {
            sandbox_ids: scope.sandboxes.iter().map(ToString::to_string).collect(),
            snapshots: scope.snapshots.iter().map(ToString::to_string).collect(),
            whole_host: scope.whole_host,
            ..Default::default()
        };
        let answer = query!(
            self,
            host.get_disk_usage_with_options(request),
            FILES_TIMEOUT
        )?;
        Ok(answer.into())
    }
}
