//! Where the blocks of files are on their device (Linux `Documentation/filesystems/fiemap.rst`), as
//! far as several files have the same ones.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

/// Extents of which the kernel describes one call's.
const BATCH: usize = 512;
/// Extents of one file that are read. Each takes the kernel some hundred nanoseconds, and a guest
/// decides how many its disk has.
const MOST: usize = 1 << 20;

/// `FIEMAP_EXTENT_LAST`, `…_UNKNOWN` (no place yet) and `…_SHARED` of `linux/fiemap.h`.
const LAST: u32 = 0x1;
const UNKNOWN: u32 = 0x2;
const SHARED: u32 = 0x2000;

/// File systems whose files never share blocks, by their magic number: ext4 and tmpfs.
const NEVER_SHARED: [i64; 2] = [0xef53, 0x0102_1994];

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    more_reserved: [u32; 3],
}

#[repr(C)]
struct Request {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; BATCH],
}

/// Bytes of [`Request`] without its extents, which the number of the call has in it.
const HEAD: usize = size_of::<Request>() - size_of::<[Extent; BATCH]>();

/// Blocks of a file that others have, too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedBlocks {
    /// Ranges of the device, in order, disjoint.
    pub ranges: Vec<Range<u64>>,
    /// True if the file has more extents than are read, so that ranges may be missing.
    pub is_cut: bool,
}

/// A regular file as its file system stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    pub device: u64,
    pub inode: u64,
    /// Number of names that it has.
    pub links: u64,
    /// Bytes of its blocks.
    pub bytes: u64,
    pub shared: SharedBlocks,
}

/// Describes the file at `path`; `None` if there is none, or something else than a regular file.
/// Follows no link and waits for no FIFO, so others may write into the directory.
///
/// # Errors
/// The file system's error.
pub fn stored_file(path: &Path) -> io::Result<Option<StoredFile>> {
    match path.symlink_metadata() {
        Ok(found) if found.is_file() => {}
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => return Ok(None),
    }
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        // It has been removed or replaced since.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(None),
        Err(error) => return Err(error),
    };
    let found = file.metadata()?;
    if !found.is_file() {
        return Ok(None);
    }
    Ok(Some(StoredFile {
        device: found.dev(),
        inode: found.ino(),
        links: found.nlink(),
        bytes: found.blocks() * 512,
        shared: shared_blocks(&file)?,
    }))
}

/// Returns the blocks of a file that other files have, too. None where the file system cannot share
/// blocks, or does not say so.
///
/// # Errors
/// The file system's error.
pub fn shared_blocks(file: &File) -> io::Result<SharedBlocks> {
    let kind = rustix::fs::fstatfs(file)?.f_type;
    if NEVER_SHARED.contains(&kind) {
        return Ok(SharedBlocks::default());
    }
    let mut ranges = Vec::new();
    let mut is_cut = false;
    let mut start = 0;
    let mut count = 0;
    loop {
        let extents = match describe(file, start) {
            Ok(extents) => extents,
            Err(Errno::EOPNOTSUPP | Errno::ENOTTY) => return Ok(SharedBlocks::default()),
            Err(error) => return Err(error.into()),
        };
        let Some(last) = extents.last() else { break };
        let shared = extents.iter().filter(|extent| extent.flags & SHARED != 0);
        let placed = shared.filter(|extent| extent.flags & UNKNOWN == 0);
        ranges.extend(placed.map(|extent| extent.physical..extent.physical + extent.length));
        count += extents.len();
        start = last.logical.saturating_add(last.length.max(1));
        if last.flags & LAST != 0 {
            break;
        }
        is_cut = count >= MOST;
        if is_cut {
            break;
        }
    }
    let ranges = join_ranges(ranges);
    Ok(SharedBlocks { ranges, is_cut })
}

/// Returns the next extents from the byte `start` of a file on.
fn describe(file: &File, start: u64) -> Result<Vec<Extent>, Errno> {
    let mut request = Box::new(Request {
        start,
        length: u64::MAX - start,
        flags: 0,
        mapped: 0,
        count: BATCH as u32,
        reserved: 0,
        extents: [Extent::default(); BATCH],
    });
    // SAFETY: the kernel writes `mapped` and at most `count` extents, which `request` has.
    let done = unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            nix::request_code_readwrite!(b'f', 11, HEAD),
            std::ptr::from_mut(&mut *request),
        )
    };
    Errno::result(done)?;
    let mapped = (request.mapped as usize).min(BATCH);
    Ok(request.extents[..mapped].to_vec())
}

/// Returns the union of ranges, in order and disjoint.
fn join_ranges(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{file, sparse};

    /// On file systems that can share blocks, else none is shared.
    #[test]
    fn clone_shares_all_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, vec![7; 1 << 20]).unwrap();
        File::open(&from).unwrap().sync_all().unwrap();
        sparse::copy(&from, &to).unwrap();
        let blocks = shared_blocks(&File::open(&from).unwrap()).unwrap();
        let shared: u64 = blocks
            .ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum();
        let whole = if file::can_reflink(dir.path()).unwrap() {
            1 << 20
        } else {
            0
        };
        assert_eq!(shared, whole);
    }

    #[test]
    fn head_is_what_kernel_expects() {
        assert_eq!((HEAD, size_of::<Extent>()), (32, 56));
    }
}
