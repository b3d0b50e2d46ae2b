//! The reader of file systems as a function of bytes: for the fuzz target in `fuzz/`, and for the
//! test that runs its corpus.
//!
//! An input is a list of changes to a small file system that is whole: eleven bytes each, of an
//! offset and what is written there. A file system of nothing but random bytes would get no
//! further than its superblock.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::compare::{self, Change, DiskSides, Limits};
use crate::disk::{Disk, Layout};
use crate::ext4::FileSystem;

/// Bytes of a change: offset, then content.
const OFFSET: usize = 3;
const CONTENT: usize = 8;
/// Bytes of an image that are written at once.
const PIECE: usize = 4096;
/// Changes of one input.
const MAX_CHANGES: usize = 64;

fn open(image: &File, deadline: Instant) -> Option<FileSystem> {
    let size = image.metadata().ok()?.len();
    let disk = Disk::open(Layout::Raw, size, vec![image.try_clone().ok()?]).ok()?;
    FileSystem::open(disk, deadline).ok()
}

/// Compares the file system in `image` with itself after changes to its bytes.
pub fn damaged_file_system(image: &[u8], bytes: &[u8]) {
    let file = |bytes: &[u8]| {
        let file = tempfile::tempfile().ok()?;
        file.set_len(bytes.len() as u64).ok()?;
        // Most of an image is zeroes, which need not be written.
        for (offset, piece) in (0..).step_by(PIECE).zip(bytes.chunks(PIECE)) {
            if piece.iter().any(|byte| *byte != 0) {
                file.write_all_at(piece, offset).ok()?;
            }
        }
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
    let deadline = Instant::now() + Duration::from_secs(5);
    let (Some(before), Some(after)) = (open(&before, deadline), open(&after, deadline)) else {
        return;
    };
    let limits = Limits {
        changes: 1000,
        deadline,
    };
    if let Ok(sides) = DiskSides::new(&before, &after, b"/", true) {
        let ignore = |_: Change| Ok::<(), std::convert::Infallible>(());
        let _ = compare::compare(&sides, b"/", limits, ignore);
    }
}
