//! From the kernel's first instruction in user space to a machine that can serve.
//!
//! The initramfs has this program as `/init` and kernel modules in `/modules`. In order: the
//! kernel's file systems, modules, root disk, switch of the root, the rest of the file systems,
//! network, kernel settings, names. All of it is one thread, before the runtime starts. The root
//! file system is grown to the size of its disk; else nothing is written to it but missing mount
//! points, `/etc/resolv.conf` where it names no server that can be reached, and a line of
//! `/etc/hosts`; so dying at any step leaves a disk that boots again. Any root file system is a
//! good guest: a read-only or full one boots, too, if the mount points are there. A step that the
//! machine cannot serve without ends the boot: see [`power_off`].

mod cmdline;
mod limits;
mod module_disk;
mod modules;
mod mounts;
mod network;
mod resolver;
mod root;
mod run_dir;
mod sysctl;
mod tmpfiles;

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::reboot::{RebootMode, reboot};

pub use cmdline::Cmdline;
pub(crate) use network::ETHERNET;

/// Mount point of cgroup2 in a guest.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Reason why a guest cannot boot.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error(
        "this is no initramfs: boot with an initramfs that has envd as /init, not from a disk with init=envd"
    )]
    NotInitramfs,
    #[error("{what} cannot be mounted on {}", target.display())]
    Mount {
        what: String,
        target: PathBuf,
        #[source]
        source: Errno,
    },
    #[error("/proc/cmdline cannot be read")]
    Cmdline(#[source] io::Error),
    #[error("kernel module {} cannot be loaded", path.display())]
    Module {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the root device {} did not appear within {seconds} s: check wrenn.root= and the modules for its bus",
        device.display()
    )]
    NoRootDevice { device: PathBuf, seconds: u64 },
    #[error("the root disk cannot be switched to ({step})")]
    SwitchRoot {
        step: &'static str,
        #[source]
        source: Errno,
    },
    #[error(
        "the image has no directory {path}, and none can be made on its disk: make it in the image"
    )]
    NoMountPoint {
        path: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("interface {name} cannot be configured")]
    Network {
        name: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Makes the machine. Only as PID 1, only once.
///
/// # Errors
/// [`BootError`]: the guest is of no use then.
pub fn boot() -> Result<Cmdline, BootError> {
    root::check_is_initramfs()?;
    mounts::mount_kernel_filesystems()?;
    let cmdline = Cmdline::read().map_err(BootError::Cmdline)?;
    modules::load_all()?;
    root::switch_root(&cmdline.root)?;
    mounts::mount_other_filesystems()?;
    module_disk::mount_module_disk();
    limits::raise_limits();
    network::configure_links()?;
    sysctl::apply_all();
    resolver::write_name_servers(&cmdline.dns);
    name(&cmdline);
    Ok(cmdline)
}

/// Sets the host name: the one on the command line, else the image's own, else `sandbox`.
fn name(cmdline: &Cmdline) {
    let of_image = || {
        let text = std::fs::read_to_string("/etc/hostname").ok()?;
        text.split_whitespace().next().map(str::to_owned)
    };
    let name = cmdline
        .hostname
        .clone()
        .or_else(of_image)
        .unwrap_or_else(|| "sandbox".to_owned());
    if let Err(e) = nix::unistd::sethostname(&name) {
        eprintln!("envd: the host name '{name}' was refused: {e}");
    }
    crate::identity::name_host(Path::new("/"), &name);
}

/// Writes everything to disk and switches the machine off. Does not come back where it may do that.
pub fn power_off() {
    nix::unistd::sync();
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("envd: the machine cannot be switched off: {error}");
}
