//! The cgroup (version 2) of user processes, with limits that leave the agent room to answer.
//!
//! Control group `user`, below the mounted root; the agent stays in the root, which has no limits.
//! Where there is no cgroup v2, or a controller is missing, there is no such limit and all else
//! works.
//!
//! Below it is one for the start command ([`Cgroup::create_child`]), whose processes end together.
//! It has no limits of its own: the kernel allows processes beside it in `user` because of that.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// Weight of all user processes together against the agent's 100 (kernel: 1 to 10000).
const CPU_WEIGHT: &str = "50";

/// Memory kept for agent and kernel: a sixteenth, at least 16 MiB, at most 64 MiB.
const RESERVE_PART: u64 = 16;
const RESERVE_MIN: u64 = 16 << 20;
const RESERVE_MAX: u64 = 64 << 20;

/// Process ids kept for agent and kernel.
const PIDS_RESERVE: u64 = 256;

/// A group that user processes join between fork and exec.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
    procs: File,
}

impl Cgroup {
    /// Makes the group below a mounted cgroup2 `root` and sets the limits that the controllers
    /// there allow.
    ///
    /// # Errors
    /// Where `root` is no cgroup2 or no group can be made in it.
    pub fn create(root: &Path) -> io::Result<Self> {
        for controller in ["+cpu", "+memory", "+pids"] {
            attempt(&root.join("cgroup.subtree_control"), controller);
        }
        let group = root.join("user");
        match fs::create_dir(&group) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        attempt(&group.join("cpu.weight"), CPU_WEIGHT);
        if let Some(total) = memory_total() {
            attempt(&group.join("memory.max"), &memory_limit(total).to_string());
        }
        if let Some(pids) = pids_limit() {
            attempt(&group.join("pids.max"), &pids.to_string());
        }
        Self::open(group)
    }

    /// Creates a group below this one, which has the limits of both, or opens it.
    ///
    /// # Errors
    /// Where it can be neither created nor opened.
    pub fn create_child(&self, name: &str) -> io::Result<Self> {
        let group = self.dir.join(name);
        match fs::create_dir(&group) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Self::open(group),
        }
    }

    fn open(dir: PathBuf) -> io::Result<Self> {
        let procs = dir.join("cgroup.procs");
        let procs = OpenOptions::new().write(true).open(procs)?;
        Ok(Self { dir, procs })
    }

    /// Sends SIGKILL to all processes in it and below it, and to those that they fork meanwhile.
    ///
    /// # Errors
    /// Where the kernel has no such call (before Linux 5.14).
    pub fn kill_all(&self) -> io::Result<()> {
        fs::write(self.dir.join("cgroup.kill"), "1")
    }

    /// Returns true if a process is in it or below it. One that was killed is, until it is gone. A
    /// group that root in the guest has removed was empty.
    ///
    /// # Errors
    /// Where the kernel's file about it cannot be read.
    pub fn is_populated(&self) -> io::Result<bool> {
        let events = match fs::read_to_string(self.dir.join("cgroup.events")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            events => events?,
        };
        Ok(events.lines().any(|line| line == "populated 1"))
    }

    /// Returns the file `cgroup.procs`, into which a process writes `0` to join.
    pub fn procs(&self) -> BorrowedFd<'_> {
        self.procs.as_fd()
    }
}

/// Returns the hard limit (`memory.max`) for user processes on a machine with `total` bytes. There
/// is no soft one (`memory.high`): below the hard limit it makes a growing process crawl for
/// minutes instead of ending.
fn memory_limit(total: u64) -> u64 {
    let reserve = (total / RESERVE_PART).clamp(RESERVE_MIN, RESERVE_MAX);
    total.saturating_sub(reserve).max(total / 2)
}

fn pids_limit() -> Option<u64> {
    let read = |path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let most = read("/proc/sys/kernel/pid_max")?.min(read("/proc/sys/kernel/threads-max")?);
    // A machine too small for the reserve keeps half for itself.
    Some(most.saturating_sub(PIDS_RESERVE).max(most / 2))
}

fn memory_total() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
    line.split_whitespace()
        .nth(1)?
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

fn attempt(path: &Path, value: &str) {
    if let Err(e) = fs::write(path, value) {
        tracing::info!("no limit from {}: {e}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_keeps_its_share() {
        assert_eq!(memory_limit(128 << 20), 112 << 20);
        assert_eq!(memory_limit(512 << 20), 480 << 20);
        assert_eq!(memory_limit(64 << 30), (64 << 30) - (64 << 20));
        assert_eq!(memory_limit(8 << 20), 4 << 20);
    }
}
