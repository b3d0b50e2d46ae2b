//! What sandboxes and hosts use.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer to `GET /v1/sandboxes/{id}/metrics`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SandboxMetrics {
    #[schema(example = "sb-0123456789abcdefghij")]
    pub id: String,
    #[serde(flatten)]
    pub sizes: ResourceSizes,
    /// Seconds between two points.
    #[schema(example = 1)]
    pub step_sec: u32,
    /// Oldest first. Times at which nothing was measured, as those in which it was paused, are left
    /// out.
    pub points: Vec<MetricsPoint>,
}

/// Present usage of a sandbox: an entry of `GET /v1/sandboxes/metrics`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SandboxUsage {
    #[schema(example = "sb-0123456789abcdefghij")]
    pub id: String,
    pub status: model::SandboxState,
    #[serde(flatten)]
    pub sizes: ResourceSizes,
    /// Absent while it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<MetricsPoint>,
}

/// A host: an entry of `GET /v1/hosts/metrics`. Its network is that of its sandboxes.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HostMetrics {
    pub id: String,
    #[serde(flatten)]
    pub sizes: ResourceSizes,
    /// Sandboxes on it, in any state.
    pub sandboxes: u32,
    /// Seconds between two points.
    #[schema(example = 1)]
    pub step_sec: u32,
    /// Oldest first.
    pub points: Vec<MetricsPoint>,
}

/// Sizes that usage is measured against.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResourceSizes {
    #[schema(example = 1)]
    pub cpu_count: u32,
    #[schema(example = 536_870_912)]
    pub memory_total_bytes: u64,
    /// 0 where it is not known.
    #[schema(example = 4_294_967_296_u64)]
    pub disk_total_bytes: u64,
}

/// Usage at one time, measured by the host. Over a longer step rates are means, and sizes the
/// highest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricsPoint {
    /// Begin of the time that it is about, RFC 3339.
    #[schema(example = "2026-01-01T00:00:00.000Z")]
    pub time: String,
    /// Percent of one processor: 200 is two whole ones.
    #[schema(example = 12.5)]
    pub cpu_percent: f64,
    /// What it takes of the host's memory. Memory that the guest has freed still counts.
    pub memory_used_bytes: u64,
    /// What its disk takes on the host.
    pub disk_used_bytes: u64,
    /// Bytes per second that it receives, and sends.
    pub network_rx_bytes_per_sec: u64,
    pub network_tx_bytes_per_sec: u64,
    /// What the guest says of itself, which can be anything; absent until it has been asked, which
    /// is only done while it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestUsage>,
}

/// What a guest says that it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestUsage {
    pub memory_used_bytes: u64,
    pub disk_used_bytes: u64,
}
