//! The process that compares: its task, its messages, and what it does.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use linux::worker::{self, send_message};
use serde::{Deserialize, Serialize};

use crate::compare::{self, Bytes, Change, DiskSides, Limits, NoSides, Side, Summary};
use crate::disk::{Disk, Layout};
use crate::ext4::{Error, FileSystem};

/// First argument of a program that is to become a reader.
pub const ARGUMENT: &str = "compare-disks";
/// Largest task, bytes: a path of 4096 bytes in hexadecimal digits, and numbers.
const MAX_TASK: usize = 64 * 1024;
/// Most descriptors of two disks.
const MAX_FILES: usize = 4;

/// Disk that is to be read. Its files come as descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub layout: Layout,
    /// Bytes, as it was made with: sizes in files that a VMM has written are not trusted.
    pub size: u64,
}

/// What is to be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub before: Image,
    pub after: Image,
    /// Path of a directory or a file in both.
    pub path: Bytes,
    pub max_changes: u64,
    pub max_time: Duration,
    /// With unified diffs of texts, and hashes of other files.
    pub patches: bool,
}

/// Message of a reader. The first one is `Started`, the last one `End`, unless it fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    Started,
    Change(Box<Change>),
    End(Summary),
    NoSuchPath,
    /// The deadline passed before it could begin.
    TimeOver,
    Failed(String),
}

/// Becomes a reader if the arguments say so, and then returns only when that has ended. To be called
/// first in `main`, while there is no other thread.
#[must_use]
pub fn serve_if_asked() -> Option<ExitCode> {
    worker::serve_if_asked(ARGUMENT, "disks cannot be compared", serve)
}

fn serve() -> io::Result<()> {
    let Some((control, task, files)) = worker::receive_task(MAX_TASK)? else {
        return Ok(());
    };
    let mut messages = BufWriter::new(control);
    match compare_disks(&task, files, &mut messages) {
        Ok(()) => {}
        Err(Failure::Caller(error)) => return Err(error),
        Err(Failure::NoSides(reason)) => send_message(&mut messages, &failure_message(&reason))?,
    }
    messages.flush()
}

/// Reason why nothing is compared.
enum Failure {
    /// The agent reads no more.
    Caller(io::Error),
    NoSides(NoSides),
}

impl From<NoSides> for Failure {
    fn from(reason: NoSides) -> Self {
        Self::NoSides(reason)
    }
}

fn failure_message(reason: &NoSides) -> Message {
    match reason {
        NoSides::NoSuchPath => Message::NoSuchPath,
        NoSides::Unreadable(_, Error::TimeOver) => Message::TimeOver,
        NoSides::Unreadable(Side::Before, error) => {
            Message::Failed(format!("the disk before: {error}"))
        }
        NoSides::Unreadable(Side::After, error) => {
            Message::Failed(format!("the disk after: {error}"))
        }
    }
}

fn compare_disks(task: &Task, mut files: Vec<File>, to: &mut impl Write) -> Result<(), Failure> {
    let deadline = Instant::now() + task.max_time;
    files.truncate(MAX_FILES);
    let of_after = files.split_off(task.before.layout.file_count().min(files.len()));
    let before = open(Side::Before, task.before, files, deadline)?;
    let after = open(Side::After, task.after, of_after, deadline)?;
    let sides = DiskSides::new(&before, &after, &task.path.0, task.patches)?;
    send_message(to, &Message::Started).map_err(Failure::Caller)?;
    to.flush().map_err(Failure::Caller)?;
    let limits = Limits {
        changes: task.max_changes,
        deadline,
    };
    let report = |change| send_message(to, &Message::Change(Box::new(change)));
    let summary = compare::compare(&sides, &absolute(&task.path.0), limits, report);
    let summary = summary.map_err(Failure::Caller)?;
    send_message(to, &Message::End(summary)).map_err(Failure::Caller)
}

fn open(
    side: Side,
    image: Image,
    files: Vec<File>,
    deadline: Instant,
) -> Result<FileSystem, NoSides> {
    let disk = Disk::open(image.layout, image.size, files).map_err(Error::Disk);
    disk.and_then(|disk| FileSystem::open(disk, deadline))
        .map_err(|error| NoSides::Unreadable(side, error))
}

/// Returns the path with a slash before each name, and none elsewhere but that of the root.
fn absolute(path: &[u8]) -> Vec<u8> {
    let names = path.split(|byte| *byte == b'/');
    let names = names.filter(|name| !name.is_empty() && *name != b".");
    let path: Vec<u8> = names.flat_map(|name| [b"/", name].concat()).collect();
    if path.is_empty() { b"/".to_vec() } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute() {
        for (path, expected) in [("", "/"), ("/", "/"), ("a//b/./", "/a/b"), ("/a", "/a")] {
            assert_eq!(absolute(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }
}
