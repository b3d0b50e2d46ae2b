//! Calls about what sandboxes and hosts use.

use host_rpc as rpc;
use model::SandboxId;

use super::Host;
use super::calls::{ASK_TIMEOUT, query};
use crate::error::Result;

/// Times and step of a wanted series; times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageQuery {
    pub from: i64,
    pub to: i64,
    pub step_sec: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResourceSizes {
    pub cpu_count: u32,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
}

/// Usage of a sandbox or host at one time; all but `guest` measured by the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UsagePoint {
    /// Milliseconds since the Unix epoch.
    pub time: i64,
    /// Percent of one processor.
    pub cpu_percent: f64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    pub rx_bytes_per_sec: u64,
    pub tx_bytes_per_sec: u64,
    /// Memory and disk that the guest says it uses, bytes.
    pub guest: Option<(u64, u64)>,
}

/// Usage over time, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct UsageSeries {
    pub sizes: ResourceSizes,
    pub step_sec: u32,
    pub points: Vec<UsagePoint>,
}

/// Present usage of a sandbox; `None` while it does not run.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxUsage {
    pub id: String,
    pub sizes: ResourceSizes,
    pub latest: Option<UsagePoint>,
}

impl Host {
    /// Returns the present usage of sandboxes; those that the host does not have are left out.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn get_usage(&self, ids: Vec<String>) -> Result<Vec<SandboxUsage>> {
        let request = rpc::GetUsageRequest {
            sandbox_ids: ids,
            ..Default::default()
        };
        let answer = query!(self, stats.get_usage_with_options(request), ASK_TIMEOUT)?;
        let sandboxes = answer.sandboxes.into_iter();
        let usage = sandboxes.map(|sandbox| SandboxUsage {
            id: sandbox.sandbox_id,
            sizes: sizes(sandbox.sizes.into_option()),
            latest: sandbox.latest.into_option().map(UsagePoint::from),
        });
        Ok(usage.collect())
    }

    /// Returns the usage of a sandbox over time, or of the host itself.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn list_usage(
        &self,
        id: Option<&SandboxId>,
        query: UsageQuery,
    ) -> Result<UsageSeries> {
        let request = rpc::ListUsageRequest {
            sandbox_id: id.map(ToString::to_string).unwrap_or_default(),
            from_ms: query.from,
            to_ms: query.to,
            step_sec: query.step_sec,
            ..Default::default()
        };
        let answer = query!(self, stats.list_usage_with_options(request), ASK_TIMEOUT)?;
        Ok(UsageSeries {
            sizes: sizes(answer.sizes.into_option()),
            step_sec: answer.step_sec,
            points: answer.points.into_iter().map(UsagePoint::from).collect(),
        })
    }
}

fn sizes(sizes: Option<rpc::ResourceSizes>) -> ResourceSizes {
    let sizes = sizes.unwrap_or_default();
    ResourceSizes {
        cpu_count: sizes.cpu_count,
        memory_bytes: sizes.memory_bytes,
        disk_bytes: sizes.disk_bytes,
    }
}

impl From<rpc::UsagePoint> for UsagePoint {
    fn from(point: rpc::UsagePoint) -> Self {
        let guest = point.guest.into_option();
        Self {
            time: point.time_ms,
            cpu_percent: f64::from(point.cpu_hundredths) / 100.0,
            memory_bytes: point.memory_bytes,
            disk_bytes: point.disk_bytes,
            rx_bytes_per_sec: point.rx_bytes_per_sec.into(),
            tx_bytes_per_sec: point.tx_bytes_per_sec.into(),
            guest: guest.map(|guest| (guest.memory_bytes, guest.disk_bytes)),
        }
    }
}
