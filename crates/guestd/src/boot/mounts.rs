//! File systems of the kernel, before and after the root disk is there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::{BootError, CGROUP_ROOT};

const SAFE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const SEALED: MsFlags = SAFE.union(MsFlags::MS_NOEXEC);

/// `/proc`, `/sys`, `/dev`: what it takes to find the root disk. They move along to the new root.
pub fn kernel() -> Result<(), BootError> {
    required("proc", "/proc", SEALED, "")?;
    required("sysfs", "/sys", SEALED, "")?;
    required("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755")
}

/// Everything else that programs expect. `/tmp` stays what the image has.
pub fn rest() -> Result<(), BootError> {
    let terminals = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);
    required("devpts", "/dev/pts", terminals, "gid=5,mode=620,ptmxmode=666")?;
    required("tmpfs", "/dev/shm", SAFE, "mode=1777")?;
    required("tmpfs", "/run", SAFE, "mode=0755")?;
    for (kind, target) in [("cgroup2", CGROUP_ROOT), ("mqueue", "/dev/mqueue")] {
        // A kernel without it makes a guest without limits, or without message queues; both are of use.
        if let Err(e) = required(kind, target, SEALED, "") {
            eprintln!("envd: {e}");
        }
    }
    for (name, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        // There already where the kernel made it.
        let _ = symlink(format!("/proc/self/fd{target}"), format!("/dev/{name}"));
    }
    // Programs that expect it complain for themselves.
    let _ = fs::create_dir("/run/lock");
    Ok(())
}

fn required(kind: &str, target: &str, flags: MsFlags, data: &str) -> Result<(), BootError> {
    // Where this fails, so does the mount, and that says why.
    let _ = fs::create_dir_all(target);
    match mount(Some(kind), Path::new(target), Some(kind), flags, Some(data)) {
        // The kernel may have mounted it on its own.
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(source) => Err(BootError::Mount { what: kind.to_owned(), target: target.into(), source }),
    }
}
