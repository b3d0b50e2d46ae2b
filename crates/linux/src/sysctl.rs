//! Kernel settings below `/proc/sys`. Those of `net` are of the calling thread's network namespace.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

const PROC: &str = "/proc";

fn path(name: &str) -> PathBuf {
    Path::new(PROC).join(below_proc(name))
}

fn below_proc(name: &str) -> PathBuf {
    Path::new("sys").join(name)
}

/// Reads a setting, for example `net/ipv4/ip_forward`.
///
/// # Errors
/// `NotFound` when this kernel has none of that name.
pub fn get(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path(name))?.trim().to_owned())
}

/// Sets a setting unless it has that value.
///
/// # Errors
/// `NotFound` when this kernel has none of that name, `PermissionDenied` or `ReadOnlyFilesystem`
/// when we may not.
pub fn set(name: &str, value: &str) -> io::Result<()> {
    if get(name)? == value {
        return Ok(());
    }
    fs::write(path(name), value)
}

/// Procfs of our own, mounted nowhere, for settings of one network namespace among many.
///
/// In one procfs the files of the same setting in all namespaces have the same name in the same
/// directory, and so share one chain of the kernel's dentry cache, which every open walks: half a
/// millisecond among 500 namespaces.
#[derive(Debug)]
pub struct Settings(OwnedFd);

impl Settings {
    /// Mounts a procfs, or opens the machine's where that is impossible.
    ///
    /// # Errors
    /// When there is no procfs at all.
    pub fn new() -> io::Result<Self> {
        // A kernel before 5.2, or a container that may not mount one, uses the machine's.
        own_procfs()
            .or_else(|_| Ok(File::open(PROC)?.into()))
            .map(Self)
    }

    /// Sets a setting as the function [`set`].
    ///
    /// # Errors
    /// As [`set`].
    pub fn set(&self, name: &str, value: &str) -> io::Result<()> {
        let file = openat(
            &self.0,
            below_proc(name),
            OFlags::RDWR | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut file = File::from(file);
        let mut now = String::new();
        file.read_to_string(&mut now)?;
        // At offset 0: a write further on has no effect (proc_sys(5), `sysctl_writes_strict`).
        if now.trim() == value {
            Ok(())
        } else {
            file.write_all_at(value.as_bytes(), 0)
        }
    }
}

fn own_procfs() -> io::Result<OwnedFd> {
    let procfs = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&procfs)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&procfs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns;

    #[test]
    fn setting_affects_its_namespace_only() {
        let one = format!("wtest-set-{}", std::process::id());
        let other = format!("wtest-unset-{}", std::process::id());
        netns::create(&one).unwrap();
        netns::create(&other).unwrap();
        let port = "net/ipv4/ip_unprivileged_port_start";
        netns::enter(&one, move || {
            let settings = Settings::new()?;
            settings.set(port, "80")?;
            settings.set(port, "80")?;
            assert_eq!(get(port)?, "80");
            assert_eq!(
                settings.set("net/ipv4/none", "1").unwrap_err().kind(),
                io::ErrorKind::NotFound
            );
            Ok(())
        })
        .unwrap();
        assert_eq!(netns::enter(&other, move || get(port)).unwrap(), "1024");
        netns::remove(&one).unwrap();
        netns::remove(&other).unwrap();
    }
}
