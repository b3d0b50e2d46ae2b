//! Named network namespaces: a file below [`DIR`] on which the namespace is mounted, as `ip netns`
//! makes them.
//!
//! [`DIR`] is a mount of our own, which is private: what others mount on `/run/netns`
//! (`ip netns add`, CNI plugins and Podman lay that directory over itself once, with all that is
//! mounted below it) does not hide our handles, and our handles are copied nowhere. Handles of
//! agents before this one are in [`SHARED_DIR`]; they are opened, listed and removed there.
//!
//! Creation order: file (exclusive: it claims the name), namespace, mount. If the process dies in
//! between, a file without a mount is left, which [`remove`] takes away just as well.
//!
//! A handle can be mounted a second time where we do not reach it: below a mount that was laid over
//! the directory later, or in a copy of `/run` (`mount --rbind`). The kernel then refuses to unlink
//! the file, but only in mount namespaces that have such a mount. [`remove`] unlinks it from one
//! that has none; that detaches the mounts everywhere.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{chdir, pivot_root};
use stdx::io::OptionalExt;

use crate::file::{self, Lock};

/// Directory of the handles.
pub const DIR: &str = "/run/wrenn/netns";
/// Directory that iproute2, CNI plugins and Podman share, and where agents of before kept their
/// handles, too.
pub const SHARED_DIR: &str = "/run/netns";
/// Longest wait for another process that mounts [`DIR`] at the same time.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(10);
/// Mount options of [`DIR`]: handles are empty files.
const MOUNT_OPTIONS: &str = "mode=0700,size=1m,nr_inodes=100000";

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Returns the path of an existing handle.
fn find(name: &str) -> Option<PathBuf> {
    [DIR, SHARED_DIR]
        .map(|dir| Path::new(dir).join(name))
        .into_iter()
        .find(|path| path.exists())
}

/// Returns true if there is a handle of that name.
#[must_use]
pub fn exists(name: &str) -> bool {
    find(name).is_some()
}

/// Mounts [`DIR`] unless it is mounted.
fn mount_dir() -> io::Result<()> {
    if is_mounted()? {
        return Ok(());
    }
    let parent = Path::new(DIR).parent().unwrap_or(Path::new("/"));
    file::ensure_private_dir(parent)?;
    // Two mounts on top of each other would hide the handles in the lower one.
    let _lock = Lock::take_within(&parent.join("netns.lock"), MOUNT_TIMEOUT)?;
    if is_mounted()? {
        return Ok(());
    }
    file::ensure_private_dir(Path::new(DIR))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("wrenn-netns"),
        DIR,
        Some("tmpfs"),
        flags,
        Some(MOUNT_OPTIONS),
    )?;
    Ok(mount(
        None::<&str>,
        DIR,
        None::<&str>,
        MsFlags::MS_PRIVATE,
        None::<&str>,
    )?)
}

/// Returns true if [`DIR`] is a mount, which has a device number of its own.
fn is_mounted() -> io::Result<bool> {
    let parent = Path::new(DIR).parent().unwrap_or(Path::new("/"));
    match (fs::metadata(DIR), fs::metadata(parent)) {
        (Ok(dir), Ok(parent)) => Ok(dir.dev() != parent.dev()),
        (Err(error), _) | (_, Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(false),
    }
}

/// Creates the namespace.
///
/// # Errors
/// `AlreadyExists` when the name is taken, also by another program; otherwise the kernel's error.
/// On error nothing is left.
pub fn create(name: &str) -> io::Result<()> {
    mount_dir()?;
    if Path::new(SHARED_DIR).join(name).exists() {
        let problem = format!("{SHARED_DIR}/{name} exists already");
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
    }
    let path = path(name);
    drop(File::options().write(true).create_new(true).open(&path)?);
    let made = on_own_thread({
        let path = path.clone();
        move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let own = Path::new("/proc/thread-self/ns/net");
            mount(
                Some(own),
                &path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?;
            Ok(())
        }
    });
    if made.is_err() {
        let _ = fs::remove_file(&path);
    }
    made
}

/// Removes the name, in all mount namespaces; the namespace goes with its last process. A name that
/// does not exist is no error.
///
/// # Errors
/// The error of umount(2) or unlink(2).
pub fn remove(name: &str) -> io::Result<()> {
    remove_from(Path::new(DIR), name)?;
    remove_from(Path::new(SHARED_DIR), name)
}

fn remove_from(dir: &Path, name: &str) -> io::Result<()> {
    let path = dir.join(name);
    loop {
        match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // EINVAL: a file, but nothing (more) mounted on it.
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            unlink_elsewhere(dir.to_owned(), name.to_owned())
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Unlinks a file on which something is mounted, from a mount namespace whose only mount is the
/// file's directory.
fn unlink_elsewhere(dir: PathBuf, name: String) -> io::Result<()> {
    on_own_thread(move || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )?;
        // Not recursive: the copy has no handles on it.
        mount(
            Some(&dir),
            &dir,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
        chdir(&dir)?;
        // The old root ends up on top of the new one (pivot_root(2)), and is detached with all
        // below it.
        pivot_root(".", ".")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        fs::remove_file(Path::new("/").join(name))
    })
}

/// Returns the names of all namespaces that begin with `prefix`.
///
/// # Errors
/// When a directory of handles cannot be read; that it does not exist is an empty list.
pub fn list(prefix: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for dir in [DIR, SHARED_DIR] {
        let Some(entries) = fs::read_dir(dir).optional()? else {
            continue;
        };
        names.extend(
            entries
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok()),
        );
    }
    names.retain(|name| name.starts_with(prefix));
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

pub(crate) fn open(name: &str) -> io::Result<File> {
    File::open(find(name).unwrap_or_else(|| path(name)))
}

/// Moves the calling thread into the namespace. Async-signal-safe.
pub(crate) fn set(namespace: &File) -> io::Result<()> {
    Ok(setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?)
}

/// Runs `work` inside the namespace, on a thread that is thrown away afterwards, so that no thread
/// of ours ever stays in a foreign namespace. `work` may block. Programs it starts are in the
/// namespace too.
///
/// # Errors
/// `NotFound` when there is no such namespace, or the error of `work`.
pub fn enter<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let namespace = open(name)?;
    on_own_thread(move || {
        set(&namespace)?;
        work()
    })
}

fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let thread = std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(work)?;
    thread
        .join()
        .map_err(|_| io::Error::other("the thread in the network namespace panicked"))?
}

#[cfg(test)]
mod tests;
