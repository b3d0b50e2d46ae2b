//! Claims and names of networks are files below `/run`, which an ordinary machine has in memory. In
//! a container it may be on a disk, and there (ext4 without a journal, `recently_deleted` in the
//! kernel's `fs/ext4/ialloc.c`) making a file takes the longer the more were removed in the last
//! minutes: the run before would be measured.
//!
//! So networks are measured by a thread that has those directories in memory, for itself alone;
//! they vanish when it ends, however it ends. During that time no other process may claim a
//! network, whose number could be one of the bench's: the thread begins while there are no
//! networks, and holds the lock that every claim takes.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;

use anyhow::{Context, anyhow};
use hostd::network::{CLAIMS_DIR, NEXT};
use linux::file::Lock;
use linux::netns;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

/// Handles of network namespaces are in memory always.
const DIRS: [&str; 1] = [CLAIMS_DIR];

/// Runs `work` with the directories in memory. Where they are in memory already, or in use, `work`
/// runs with them as they are.
///
/// # Errors
/// The work's own; when a directory cannot be looked at, or nothing be mounted on it.
pub fn with_networks<T: Send>(
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let Some(_alone) = alone()? else {
        return work();
    };
    let in_memory = || {
        mount_here().context("keeping files of networks in memory")?;
        work()
    };
    thread::scope(|scope| {
        scope
            .spawn(in_memory)
            .join()
            .map_err(|_| anyhow!("the bench's thread panicked"))?
    })
}

/// Takes the lock of claims. `None` where the directories are in memory already, or there are
/// networks.
fn alone() -> anyhow::Result<Option<Lock>> {
    let mut are_in_memory = true;
    for dir in DIRS {
        fs::create_dir_all(dir)?;
        are_in_memory &= statfs(dir)?.filesystem_type() == TMPFS_MAGIC;
    }
    if are_in_memory {
        return Ok(None);
    }
    let Some(lock) = Lock::try_take(&Path::new(CLAIMS_DIR).join(NEXT))? else {
        return Ok(None);
    };
    Ok((is_free(CLAIMS_DIR)? && netns::list("")?.is_empty()).then_some(lock))
}

/// Returns true if it has no file but the lock.
fn is_free(dir: &str) -> io::Result<bool> {
    let names = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    Ok(names.iter().all(|name| name == NEXT))
}

/// Mounts the directories in memory for the calling thread, and those that it starts.
fn mount_here() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    DIRS.into_iter().try_for_each(|dir| {
        mount(
            Some("wrenn-bench"),
            dir,
            Some("tmpfs"),
            flags,
            Some("mode=755"),
        )
    })
}
