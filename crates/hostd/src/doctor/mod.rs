//! Finds out what this host can do, by doing it, and says what to type where something is missing.
//!
//! Changes nothing that outlasts the examination.

mod checks;
mod firewall;
mod limits;
mod network;

use std::net::SocketAddr;

use serde::Serialize;
use vmm::engine;

use crate::config::Config;
use crate::disk;
use crate::images::Images;

pub use limits::shared_limits;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Ok,
    /// Sandboxes run without it, but slower or with less.
    Warning,
    /// No sandbox can run without it.
    Missing,
}

/// Result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub status: Status,
    /// Finding, for people.
    pub found: String,
    /// Command to type, or advice, where something is missing or could be better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            found: found.into(),
            fix: None,
        }
    }

    fn warning(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Warning,
            found: found.into(),
            fix: Some(fix.into()),
        }
    }

    fn missing(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Missing,
            found: found.into(),
            fix: Some(fix.into()),
        }
    }
}

/// Results of all checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// True if a sandbox can run here now: nothing is [`Status::Missing`].
    pub can_run: bool,
    /// VMM, accelerator and disk backend that the agent would use: `firecracker` or `qemu`; `kvm`
    /// or `tcg`; `dm`, `reflink`, `qcow2` or `copy`. Absent if none works.
    pub vmm: Option<&'static str>,
    pub accelerator: Option<&'static str>,
    pub disk_backend: Option<&'static str>,
    pub checks: Vec<Check>,
}

/// Examines the host for an agent with these settings. `ports` are those that programs here want to
/// listen on. Blocking, for some seconds at most.
#[must_use]
pub fn examine_host(config: &Config, ports: &[SocketAddr]) -> Report {
    let engine = engine::choose(&config.engine.wanted);
    let disks = choose_disk(config, &engine);
    let mut checks = vec![
        checks::check_kernel(),
        checks::check_privileges(),
        checks::check_engine(&engine),
        checks::check_firecracker(config),
        checks::check_kvm(),
        checks::check_tun(),
        checks::check_network(config),
        checks::check_forwarding(),
        network::check_addresses(config),
        network::check_connections(config),
        firewall::check_forwarding_rules(),
        checks::check_ipv6(config),
        checks::check_jail(config),
        checks::check_cgroups(),
        checks::loop_devices(),
        checks::device_mapper(),
        checks::check_disks(&disks),
        checks::check_directory(&config.dir),
        checks::check_disk_space(config),
        checks::check_memory(memory_bytes()),
        checks::check_packages(),
        checks::check_guest_kernel(config),
        checks::check_guest_agent(config),
        checks::check_templates(config),
        checks::check_checksums(config),
    ];
    checks.extend(ports.iter().map(checks::check_port));
    let disk = disks.ok().map(|chosen| chosen.backend.name());
    let can_run = checks.iter().all(|check| check.status != Status::Missing);
    let engine = engine.ok();
    Report {
        can_run,
        vmm: engine.as_ref().map(|engine| engine.vmm),
        accelerator: engine.as_ref().map(|engine| engine.accel),
        disk_backend: disk,
        checks,
    }
}

fn choose_disk(
    config: &Config,
    engine: &Result<engine::Engine, engine::Error>,
) -> Result<disk::Chosen, disk::Error> {
    let images = Images::new(&config.paths.images)
        .list_images()
        .unwrap_or_default();
    let image = images.first().map(|image| image.path.as_path());
    let qcow2 = engine
        .as_ref()
        .is_ok_and(|engine| engine.driver.supports(vmm::DiskFormat::Qcow2));
    disk::choose_backend(
        config.disks.backend,
        &existing(&config.paths.sandboxes),
        image,
        qcow2,
    )
}

/// Returns the path itself, or the nearest existing directory above it.
fn existing(path: &std::path::Path) -> std::path::PathBuf {
    path.ancestors()
        .find(|path| path.is_dir())
        .unwrap_or(std::path::Path::new("/"))
        .to_owned()
}

/// Returns true if the effective user id is 0 (proc(5), `/proc/self/status`).
#[must_use]
pub fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    line.and_then(|line| line.split_ascii_whitespace().nth(1)) == Some("0")
}

/// Returns the memory of this machine in bytes; 0 if `/proc/meminfo` cannot be read.
#[must_use]
pub fn memory_bytes() -> u64 {
    meminfo("MemTotal:")
}

fn meminfo(field: &str) -> u64 {
    let table = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = table.lines().find_map(|line| line.strip_prefix(field));
    let kib = line
        .and_then(|line| line.split_ascii_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_that_is_not_ok_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::for_dir(dir.path()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let report = examine_host(&config, &[listener.local_addr().unwrap()]);
        for check in &report.checks {
            assert_eq!(check.status == Status::Ok, check.fix.is_none(), "{check:?}");
            assert!(!check.found.is_empty(), "{check:?}");
        }
        let status = |name: &str| {
            report
                .checks
                .iter()
                .find(|check| check.name == name)
                .map(|check| check.status)
        };
        assert_eq!(status("guest kernel"), Some(Status::Missing));
        assert_eq!(status("templates"), Some(Status::Missing));
        assert_eq!(status("port"), Some(Status::Warning));
        assert!(!report.can_run);
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "an examination leaves nothing"
        );
    }
}
