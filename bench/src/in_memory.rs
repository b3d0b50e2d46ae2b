//! Claims and names of networks are files below `/run`, which an ordinary machine has in memory. In a container it may
//! be on a disk, and there (ext4 without a journal, `recently_deleted` in the kernel's `fs/ext4/ialloc.c`) making a file
//! takes the longer the more were removed in the last minutes: the run before would be measured. So those directories
//! are in memory while a run lasts, unless they are already or hold what is somebody's.

use std::fs;
use std::io;

use anyhow::Context;
use hostd::network::CLAIMS_DIR;
use linux::netns;
use nix::mount::{MsFlags, mount, umount};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

const DIRS: [&str; 2] = [CLAIMS_DIR, netns::DIR];
/// What is mounted, in the kernel's table: tells ours from others'.
const NAME: &str = "wrenn-bench";

/// # Errors
/// When a directory cannot be made or looked at, or nothing be mounted on it.
pub fn begin() -> anyhow::Result<()> {
    for dir in DIRS {
        fs::create_dir_all(dir)?;
        if statfs(dir)?.filesystem_type() != TMPFS_MAGIC && is_free(dir)? {
            mount(Some(NAME), dir, Some("tmpfs"), MsFlags::empty(), None::<&str>)
                .with_context(|| format!("mounting on {dir}"))?;
        }
    }
    Ok(())
}

/// The directories are as they were. That they are already is fine.
///
/// # Errors
/// Where one is in use.
pub fn end() -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let is_ours = |dir: &&&str| mounts.lines().any(|line| line.starts_with(&format!("{NAME} {dir} ")));
    DIRS.iter().filter(is_ours).try_for_each(|dir| umount(*dir).with_context(|| format!("unmounting {dir}")))
}

/// The file `next` is about no claim.
fn is_free(dir: &str) -> io::Result<bool> {
    let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    Ok(names.iter().all(|name| name == "next"))
}
