//! Reader of ext4, ext3 and ext2 file systems, made for images whose guest is hostile (Linux
//! `Documentation/filesystems/ext4`).
//!
//! There is a crate for such file systems, `ext4-view`. This is a reader of our own because a
//! comparison needs what that keeps for itself, numbers of inodes and the blocks of files: they tell
//! without reading it that a file has not changed. It also trusts sizes that it reads, and takes
//! blocks that are reserved and were never written for data.
//!
//! Every number that is read is the guest's. No loop and no allocation follows one without a bound:
//!
//! | what | bound |
//! |---|---|
//! | a block, an inode | the end of the disk |
//! | extents and blocks of pointers of a file | [`MAX_RUNS`], [`MAX_NODES`], levels; extents in order |
//! | entries of a directory | what the caller wants |
//! | target of a link | [`MAX_TARGET`] |
//! | extended attributes | a block and an inode; of each value its hash is kept |
//! | blocks of the journal | none twice; [`journal::MAX_COPIES`], [`journal::MAX_REVOKED`] |
//! | blocks in memory | [`CACHED_BLOCKS`] |
//! | time | a deadline that every read of a block looks at |
//!
//! What is damaged is an error of that file or directory; the others are read all the same.
//! Checksums are not verified: a guest that wants to be seen otherwise can write them.

mod attributes;
mod blocks;
mod directory;
mod group;
mod inode;
mod journal;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::Instant;

pub use attributes::Attributes;
pub(crate) use blocks::locate;
pub use blocks::{MAX_NODES, MAX_RUNS, MAX_TARGET, Run, Runs};
pub use directory::{Entries, Entry};
pub use inode::Inode;

use crate::disk::Disk;
use group::Groups;
use journal::Replayed;

/// Number of the root directory.
pub const ROOT: u32 = 2;

/// Blocks that are kept in memory, of inodes, directories and the like: 16 MiB of the usual size.
const CACHED_BLOCKS: usize = 4096;

const SUPERBLOCK_OFFSET: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;
const MAGIC: u16 = 0xef53;
/// Largest block: 64 KiB.
const MAX_LOG_BLOCK: u32 = 6;

/// Features that change the format (`EXT4_FEATURE_INCOMPAT_…`).
mod incompat {
    pub(super) const COMPRESSION: u32 = 0x1;
    pub(super) const RECOVER: u32 = 0x4;
    pub(super) const JOURNAL_DEVICE: u32 = 0x8;
    pub(super) const META_GROUPS: u32 = 0x10;
    pub(super) const WIDE: u32 = 0x80;
    pub(super) const VALUES_IN_INODES: u32 = 0x400;
    pub(super) const DATA_IN_ENTRIES: u32 = 0x1000;
    pub(super) const LARGE_DIRECTORIES: u32 = 0x4000;
    /// Those that this reader does not know.
    pub(super) const UNKNOWN: u32 = !0x3_f7df;
}

/// Problem of a file system, or of one of its files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no ext4 file system on the disk")]
    Foreign,
    #[error("its file system has {0}, which cannot be read")]
    Unsupported(&'static str),
    #[error("damaged: {0}")]
    Damaged(&'static str),
    #[error("the disk cannot be read: {0}")]
    Disk(#[from] io::Error),
    #[error("it took too long")]
    TimeOver,
}

pub type Result<T> = std::result::Result<T, Error>;

/// Sizes and places of a file system, as its superblock has them.
#[derive(Debug)]
struct Layout {
    /// Bytes of a block.
    block_size: u64,
    block_count: u64,
    inode_count: u32,
    inode_size: u64,
    incompat: u32,
    groups: Groups,
    /// Number of the inode of the journal.
    journal: u32,
}

impl Layout {
    fn parse(bytes: &[u8]) -> Result<Self> {
        if u16_at(bytes, 0x38) != MAGIC {
            return Err(Error::Foreign);
        }
        let incompat = u32_at(bytes, 0x60);
        check_features(incompat)?;
        let log_block = u32_at(bytes, 0x18);
        if log_block > MAX_LOG_BLOCK {
            return Err(Error::Damaged("size of blocks"));
        }
        let block_size = 1024_u64 << log_block;
        let is_wide = incompat & incompat::WIDE != 0;
        let high = if is_wide { u32_at(bytes, 0x150) } else { 0 };
        // Revision 0 has inodes of one size.
        let inode_size = match u32_at(bytes, 0x4c) {
            0 => 128,
            _ => u64::from(u16_at(bytes, 0x58)),
        };
        if !inode_size.is_power_of_two() || !(128..=block_size).contains(&inode_size) {
            return Err(Error::Damaged("size of inodes"));
        }
        Ok(Self {
            block_size,
            block_count: u64::from(high) << 32 | u64::from(u32_at(bytes, 0x4)),
            inode_count: u32_at(bytes, 0),
            inode_size,
            incompat,
            groups: Groups::from_superblock(bytes, incompat, block_size)?,
            journal: u32_at(bytes, 0xe0),
        })
    }
}

/// A file system on a disk, with what its journal has to be replayed.
#[derive(Debug)]
pub struct FileSystem {
    disk: Disk,
    layout: Layout,
    replayed: Replayed,
    was_replayed: bool,
    deadline: Instant,
    cache: RefCell<HashMap<u64, Rc<[u8]>>>,
}

impl FileSystem {
    /// Opens the file system on a disk. All reads fail after the deadline.
    ///
    /// # Errors
    /// [`Error::Foreign`], [`Error::Unsupported`]; [`Error::Damaged`] if no file can be found.
    pub fn open(disk: Disk, deadline: Instant) -> Result<Self> {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        disk.read_exact_at(&mut bytes, SUPERBLOCK_OFFSET)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => Error::Foreign,
                _ => Error::Disk(error),
            })?;
        let layout = Layout::parse(&bytes)?;
        let was_replayed = layout.incompat & incompat::RECOVER != 0;
        let mut opened = Self {
            disk,
            layout,
            replayed: Replayed::default(),
            was_replayed,
            deadline,
            cache: RefCell::default(),
        };
        if was_replayed {
            opened.replayed = journal::read(&opened, opened.layout.journal)?;
            // Blocks that were read before may have a newer content in the journal.
            opened.cache.borrow_mut().clear();
            opened.read_layout_again()?;
        }
        Ok(opened)
    }

    /// Reads the superblock as it is after the replay: a file system that was grown has its new
    /// size in the journal first.
    fn read_layout_again(&mut self) -> Result<()> {
        let block = self.block(SUPERBLOCK_OFFSET / self.block_size())?;
        let start = usize::try_from(SUPERBLOCK_OFFSET % self.block_size()).unwrap_or_default();
        let bytes = block.get(start..start + SUPERBLOCK_BYTES);
        let layout = Layout::parse(bytes.ok_or(Error::Damaged("size of blocks"))?)?;
        if layout.block_size != self.block_size() {
            return Err(Error::Damaged("size of blocks"));
        }
        self.layout = layout;
        Ok(())
    }

    /// Returns true if it was not unmounted or frozen, so that its journal had to be read.
    #[must_use]
    pub fn was_replayed(&self) -> bool {
        self.was_replayed
    }

    /// Returns true if its journal has changes in a format that is not read, fast commits.
    #[must_use]
    pub fn has_unread_changes(&self) -> bool {
        self.replayed.has_fast_commits
    }

    #[must_use]
    pub fn block_size(&self) -> u64 {
        self.layout.block_size
    }

    fn has_values_in_inodes(&self) -> bool {
        self.layout.incompat & incompat::VALUES_IN_INODES != 0
    }

    /// Fails after the deadline, as every read does.
    pub(crate) fn check_time(&self) -> Result<()> {
        match Instant::now() >= self.deadline {
            true => Err(Error::TimeOver),
            false => Ok(()),
        }
    }

    /// Reads an inode.
    ///
    /// # Errors
    /// [`Error::Damaged`] if there is none of this number, or it is not in use.
    pub fn inode(&self, number: u32) -> Result<Inode> {
        if number == 0 || number > self.layout.inode_count {
            return Err(Error::Damaged("number of an inode"));
        }
        let (group, index) = self.layout.groups.group_of(number);
        let place = self
            .layout
            .groups
            .descriptor_place(group, self.block_size());
        let descriptor = self.block(place.block)?;
        let table = self.layout.groups.inode_table(&descriptor, place.offset)?;
        let offset = u64::from(index) * self.layout.inode_size;
        let block = table.checked_add(offset / self.block_size());
        let block = self.block(block.ok_or(Error::Damaged("place of an inode"))?)?;
        let start = usize::try_from(offset % self.block_size()).unwrap_or(usize::MAX);
        let end =
            start.saturating_add(usize::try_from(self.layout.inode_size).unwrap_or(usize::MAX));
        let bytes = block.get(start..end);
        Inode::parse(
            number,
            bytes.ok_or(Error::Damaged("place of an inode"))?,
            self.layout.incompat,
        )
    }

    /// Returns the number of blocks. What lies beyond the disk is refused where it is read.
    fn block_count(&self) -> u64 {
        self.layout
            .block_count
            .min(self.disk.size() / self.block_size())
    }

    /// Returns a block, from memory if it was read before.
    fn block(&self, number: u64) -> Result<Rc<[u8]>> {
        self.check_time()?;
        if let Some(block) = self.cache.borrow().get(&number) {
            return Ok(Rc::clone(block));
        }
        let size = usize::try_from(self.block_size()).unwrap_or_default();
        let mut bytes = vec![0; size];
        self.read_block(number, &mut bytes)?;
        let block: Rc<[u8]> = bytes.into();
        let mut cache = self.cache.borrow_mut();
        if cache.len() >= CACHED_BLOCKS {
            cache.clear();
        }
        cache.insert(number, Rc::clone(&block));
        Ok(block)
    }

    /// Reads a block, as it is after a replay of the journal.
    fn read_block(&self, number: u64, buffer: &mut [u8]) -> Result<()> {
        self.check_time()?;
        let in_journal = self.replayed.get(number);
        let place = in_journal.map_or(number, |copy| copy.block);
        if place >= self.block_count() {
            return Err(Error::Damaged("a block beyond the end"));
        }
        self.disk.read_exact_at(buffer, place * self.block_size())?;
        if let Some(copy) = in_journal {
            copy.unescape(buffer);
        }
        Ok(())
    }

    /// Reads blocks that follow each other.
    fn read_blocks(&self, first: u64, buffer: &mut [u8]) -> Result<()> {
        self.check_time()?;
        let size = usize::try_from(self.block_size()).unwrap_or(usize::MAX);
        let count = buffer.len().div_ceil(size) as u64;
        let end = first.checked_add(count);
        if self.replayed.is_empty() && end.is_some_and(|end| end <= self.block_count()) {
            return Ok(self.disk.read_exact_at(buffer, first * self.block_size())?);
        }
        let mut whole = vec![0; size];
        for (number, part) in (first..).zip(buffer.chunks_mut(size)) {
            self.read_block(number, &mut whole)?;
            part.copy_from_slice(&whole[..part.len()]);
        }
        Ok(())
    }

    /// Returns true if both have these blocks from the same place of the same file: then they have
    /// the same content.
    #[must_use]
    pub fn shares_blocks(&self, other: &Self, first: u64, count: u64) -> bool {
        let replayed = |of: &Self| {
            !of.replayed.is_empty()
                && (first..first + count).any(|it| of.replayed.get(it).is_some())
        };
        self.block_size() == other.block_size()
            && !replayed(self)
            && !replayed(other)
            && self.disk.shares(
                &other.disk,
                first.saturating_mul(self.block_size()),
                count.saturating_mul(self.block_size()),
            )
    }
}

fn check_features(incompat: u32) -> Result<()> {
    let unsupported = [
        (incompat::COMPRESSION, "compression"),
        (incompat::JOURNAL_DEVICE, "a journal on another disk"),
        (incompat::DATA_IN_ENTRIES, "data in entries of directories"),
        (incompat::UNKNOWN, "features of a later version"),
    ];
    match unsupported.iter().find(|(bits, _)| incompat & bits != 0) {
        Some((_, what)) => Err(Error::Unsupported(what)),
        None => Ok(()),
    }
}

/// Returns the little-endian number at `at`; zero beyond the end.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let part = bytes.get(at..).and_then(|rest| rest.first_chunk());
    part.map_or(0, |part| u16::from_le_bytes(*part))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let part = bytes.get(at..).and_then(|rest| rest.first_chunk());
    part.map_or(0, |part| u32::from_le_bytes(*part))
}

/// Returns the big-endian number at `at`, as journals have them.
fn be32_at(bytes: &[u8], at: usize) -> u32 {
    u32_at(bytes, at).swap_bytes()
}
