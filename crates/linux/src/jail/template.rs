//! The mount namespace that all jails begin as: an empty, read-only file system with one directory
//! in it.
//!
//! A new mount namespace starts as a copy of the one it is made in. On a host with a thousand
//! mounts that is slow, and all starts wait for each other. So the host's is copied once, by the
//! first jail of this program, and thrown away; every jail copies this one. A descriptor holds it;
//! it goes when the program does.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use parking_lot::Mutex;
use rustix::fs::{CWD, Mode};
use rustix::mount::{
    MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount,
    unmount,
};

use super::tree;

/// Directory on which a jail attaches its root.
pub(super) const PLACE: &str = "/jail";

static TEMPLATE: Mutex<Option<File>> = Mutex::new(None);

/// Opens the template, and creates it if need be.
pub(super) fn open() -> io::Result<OwnedFd> {
    let mut template = TEMPLATE.lock();
    let namespace = match template.take() {
        Some(namespace) => namespace,
        None => on_own_thread(make)?,
    };
    Ok(template.insert(namespace).try_clone()?.into())
}

fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let thread = std::thread::Builder::new()
        .name("jail-template".to_owned())
        .spawn(work)?;
    thread
        .join()
        .map_err(|_| io::Error::other("the thread that makes the empty mount namespace panicked"))?
}

fn make() -> io::Result<File> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    let namespace = File::open("/proc/thread-self/ns/mnt")?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    let root = tree::memory("64k")?;
    rustix::fs::mkdirat(
        &root,
        PLACE.trim_start_matches('/'),
        Mode::from_raw_mode(0o700),
    )?;
    tree::set_attributes(
        &root,
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV,
    )?;
    // Anywhere will do, and this directory is there: the namespace was opened through it.
    become_root(&root, Path::new("/proc"))?;
    Ok(namespace)
}

/// Attaches a mount at `place`, makes it the root of this thread and its namespace, and lets go of
/// the old root with all its mounts.
pub(super) fn become_root(root: &OwnedFd, place: &Path) -> io::Result<()> {
    move_mount(
        root,
        c"",
        CWD,
        place,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    switch_root(root)
}

/// Does the second half of [`become_root`]: makes the attached mount the root.
pub(super) fn switch_root(root: &OwnedFd) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    // Puts the old root on top of the new one (pivot_root(2), "pivot_root(".", ".")").
    rustix::process::pivot_root(c".", c".")?;
    unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")?;
    Ok(())
}
