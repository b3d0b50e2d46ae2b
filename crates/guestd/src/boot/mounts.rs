//! File systems of the kernel, before and after the root disk is there.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::{BootError, CGROUP_ROOT};
use crate::cover::create_dir_at;

const SAFE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const SEALED: MsFlags = SAFE.union(MsFlags::MS_NOEXEC);

/// File systems for tracing, BPF and security, as systemd mounts them.
const OPTIONAL: [(&str, &str, &str); 4] = [
    ("bpf", "/sys/fs/bpf", "mode=700"),
    ("securityfs", "/sys/kernel/security", ""),
    ("debugfs", "/sys/kernel/debug", "mode=700"),
    ("tracefs", "/sys/kernel/tracing", "mode=700"),
];

/// Directory that only root may enter, with a second `/proc`, over which nothing is mounted.
///
/// The kernel lets a user namespace mount one of its own only where it sees such a one
/// (`mount_too_revealing` in fs/namespace.c), and over the first lies the boot id
/// ([`crate::identity`]). Containers of systemd-nspawn have one for the same reason. The check does
/// not ask for a way to it, and root may hide processes by options of the first (`hidepid=`,
/// proc(5)): so other users have no way.
const ROOTS_DIR: &str = "/run/wrenn/private";

/// Mount points of the kernel's file systems.
pub const KERNEL_DIRS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Mounts the kernel's file systems: in the initramfs, since they are needed to find the root disk,
/// and in the new root.
pub fn mount_kernel_filesystems() -> Result<(), BootError> {
    required("proc", "/proc", SEALED, "")?;
    required("sysfs", "/sys", SEALED, "")?;
    required("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755")
}

/// Mounts everything else that programs expect. `/tmp` stays as in the image, where that has one
/// that can be written.
pub fn mount_other_filesystems() -> Result<(), BootError> {
    let terminals = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);
    required(
        "devpts",
        "/dev/pts",
        terminals,
        "gid=5,mode=620,ptmxmode=666",
    )?;
    required("tmpfs", "/dev/shm", SAFE, "mode=1777")?;
    super::run_dir::prepare_run_dir();
    for (kind, target) in [("cgroup2", CGROUP_ROOT), ("mqueue", "/dev/mqueue")] {
        // A kernel without it makes a guest without limits, or without message queues; both are of
        // use.
        if let Err(e) = required(kind, target, SEALED, "") {
            eprintln!("envd: {e}");
        }
    }
    if let Err(e) = mount_plain_proc() {
        eprintln!("envd: rootless containers cannot mount a /proc: {e}");
    }
    for (name, target) in [
        ("fd", ""),
        ("stdin", "/0"),
        ("stdout", "/1"),
        ("stderr", "/2"),
    ] {
        // There already where the kernel made it.
        let _ = symlink(format!("/proc/self/fd{target}"), format!("/dev/{name}"));
    }
    // Old programs, and Java, read their list of file systems there.
    let _ = symlink("../proc/self/mounts", "/etc/mtab");
    for (kind, target, options) in OPTIONAL {
        // The folder is there where the kernel has it.
        if Path::new(target).is_dir() {
            let _ = required(kind, target, SEALED, options);
        }
    }
    temporary_folder(Path::new("/tmp"));
    // As systemd does: what is mounted later is seen in the mount namespaces of containers that ask
    // for it.
    let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
    if let Err(e) = mount(None::<&str>, "/", None::<&str>, shared, None::<&str>) {
        eprintln!("envd: mounts are not shared with namespaces of containers: {e}");
    }
    Ok(())
}

fn mount_plain_proc() -> io::Result<()> {
    let target = Path::new(ROOTS_DIR).join("proc");
    fs::create_dir_all(&target)?;
    fs::set_permissions(ROOTS_DIR, Permissions::from_mode(0o700))?;
    let kind = Some("proc");
    Ok(mount(kind, &target, kind, SEALED, None::<&str>)?)
}

/// Makes `/tmp` of an image that has none, or has it on a disk that cannot be written.
fn temporary_folder(path: &Path) {
    let made = match path.is_dir() {
        true => Ok(()),
        false => create_dir_at(Path::new("/"), path)
            .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o1777))),
    };
    let is_read_only = statvfs(path).is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY));
    if is_read_only && let Err(e) = required("tmpfs", "/tmp", SAFE, "mode=1777") {
        eprintln!("envd: {e}");
    } else if let Err(e) = made {
        eprintln!("envd: /tmp cannot be made: {e}");
    }
}

fn required(kind: &str, target: &str, flags: MsFlags, data: &str) -> Result<(), BootError> {
    // Where this fails, so does the mount, and that says why.
    let _ = fs::create_dir_all(target);
    match mount(Some(kind), Path::new(target), Some(kind), flags, Some(data)) {
        // The kernel may have mounted it on its own.
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(source) => Err(BootError::Mount {
            what: kind.to_owned(),
            target: target.into(),
            source,
        }),
    }
}
