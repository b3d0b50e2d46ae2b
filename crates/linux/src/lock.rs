//! Locks on files (flock(2)).
//!
//! Every user who may open a file can lock it, even for reading only: files that are locked belong
//! into private directories ([`crate::file::ensure_private_dir`]). Nothing here waits without a
//! deadline.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::file::open_private;

/// Pause between two attempts to take a lock that another process holds.
const RETRY: Duration = Duration::from_millis(5);

/// A lock on a file, held until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes the exclusive lock, creating the file if need be. `None` when another process holds
    /// it.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn try_take(path: &Path) -> io::Result<Option<Self>> {
        Self::try_lock(open_private(path)?)
    }

    /// Takes the exclusive lock of an existing directory. `None` when another process holds it.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub fn try_take_dir(dir: &Path) -> io::Result<Option<Self>> {
        Self::try_lock(File::open(dir)?)
    }

    /// Takes the exclusive lock as [`Lock::try_take`], waiting up to `timeout` for it.
    ///
    /// # Errors
    /// `TimedOut`, with the path and the processes that hold it; when the file cannot be opened.
    pub fn take_within(path: &Path, timeout: Duration) -> io::Result<Self> {
        Self::wait(path, timeout, File::try_lock)
    }

    /// Takes the shared lock, waiting up to `timeout` while another process has it exclusively.
    ///
    /// # Errors
    /// As [`Lock::take_within`].
    pub fn share_within(path: &Path, timeout: Duration) -> io::Result<Self> {
        Self::wait(path, timeout, File::try_lock_shared)
    }

    /// Returns the locked file, open for reading and writing unless it is a directory.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.0
    }

    fn wait(
        path: &Path,
        timeout: Duration,
        attempt: impl Fn(&File) -> Result<(), fs::TryLockError>,
    ) -> io::Result<Self> {
        let file = open_private(path)?;
        let deadline = Instant::now() + timeout;
        loop {
            match attempt(&file) {
                Ok(()) => return Ok(Self(file)),
                Err(fs::TryLockError::Error(error)) => return Err(error),
                Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(RETRY)
                }
                Err(fs::TryLockError::WouldBlock) => return Err(held(path, &file)),
            }
        }
    }

    fn try_lock(file: File) -> io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

fn held(path: &Path, file: &File) -> io::Error {
    let holders = holders(file).unwrap_or_default();
    let by = if holders.is_empty() {
        "another process".to_owned()
    } else {
        holders.join(", ")
    };
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!(
            "{} is locked by {by}; end it, and try again",
            path.display()
        ),
    )
}

/// Returns the processes that hold a lock of the file, as `process 7 (name)`. The process that took
/// a lock may have ended and left it to its children.
fn holders(file: &File) -> io::Result<Vec<String>> {
    let meta = file.metadata()?;
    let major = rustix::fs::major(meta.dev());
    let minor = rustix::fs::minor(meta.dev());
    let wanted = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    let table = fs::read_to_string("/proc/locks")?;
    // proc_locks(5): number, kind, mode, access, process, device and inode, range. Waiting
    // processes have `->` after the number.
    let holder = |line: &str| {
        let parts: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = parts[..] else {
            return None;
        };
        (place == wanted).then(|| pid.to_owned())
    };
    let named = |pid: String| match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim()),
        Err(_) => format!("process {pid}"),
    };
    Ok(table.lines().filter_map(holder).map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_holds_a_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::try_take(&path).unwrap();
        assert!(first.is_some());
        assert!(Lock::try_take(&path).unwrap().is_none());
        drop(first);
        Lock::take_within(&path, Duration::from_secs(20)).unwrap();
    }

    #[test]
    fn held_lock_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        // A program that another test starts has all descriptors for a moment, and with them the
        // lock.
        let patience = Duration::from_secs(20);
        let theirs = Lock::take_within(&path, patience).unwrap();
        for error in [
            Lock::take_within(&path, Duration::from_millis(20)).unwrap_err(),
            Lock::share_within(&path, Duration::from_millis(20)).unwrap_err(),
        ] {
            let said = error.to_string();
            let pid = std::process::id();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(
                said.contains(&format!("{} is locked by process {pid} (", path.display())),
                "{said}"
            );
        }
        drop(theirs);
        let one = Lock::share_within(&path, patience).unwrap();
        Lock::share_within(&path, patience).unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        drop(one);
        assert_eq!(
            Lock::take_within(&path, patience)
                .unwrap()
                .file()
                .metadata()
                .unwrap()
                .mode()
                & 0o777,
            0o600
        );
    }
}
