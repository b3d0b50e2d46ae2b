//! The resources of Firecracker's interface that are used here, as its OpenAPI document describes
//! them.
//!
//! Optional members that are `None` are left out, which Firecracker takes for its defaults.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `PUT /boot-source`.
#[derive(Debug, Clone, Serialize)]
pub struct BootSource {
    /// Path of an uncompressed ELF kernel.
    pub kernel_image_path: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_args: Option<String>,
}

/// `PUT /drives/{drive_id}`. Raw images and block devices only.
#[derive(Debug, Clone, Serialize)]
pub struct Drive {
    pub drive_id: String,
    pub path_on_host: PathBuf,
    /// Adds `root=/dev/vda` to the kernel's arguments.
    pub is_root_device: bool,
    pub is_read_only: bool,
    pub cache_type: CacheType,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum CacheType {
    /// The guest's flushes do nothing.
    Unsafe,
    /// The guest's flushes reach the disk.
    Writeback,
}

/// `PUT /network-interfaces/{iface_id}`.
#[derive(Debug, Clone, Serialize)]
pub struct NetworkInterface {
    pub iface_id: String,
    /// TAP device in the network namespace of the process.
    pub host_dev_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_rate_limiter: Option<RateLimiter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_rate_limiter: Option<RateLimiter>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RateLimiter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<TokenBucket>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<TokenBucket>,
}

/// Token bucket: `size` tokens (bytes or operations) come back every `refill_time` milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenBucket {
    pub size: u64,
    pub refill_time: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_time_burst: Option<u64>,
}

/// `PUT /machine-config`.
#[derive(Debug, Clone, Serialize)]
pub struct MachineConfig {
    pub vcpu_count: u32,
    pub mem_size_mib: u32,
    pub smt: bool,
    /// Lets a snapshot contain only the pages that were written since the last one.
    pub track_dirty_pages: bool,
    pub huge_pages: HugePages,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum HugePages {
    None,
    #[serde(rename = "2M")]
    TwoMiB,
}

/// `PUT /entropy`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Entropy {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// `PUT /balloon`.
#[derive(Debug, Clone, Serialize)]
pub struct Balloon {
    pub amount_mib: u32,
    pub deflate_on_oom: bool,
    /// Seconds; 0 for no statistics. Cannot be turned on later.
    pub stats_polling_interval_s: u16,
}

/// `GET /balloon/statistics`. All but the first two members come from the guest's driver, if it has
/// one, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BalloonStatistics {
    pub target_mib: u32,
    pub actual_mib: u32,
    pub total_memory: Option<u64>,
    pub free_memory: Option<u64>,
    pub available_memory: Option<u64>,
    pub disk_caches: Option<u64>,
}

/// `PUT /mmds/config`.
#[derive(Debug, Clone, Serialize)]
pub struct MmdsConfig {
    pub version: MmdsVersion,
    pub network_interfaces: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum MmdsVersion {
    V1,
    /// Requires a session token of the guest, so that a request smuggled into it gets nothing.
    V2,
}

/// `PUT /metrics`.
#[derive(Debug, Clone, Serialize)]
pub struct Metrics {
    pub metrics_path: PathBuf,
}

/// `PUT /logger`.
#[derive(Debug, Clone, Serialize)]
pub struct Logger {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_path: Option<PathBuf>,
    pub level: LogLevel,
    pub show_level: bool,
    pub show_log_origin: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum LogLevel {
    Error,
    Warning,
    Info,
    Debug,
}

/// `PUT /serial`.
#[derive(Debug, Clone, Serialize)]
pub struct Serial {
    pub serial_out_path: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<TokenBucket>,
}

/// `PUT /actions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "action_type")]
pub enum Action {
    InstanceStart,
    FlushMetrics,
    SendCtrlAltDel,
}

/// `PATCH /vm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "state")]
pub enum VmUpdate {
    Paused,
    Resumed,
}

/// `PUT /snapshot/create`.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotCreate {
    pub snapshot_type: SnapshotType,
    /// Path for the state of the devices.
    pub snapshot_path: PathBuf,
    pub mem_file_path: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum SnapshotType {
    Full,
    /// Writes the pages that were written since the last snapshot into the memory file of that one.
    Diff,
}

/// `PUT /snapshot/load`.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotLoad {
    pub snapshot_path: PathBuf,
    pub mem_backend: MemoryBackend,
    pub track_dirty_pages: bool,
    pub resume_vm: bool,
    pub network_overrides: Vec<NetworkOverride>,
}

/// Source of a restored guest's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "backend_type", content = "backend_path")]
pub enum MemoryBackend {
    /// File that is mapped privately.
    File(PathBuf),
    /// Socket of a server for the guest's page faults (userfaultfd(2)).
    Uffd(PathBuf),
}

#[derive(Debug, Clone, Serialize)]
pub struct NetworkOverride {
    pub iface_id: String,
    pub host_dev_name: String,
}

/// `GET /`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InstanceInfo {
    pub id: String,
    pub state: State,
    pub vmm_version: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum State {
    #[serde(rename = "Not started")]
    NotStarted,
    Running,
    Paused,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn form(of: impl Serialize) -> Value {
        serde_json::to_value(of).unwrap()
    }

    #[test]
    fn requests_have_the_documented_form() {
        assert_eq!(
            form(Action::InstanceStart),
            json!({"action_type": "InstanceStart"})
        );
        assert_eq!(form(VmUpdate::Paused), json!({"state": "Paused"}));
        let machine = MachineConfig {
            vcpu_count: 2,
            mem_size_mib: 256,
            smt: false,
            track_dirty_pages: true,
            huge_pages: HugePages::None,
        };
        assert_eq!(
            form(&machine),
            json!({"vcpu_count": 2, "mem_size_mib": 256, "smt": false, "track_dirty_pages": true, "huge_pages": "None"})
        );
        assert_eq!(
            form(MachineConfig {
                huge_pages: HugePages::TwoMiB,
                ..machine
            })["huge_pages"],
            "2M"
        );
        let source = BootSource {
            kernel_image_path: "/k".into(),
            initrd_path: None,
            boot_args: Some("quiet".into()),
        };
        assert_eq!(
            form(source),
            json!({"kernel_image_path": "/k", "boot_args": "quiet"})
        );
    }

    #[test]
    fn snapshot_loads_from_file_or_pager() {
        let load = |mem_backend| SnapshotLoad {
            snapshot_path: "/s".into(),
            mem_backend,
            track_dirty_pages: true,
            resume_vm: false,
            network_overrides: vec![NetworkOverride {
                iface_id: "eth0".into(),
                host_dev_name: "tap7".into(),
            }],
        };
        assert_eq!(
            form(load(MemoryBackend::File("/m".into()))),
            json!({
                "snapshot_path": "/s",
                "mem_backend": {"backend_type": "File", "backend_path": "/m"},
                "track_dirty_pages": true,
                "resume_vm": false,
                "network_overrides": [{"iface_id": "eth0", "host_dev_name": "tap7"}],
            })
        );
        let uffd = form(load(MemoryBackend::Uffd("/u".into())));
        assert_eq!(
            uffd["mem_backend"],
            json!({"backend_type": "Uffd", "backend_path": "/u"})
        );
    }

    #[test]
    fn limits_leave_out_what_has_none() {
        let bucket = TokenBucket {
            size: 1 << 20,
            refill_time: 100,
            one_time_burst: None,
        };
        let nic = NetworkInterface {
            iface_id: "eth0".into(),
            host_dev_name: "tap0".into(),
            guest_mac: None,
            rx_rate_limiter: Some(RateLimiter {
                bandwidth: Some(bucket),
                ops: None,
            }),
            tx_rate_limiter: None,
        };
        let limiter = json!({"bandwidth": {"size": 1_048_576, "refill_time": 100}});
        assert_eq!(
            form(nic),
            json!({"iface_id": "eth0", "host_dev_name": "tap0", "rx_rate_limiter": limiter})
        );
    }

    #[test]
    fn answers_are_read() {
        let text =
            r#"{"id":"x","state":"Not started","vmm_version":"1.16.1","app_name":"Firecracker"}"#;
        let info: InstanceInfo = serde_json::from_str(text).unwrap();
        assert_eq!(
            (info.state, info.vmm_version.as_str()),
            (State::NotStarted, "1.16.1")
        );
        let text =
            r#"{"target_pages":0,"actual_pages":0,"target_mib":0,"actual_mib":0,"free_memory":7}"#;
        let statistics: BalloonStatistics = serde_json::from_str(text).unwrap();
        assert_eq!(
            (statistics.free_memory, statistics.total_memory),
            (Some(7), None)
        );
    }
}
