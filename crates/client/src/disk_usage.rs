//! Space on the hosts' disks.

use api_types::{DiskUsage, SandboxDiskUsage};
use reqwest::Method;

use crate::connection::Client;
use crate::error::Result;

impl Client {
    /// Returns what the team's sandboxes and snapshots take on disk; for operators all of the
    /// hosts.
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        self.send_json(self.request(Method::GET, self.route(&["v1", "disk-usage"])))
            .await
    }

    /// Returns what a sandbox takes on disk with all that goes with it.
    pub async fn sandbox_disk_usage(&self, id: &str) -> Result<SandboxDiskUsage> {
        self.send_json(self.request(
            Method::GET,
            self.route(&["v1", "sandboxes", id, "disk-usage"]),
        ))
        .await
    }
}
