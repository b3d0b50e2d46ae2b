//! The client against a real Firecracker, as far as that goes without KVM: up to the start of a
//! guest.
//!
//! Runs where `FIRECRACKER_BIN` is set or `firecracker` is on the PATH; elsewhere it says that it
//! does not.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use linux::process::{Process, Spawn};
use serde_json::json;
use tempfile::TempDir;
use vmm::Error;
use vmm::engine::{Wanted, find_firecracker};
use vmm::firecracker::api::{
    Action, Balloon, BootSource, CacheType, Drive, Entropy, HugePages, LogLevel, Logger,
    MachineConfig, MemoryBackend, Metrics, MmdsConfig, MmdsVersion, RateLimiter, Serial,
    SnapshotCreate, SnapshotLoad, SnapshotType, State, TokenBucket, VmUpdate,
};
use vmm::firecracker::{Client, SOCKET};

struct Firecracker {
    client: Client,
    process: Process,
    dir: TempDir,
}

impl Firecracker {
    /// `None`, said loudly, where there is none.
    async fn start() -> Option<Self> {
        let wanted = Wanted {
            firecracker: std::env::var_os("FIRECRACKER_BIN").map(PathBuf::from),
            ..Wanted::default()
        };
        let (program, _) = find_firecracker(&wanted)
            .inspect_err(|error| {
                drop(writeln!(
                    io::stderr(),
                    "\n*** FIRECRACKER IS SKIPPED: {error} ***\n"
                ))
            })
            .ok()?;
        let dir = tempfile::tempdir().expect("a directory");
        let args = ["--api-sock", SOCKET].map(Into::into).to_vec();
        let spawn = Spawn {
            program,
            args,
            cwd: Some(dir.path().into()),
            ..Spawn::default()
        };
        let process = spawn.spawn().expect("Firecracker starts");
        let client = Client::new(dir.path());
        for _ in 0..1000 {
            if client.instance().await.is_ok() {
                return Some(Self {
                    client,
                    process,
                    dir,
                });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("Firecracker does not serve its socket");
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).expect("a file");
        path
    }
}

impl Drop for Firecracker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait(Duration::from_secs(10));
    }
}

fn reason<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Refused { reason, .. }) => reason,
        other => panic!("it is not refused: {other:?}"),
    }
}

fn drive(path: &Path) -> Drive {
    let bucket = TokenBucket {
        size: 1 << 20,
        refill_time: 1000,
        one_time_burst: Some(1 << 21),
    };
    Drive {
        drive_id: "disk".into(),
        path_on_host: path.into(),
        is_root_device: false,
        is_read_only: false,
        cache_type: CacheType::Writeback,
        rate_limiter: Some(RateLimiter {
            bandwidth: Some(bucket),
            ops: None,
        }),
    }
}

#[tokio::test]
async fn every_resource_is_accepted_before_start() {
    let Some(firecracker) = Firecracker::start().await else {
        return;
    };
    let client = &firecracker.client;
    let instance = client.instance().await.unwrap();
    assert_eq!(instance.state, State::NotStarted);
    let log_path = Some(firecracker.file("log", b""));
    let logger = Logger {
        log_path,
        level: LogLevel::Info,
        show_level: true,
        show_log_origin: false,
    };
    client.logger(&logger).await.unwrap();
    client
        .metrics(&Metrics {
            metrics_path: firecracker.file("metrics", b""),
        })
        .await
        .unwrap();
    client
        .serial(&Serial {
            serial_out_path: firecracker.file("console", b""),
            rate_limiter: None,
        })
        .await
        .unwrap();
    let machine = MachineConfig {
        vcpu_count: 2,
        mem_size_mib: 256,
        smt: false,
        track_dirty_pages: true,
        huge_pages: HugePages::None,
    };
    client.machine_config(&machine).await.unwrap();
    client
        .cpu_config(&json!({"cpuid_modifiers": []}))
        .await
        .unwrap();
    client
        .drive(&drive(&firecracker.file("disk", &[0; 4096])))
        .await
        .unwrap();
    client.entropy(&Entropy::default()).await.unwrap();
    let balloon = Balloon {
        amount_mib: 0,
        deflate_on_oom: true,
        stats_polling_interval_s: 1,
    };
    client.balloon(&balloon).await.unwrap();
    client.mmds(&json!({"name": "vm"})).await.unwrap();
    let source = BootSource {
        kernel_image_path: firecracker.file("kernel", &[0x5a; 4096]),
        initrd_path: None,
        boot_args: Some("quiet".into()),
    };
    client.boot_source(&source).await.unwrap();
    assert!(reason(client.action(Action::FlushMetrics).await).contains("before starting"));
    assert!(reason(client.action(Action::InstanceStart).await).len() > 10);
    assert!(
        fs::read_to_string(firecracker.dir.path().join("log"))
            .unwrap()
            .contains("InstanceStart")
    );
}

#[tokio::test]
async fn mistakes_come_with_firecrackers_words() {
    let Some(firecracker) = Firecracker::start().await else {
        return;
    };
    let client = &firecracker.client;
    let machine = MachineConfig {
        vcpu_count: 100_000,
        mem_size_mib: 256,
        smt: false,
        track_dirty_pages: false,
        huge_pages: HugePages::None,
    };
    assert!(reason(client.machine_config(&machine).await).contains("100000"));
    assert!(
        reason(client.drive(&drive(Path::new("/nonexistent/disk"))).await).contains("os error 2")
    );
    let mmds = MmdsConfig {
        version: MmdsVersion::V2,
        network_interfaces: vec!["eth7".into()],
    };
    assert!(reason(client.mmds_config(&mmds).await).contains("network interface"));
    assert!(reason(client.vm(VmUpdate::Paused).await).contains("not supported"));
    let snapshot = SnapshotCreate {
        snapshot_type: SnapshotType::Diff,
        snapshot_path: "state".into(),
        mem_file_path: "memory".into(),
    };
    assert!(reason(client.create_snapshot(&snapshot, 0).await).contains("not supported"));
    assert!(!reason(client.balloon_statistics().await).is_empty());
}

#[tokio::test]
async fn invalid_snapshot_is_refused() {
    let Some(firecracker) = Firecracker::start().await else {
        return;
    };
    let load = SnapshotLoad {
        snapshot_path: firecracker.file("state", &[0; 4096]),
        mem_backend: MemoryBackend::File(firecracker.file("memory", &[0; 4096])),
        track_dirty_pages: true,
        resume_vm: false,
        network_overrides: vec![],
    };
    assert!(reason(firecracker.client.load_snapshot(&load, 0).await).contains("snapshot"));
    // It ends after that, by itself.
    assert!(
        firecracker
            .process
            .wait(Duration::from_secs(10))
            .unwrap()
            .is_some()
    );
    assert!(matches!(
        firecracker.client.instance().await,
        Err(Error::Io { .. })
    ));
}
