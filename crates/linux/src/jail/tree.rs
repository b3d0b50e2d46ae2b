//! Mounts that are attached nowhere yet.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::libc;
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, open_tree,
};

/// Access of the jail's user to a file or directory, as far as its owner and mode let it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    /// For a directory that is not its own: it creates no names there, but may open and change the
    /// files that belong to it.
    OpenFiles,
}

/// Opens a second mount of `path`, without the mounts below it, cut off from later mounts of the
/// host.
pub(super) fn open(path: &Path, access: Access) -> io::Result<OwnedFd> {
    let tree = open_tree(
        CWD,
        path,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    let mut flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    match access {
        Access::Read => flags |= MountAttrFlags::MOUNT_ATTR_RDONLY,
        Access::Write | Access::OpenFiles => flags |= MountAttrFlags::MOUNT_ATTR_NOEXEC,
    }
    set_attributes(&tree, flags)?;
    Ok(tree)
}

/// Creates an empty file system in memory.
pub(super) fn memory(size: &str) -> io::Result<OwnedFd> {
    let options = [
        ("source", "jail"),
        ("size", size),
        ("nr_inodes", "1k"),
        ("mode", "0755"),
    ];
    mount_memory(
        &options,
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
}

/// Creates an empty directory in memory that belongs to the user of a jail. None of it is on disk,
/// it has no name on the host, and it goes with the last process and descriptor that has it: there
/// is nothing to clean up.
///
/// # Errors
/// The kernel's error.
pub fn memory_dir(uid: u32, gid: u32, bytes: u64, inodes: u64) -> io::Result<OwnedFd> {
    let [uid, gid, size, inodes] =
        [uid.into(), gid.into(), bytes, inodes].map(|number: u64| number.to_string());
    let options = [
        ("source", "jail"),
        ("size", &*size),
        ("nr_inodes", &*inodes),
        ("mode", "0700"),
        ("uid", &*uid),
        ("gid", &*gid),
    ];
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    mount_memory(&options, flags | MountAttrFlags::MOUNT_ATTR_NODEV)
}

fn mount_memory(options: &[(&str, &str)], flags: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value)?;
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

/// Adds attributes to one mount and makes it private (`mount_setattr(2)`).
pub(super) fn set_attributes(mount: impl AsFd, flags: MountAttrFlags) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: u64::from(flags.bits()),
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the path is a C string, and the structure lives until the call returns and has the
    // length that is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOSYS) => io::Error::new(
                io::ErrorKind::Unsupported,
                "jails need Linux 5.12 or newer (mount_setattr)",
            ),
            error => error,
        }),
    }
}
