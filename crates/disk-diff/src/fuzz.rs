//! The reader of file systems as a function of bytes: for the fuzz target in `fuzz/`, and for the
//! test that runs its corpus.
//!
//! An input is a list of changes to a small file system that is whole: eleven bytes each, of an
//! offset and what is written there. A file system of nothing but random bytes would get no
//! further than its superblock.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::compare::{self, Change, DiskSides, Limits};
use crate::disk::{Disk, Layout};
use crate::ext4::FileSystem;

/// Bytes of a change: offset, then content.
const OFFSET: usize = 3;
const CONTENT: usize = 8;
/// Changes of one input.
const MAX_CHANGES: usize = 64;

fn open(image: &File) -> Option<FileSystem> {
    let size = image.metadata().ok()?.len();
    let disk = Disk::open(Layout::Raw, size, vec![image.try_clone().ok()?]).ok()?;
    FileSystem::open(disk).ok()
}

/// Compares the file system in `image` with itself after changes to its bytes.
pub fn damaged_file_system(image: &[u8], bytes: &[u8]) {
    let file = |bytes: &[u8]| {
        let mut file = tempfile::tempfile().ok()?;
        file.write_all(bytes).ok()?;
        Some(file)
    };
    let (Some(before), Some(after)) = (file(image), file(image)) else {
        return;
    };
    for change in bytes.chunks_exact(OFFSET + CONTENT).take(MAX_CHANGES) {
        let (offset, content) = change.split_at(OFFSET);
        let offset = offset
            .iter()
            .fold(0, |offset, byte| offset << 8 | u64::from(*byte));
        let _ = after.write_all_at(content, offset % image.len() as u64);
    }
    let (Some(before), Some(after)) = (open(&before), open(&after)) else {
        return;
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    let limits = Limits {
        changes: 1000,
        deadline,
    };
    if let Ok(sides) = DiskSides::new(&before, &after, b"/", deadline, true) {
        let ignore = |_: Change| Ok::<(), std::convert::Infallible>(());
        let _ = compare::compare(&sides, b"/", limits, ignore);
    }
}
