//! Moves the calling thread into a jail; its children are born there.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Uid};
use rustix::mount::{MountAttrFlags, MoveMountFlags, move_mount};

use super::{Device, Jail, Tree, template, tree};
use crate::netns;

/// Size of the root file system, which only holds the directories of all paths; a jail's user
/// cannot write there.
const ROOT_SIZE: &str = "1m";

/// Moves the calling thread into the jail. After an error the thread is of no use any more.
pub(super) fn enter(jail: &Jail, netns: Option<File>) -> io::Result<()> {
    // setns(2) refuses a mount namespace to a thread that shares root and working directory.
    unshare(CloneFlags::CLONE_FS)?;
    setns(jail.template.as_fd(), CloneFlags::CLONE_NEWNS)
        .map_err(context("enter the empty mount namespace"))?;
    let namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC;
    unshare(namespaces).map_err(context("make namespaces"))?;
    match netns {
        Some(netns) => netns::set(&netns).map_err(context("enter the network namespace"))?,
        None => {
            unshare(CloneFlags::CLONE_NEWNET).map_err(context("make an empty network namespace"))?
        }
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let root = tree::memory(ROOT_SIZE).map_err(context("make a root"))?;
    move_mount(
        &root,
        c"",
        CWD,
        template::PLACE,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(context("attach the root"))?;
    furnish(jail, &root)?;
    tree::set_attributes(&root, MountAttrFlags::MOUNT_ATTR_RDONLY)
        .map_err(context("make the root read-only"))?;
    template::switch_root(&root).map_err(context("change the root"))
}

fn furnish(jail: &Jail, root: &OwnedFd) -> io::Result<()> {
    for (path, target) in &jail.links {
        rustix::fs::symlinkat(target, root, relative(path)).map_err(at("link", path))?;
    }
    // A directory before what is in it.
    let mut trees: Vec<&Tree> = jail.trees.iter().collect();
    trees.sort_by(|a, b| a.path.cmp(&b.path));
    for tree in trees {
        attach(root, tree).map_err(|error| at("show", &tree.path)(error))?;
    }
    for device in &jail.devices {
        make_device(root, device, jail)
            .map_err(|error| at("make the device", &device.path)(error))?;
    }
    Ok(())
}

fn attach(root: &OwnedFd, tree: &Tree) -> rustix::io::Result<()> {
    let place = relative(&tree.path);
    if rustix::fs::statat(root, place, AtFlags::empty()).is_err() {
        if tree.is_dir {
            make_dirs(root, place)?;
        } else {
            make_dirs(root, place.parent().unwrap_or(Path::new("")))?;
            // Not opened: a child that is forked elsewhere at this moment would keep it open for
            // writing for a while, and the root could not be made read-only.
            rustix::fs::mknodat(root, place, FileType::RegularFile, Mode::empty(), 0)?;
        }
    }
    move_mount(
        &tree.mount,
        c"",
        root,
        place,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

fn make_device(root: &OwnedFd, device: &Device, jail: &Jail) -> rustix::io::Result<()> {
    let place = relative(&device.path);
    make_dirs(root, place.parent().unwrap_or(Path::new("")))?;
    let kind = if device.is_block {
        FileType::BlockDevice
    } else {
        FileType::CharacterDevice
    };
    rustix::fs::mknodat(root, place, kind, Mode::from_raw_mode(0o600), device.number)?;
    let uid = Uid::from_raw(jail.uid);
    let gid = Gid::from_raw(jail.gid);
    rustix::fs::chownat(root, place, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

fn make_dirs(root: &OwnedFd, path: &Path) -> rustix::io::Result<()> {
    for dir in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
        if dir.as_os_str().is_empty() {
            continue;
        }
        match rustix::fs::mkdirat(root, dir, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns an absolute path as relative to the root's descriptor. The root is still empty, so no
/// link leads out of it.
fn relative(path: &Path) -> &Path {
    let mut components = path.components();
    while components.as_path().as_os_str().as_bytes().first() == Some(&b'/') {
        if components.next() != Some(Component::RootDir) {
            break;
        }
    }
    components.as_path()
}

fn context<E: Into<io::Error>>(action: &'static str) -> impl Fn(E) -> io::Error {
    move |error| {
        let error = error.into();
        io::Error::new(error.kind(), format!("cannot {action} for a jail: {error}"))
    }
}

fn at<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl Fn(E) -> io::Error {
    move |error| {
        let error = error.into();
        io::Error::new(
            error.kind(),
            format!("cannot {action} {} in a jail: {error}", path.display()),
        )
    }
}
