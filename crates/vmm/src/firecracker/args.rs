//! Firecracker's command line, and the kernel's. Pure: the same input gives the same arguments.
//!
//! The names in a snapshot are relative to the working directory, so it fits any other directory.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::VmConfig;

use super::client::SOCKET;

/// Names in the directory of the VM.
pub(super) const LOG: &str = "firecracker.log";
/// Name of the file with standard error of VMs of an earlier version.
pub(super) const STDERR: &str = "stderr.log";
pub(super) const CONSOLE: &str = "console";
pub(super) const METRICS: &str = "metrics";
pub(super) const METRICS_FILE: &str = "metrics.json";
pub(super) const STATE: &str = "state";

/// Names in Firecracker's working directory.
pub(super) const DISK: &str = "disk";
pub(super) const MODULES: &str = "modules";

/// Id of the guest's one network interface.
pub(super) const NIC: &str = "eth0";

/// Longest id that Firecracker takes.
const ID_LIMIT: usize = 64;

/// Returns Firecracker's arguments. Those after the last separator tell the Firecracker of the VM
/// in `dir` from every other process; Firecracker itself ignores them.
pub(super) fn command_line(config: &VmConfig) -> Vec<OsString> {
    let id = id(&config.name);
    let log = config.dir.join(LOG);
    let first = [
        "--id",
        &id,
        "--api-sock",
        SOCKET,
        "--level",
        "Info",
        "--log-path",
    ]
    .map(OsString::from);
    first
        .into_iter()
        .chain([log.into(), "--".into(), config.dir.clone().into()])
        .collect()
}

pub(super) fn is_of(cmdline: &[u8], dir: &Path) -> bool {
    let mut args = cmdline
        .strip_suffix(b"\0")
        .unwrap_or(cmdline)
        .rsplit(|&byte| byte == 0);
    args.next() == Some(dir.as_os_str().as_bytes())
        && args.next() == Some(b"--")
        && cmdline
            .windows(LOG.len())
            .any(|window| window == LOG.as_bytes())
}

/// Returns the kernel's arguments. A restart is a byte to the keyboard controller, on which
/// Firecracker ends; a panic ends in a restart.
pub(super) fn kernel_args(config: &VmConfig) -> String {
    let own = "console=ttyS0 reboot=k panic=-1 pci=off i8042.noaux i8042.nomux i8042.dumbkbd";
    match config.kernel_args.as_str() {
        "" => own.to_owned(),
        more => format!("{own} {more}"),
    }
}

/// Returns the letters, digits and hyphens of a name; only for people to read in the log.
fn id(name: &str) -> String {
    let clean: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(ID_LIMIT)
        .collect();
    // An id that begins like an option would be taken for one.
    match clean.strip_prefix('-') {
        Some(rest) => format!("x{rest}"),
        None if clean.is_empty() => "vm".into(),
        None => clean,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Disk, DiskFormat};

    fn config(dir: &str, name: &str) -> VmConfig {
        VmConfig {
            dir: dir.into(),
            name: name.into(),
            vcpus: 1,
            memory_mb: 128,
            kernel: "/k".into(),
            initramfs: "/i".into(),
            kernel_args: String::new(),
            disk: Disk {
                path: "/d".into(),
                format: DiskFormat::Raw,
                base: None,
                size_bytes: 1 << 20,
            },
            modules: None,
            net: None,
            jail: None,
        }
    }

    #[test]
    fn process_is_known_by_vm_directory() {
        let mut line = b"/usr/bin/firecracker\0".to_vec();
        for arg in command_line(&config("/vms/sb-1", "sb-1")) {
            line.extend(arg.as_bytes());
            line.push(0);
        }
        assert!(is_of(&line, Path::new("/vms/sb-1")));
        for other in ["/vms/sb", "/vms/sb-11", "/vms", "sb-1", ""] {
            assert!(!is_of(&line, Path::new(other)), "{other}");
        }
        assert!(!is_of(b"less\0--\0/vms/sb-1\0", Path::new("/vms/sb-1")));
        assert!(!is_of(b"", Path::new("")));
    }

    #[test]
    fn names_become_ids_that_firecracker_takes() {
        assert_eq!(id("sb-0123456789"), "sb-0123456789");
        assert_eq!(id("a=b,c d"), "a-b-c-d");
        assert_eq!(id("-S"), "xS");
        assert_eq!(id("ünï"), "xn-");
        assert_eq!(id(""), "vm");
        assert_eq!(id(&"n".repeat(100)).len(), ID_LIMIT);
    }

    #[test]
    fn the_callers_kernel_arguments_come_last() {
        let mut config = config("/vm", "vm");
        let own = kernel_args(&config);
        config.kernel_args = "quiet".into();
        assert_eq!(kernel_args(&config), format!("{own} quiet"));
    }
}
