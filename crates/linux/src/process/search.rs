//! Searches for processes by their properties, not by what was recorded about them.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Identity, Process};

/// Returns every running process that satisfies `wanted`, given its command line (arguments
/// separated by NUL).
///
/// # Errors
/// When `/proc` cannot be read.
pub fn find(wanted: impl Fn(&[u8]) -> bool) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for (pid, dir) in running()? {
        let Ok(cmdline) = fs::read(dir.join("cmdline")) else {
            continue;
        };
        if wanted(&cmdline) {
            found.extend(Process::open(pid)?);
        }
    }
    Ok(found)
}

/// Lists the processes in `/proc`, each with its directory.
fn running() -> io::Result<impl Iterator<Item = (u32, PathBuf)>> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, entry.path()))
    }))
}

/// Returns every running process of that user. Zombies count as ended.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn of_user(uid: u32) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for (pid, dir) in running()? {
        // The directory belongs to root where the process must not be looked into; its status tells
        // the truth.
        let Ok(status) = fs::read_to_string(dir.join("status")) else {
            continue;
        };
        if is_of_user(&status, uid) && Identity::from_pid(pid)?.is_some() {
            found.extend(Process::open(pid)?);
        }
    }
    Ok(found)
}

/// Kills every process of a user, and waits until none is left.
///
/// # Errors
/// `InvalidInput` for root; `TimedOut` when some are left after `limit`; when `/proc` cannot be
/// read.
pub fn end_all_of_user(uid: u32, limit: Duration) -> io::Result<()> {
    if uid == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "processes of root are not ended",
        ));
    }
    let deadline = Instant::now() + limit;
    loop {
        let left = of_user(uid)?;
        if left.is_empty() {
            return Ok(());
        }
        left.iter().try_for_each(Process::kill)?;
        for process in &left {
            process.wait(deadline.saturating_duration_since(Instant::now()))?;
        }
        if Instant::now() >= deadline {
            let numbers: Vec<u32> = left.iter().map(Process::pid).collect();
            let problem = format!("processes {numbers:?} of user {uid} do not end");
            return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
        }
    }
}

/// Returns true if the real, effective, saved or file system user in `/proc/PID/status` is `uid`.
fn is_of_user(status: &str, uid: u32) -> bool {
    let users = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .unwrap_or_default();
    users
        .split_ascii_whitespace()
        .any(|user| user.parse() == Ok(uid))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::path::Path;

    use super::*;
    use crate::programs;

    /// A user id below those of VMMs, which no other process has.
    fn user() -> u32 {
        2_040_000_000 + std::process::id()
    }

    #[test]
    fn processes_of_user_are_ended() {
        let uid = user();
        assert!(of_user(uid).unwrap().is_empty());
        let mut children: Vec<_> = (0..3)
            .map(|_| {
                programs::command(Path::new("/bin/sleep"))
                    .arg("60")
                    .uid(uid)
                    .gid(uid)
                    .spawn()
                    .unwrap()
            })
            .collect();
        assert_eq!(of_user(uid).unwrap().len(), 3);
        assert!(of_user(uid + 1).unwrap().is_empty());
        end_all_of_user(uid, Duration::from_secs(10)).unwrap();
        assert!(of_user(uid).unwrap().is_empty());
        // They were reaped.
        assert!(children.iter_mut().all(|child| child.try_wait().is_err()));
        end_all_of_user(uid, Duration::ZERO).unwrap();
        assert!(end_all_of_user(0, Duration::ZERO).is_err());
    }

    #[test]
    fn user_counts_in_every_role() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t5\t5\t5\n";
        assert!(
            (1..=4).all(|uid| is_of_user(status, uid))
                && !is_of_user(status, 5)
                && !is_of_user("", 0)
        );
    }
}
