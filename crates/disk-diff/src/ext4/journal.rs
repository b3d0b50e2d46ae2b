//! Journal of a file system that was neither unmounted nor frozen (Linux
//! `Documentation/filesystems/ext4/journal.rst`): which blocks have their present content there.
//!
//! ```text
//!   superblock │ descriptor, blocks …, commit │ revocations, descriptor, blocks …, commit │ …
//! ```
//! A transaction counts once its commit block is there. Checksums are not verified: the disk is of
//! one moment, and the kernel writes a commit after what it commits. Fast commits, which are behind
//! the ring where that feature is in use, are not read; that there are some is told.

use std::collections::HashMap;

use model::InodeKind;

use super::{Error, FileSystem, Result, Runs, be32_at, blocks, u16_at, u32_at};

const MAGIC: u32 = 0xc03b_3998;
/// Types of blocks.
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCK_1: u32 = 3;
const SUPERBLOCK_2: u32 = 4;
const REVOCATIONS: u32 = 5;
const HEAD: usize = 12;
const REVOCATIONS_HEAD: usize = 16;
/// Bytes of the checksum at the end of a block.
const TAIL: usize = 4;
const UUID: usize = 16;

/// Features of a journal.
const WIDE: u32 = 0x2;
const CHECKSUM_2: u32 = 0x8;
const CHECKSUM_3: u32 = 0x10;
const FAST_COMMIT: u32 = 0x20;
/// `EXT4_FC_TAG_HEAD`, first in a block of fast commits: tag, length, features, transaction.
const FAST_HEAD: u16 = 9;
const FAST_TRANSACTION: usize = 8;

/// Most blocks whose content may be in the journal: as many as one of 8 GiB has. 100 MiB of memory.
pub(super) const MAX_COPIES: usize = 1 << 21;
/// Most revocations. 100 MiB of memory.
pub(super) const MAX_REVOKED: usize = 1 << 22;

/// Flags of a tag.
const ESCAPED: u32 = 1;
const SAME_UUID: u32 = 2;
const LAST: u32 = 8;

const DAMAGED: Error = Error::Damaged("journal");

/// Content of a block, in a block of the journal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copied {
    pub(super) block: u64,
    /// It begins with the magic number of a journal, instead of which it has zeroes there.
    is_escaped: bool,
    sequence: u32,
}

impl Copied {
    pub(super) fn unescape(self, buffer: &mut [u8]) {
        if self.is_escaped
            && let Some(first) = buffer.first_chunk_mut()
        {
            *first = MAGIC.to_be_bytes();
        }
    }
}

/// Blocks whose present content is in the journal.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    copies: HashMap<u64, Copied>,
    /// There are changes after those in a format that is not read.
    pub(super) has_fast_commits: bool,
}

impl Replayed {
    pub(super) fn get(&self, block: u64) -> Option<Copied> {
        self.copies.get(&block).copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }
}

/// Reads the journal in the file of this number.
///
/// # Errors
/// [`Error::Damaged`]: without it older contents would be taken for the present ones.
pub(super) fn read(fs: &FileSystem, number: u32) -> Result<Replayed> {
    let inode = fs.inode(number)?;
    if inode.kind != InodeKind::File {
        return Err(DAMAGED);
    }
    let runs = fs.runs(&inode)?;
    let superblock = fs.block(at(&runs, 0).ok_or(DAMAGED)?)?;
    let kind = be32_at(&superblock, 4);
    if be32_at(&superblock, 0) != MAGIC || ![SUPERBLOCK_1, SUPERBLOCK_2].contains(&kind) {
        return Err(DAMAGED);
    }
    let features = match kind {
        SUPERBLOCK_2 => be32_at(&superblock, 0x28),
        _ => 0,
    };
    let fast = match (features & FAST_COMMIT, be32_at(&superblock, 0x54)) {
        (0, _) => 0,
        // `JBD2_DEFAULT_FAST_COMMIT_BLOCKS`.
        (_, 0) => 256,
        (_, blocks) => blocks,
    };
    let length = be32_at(&superblock, 0x10).saturating_sub(fast);
    let held = runs.as_slice().last().map_or(0, blocks::Run::end);
    let first = be32_at(&superblock, 0x14).max(1);
    let end = length.min(u32::try_from(held).unwrap_or(u32::MAX));
    let mut reader = Reader {
        fs,
        runs,
        features,
        first,
        end,
        next: be32_at(&superblock, 0x1c),
        left: end.saturating_sub(first),
        sequence: be32_at(&superblock, 0x18),
        pending: Vec::new(),
        pending_revoked: Vec::new(),
        copies: HashMap::new(),
        revoked: HashMap::new(),
    };
    // There is nothing in it where it begins nowhere.
    if reader.next != 0 {
        reader.run()?;
    }
    let has_fast_commits = fast != 0 && reader.has_fast_commits(length)?;
    let Reader {
        mut copies,
        revoked,
        ..
    } = reader;
    copies.retain(|block, copied| {
        let revoked = revoked.get(block);
        revoked.is_none_or(|revoked| is_before(*revoked, copied.sequence))
    });
    Ok(Replayed {
        copies,
        has_fast_commits,
    })
}

struct Reader<'a> {
    fs: &'a FileSystem,
    runs: Runs,
    features: u32,
    /// Blocks of the ring.
    first: u32,
    end: u32,
    /// Next block to read.
    next: u32,
    /// Blocks that may still be read: none twice.
    left: u32,
    /// Number of the transaction that is being read.
    sequence: u32,
    /// What it has so far.
    pending: Vec<(u64, Copied)>,
    pending_revoked: Vec<u64>,
    copies: HashMap<u64, Copied>,
    /// Last transaction that revoked a block.
    revoked: HashMap<u64, u32>,
}

impl Reader<'_> {
    fn run(&mut self) -> Result<()> {
        while let Some(place) = self.take_block()? {
            let block = self.fs.block(place)?;
            if be32_at(&block, 0) != MAGIC || be32_at(&block, 8) != self.sequence {
                break;
            }
            match be32_at(&block, 4) {
                DESCRIPTOR => self.add_descriptor(&block)?,
                REVOCATIONS => self.add_revocations(&block),
                COMMIT => {
                    self.copies.extend(self.pending.drain(..));
                    let revoked = self.pending_revoked.drain(..);
                    self.revoked
                        .extend(revoked.map(|block| (block, self.sequence)));
                    self.sequence = self.sequence.wrapping_add(1);
                }
                _ => break,
            }
            if self.copies.len() + self.pending.len() > MAX_COPIES
                || self.revoked.len() + self.pending_revoked.len() > MAX_REVOKED
            {
                return Err(Error::Damaged("journal with more entries than blocks"));
            }
        }
        Ok(())
    }

    /// Returns true if the first block behind the ring has fast commits of the transaction that
    /// would be next.
    fn has_fast_commits(&self, first: u32) -> Result<bool> {
        let Some(place) = at(&self.runs, first) else {
            return Ok(false);
        };
        let block = self.fs.block(place)?;
        Ok(u16_at(&block, 0) == FAST_HEAD && u32_at(&block, FAST_TRANSACTION) == self.sequence)
    }

    /// Returns the place of the next block of the ring; `None` if all of them were read.
    fn take_block(&mut self) -> Result<Option<u64>> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        self.left = left;
        if self.next >= self.end {
            self.next = self.first;
        }
        let place = at(&self.runs, self.next).ok_or(DAMAGED)?;
        self.next = self.next.saturating_add(1);
        Ok(Some(place))
    }

    fn has(&self, feature: u32) -> bool {
        self.features & feature != 0
    }

    fn without_tail<'a>(&self, block: &'a [u8]) -> &'a [u8] {
        match self.has(CHECKSUM_2) || self.has(CHECKSUM_3) {
            true => &block[..block.len().saturating_sub(TAIL)],
            false => block,
        }
    }

    /// Notes the blocks after a descriptor.
    fn add_descriptor(&mut self, block: &[u8]) -> Result<()> {
        let tags = self.without_tail(block);
        let is_wide = self.has(WIDE);
        let size = match (self.has(CHECKSUM_3), self.has(CHECKSUM_2)) {
            (true, _) => 16,
            (false, checksum) => 8 + 2 * usize::from(checksum) + 4 * usize::from(is_wide),
        };
        let mut offset = HEAD;
        while let Some(tag) = tags.get(offset..offset + size) {
            let flags = match self.has(CHECKSUM_3) {
                true => be32_at(tag, 4),
                false => be32_at(tag, 4) & 0xffff,
            };
            let high = if is_wide { be32_at(tag, 8) } else { 0 };
            let of_disk = u64::from(high) << 32 | u64::from(be32_at(tag, 0));
            let Some(place) = self.take_block()? else {
                return Ok(());
            };
            let copied = Copied {
                block: place,
                is_escaped: flags & ESCAPED != 0,
                sequence: self.sequence,
            };
            self.pending.push((of_disk, copied));
            if flags & LAST != 0 {
                return Ok(());
            }
            offset += size;
            if flags & SAME_UUID == 0 {
                offset += UUID;
            }
        }
        Ok(())
    }

    fn add_revocations(&mut self, block: &[u8]) {
        let used = usize::try_from(be32_at(block, HEAD)).unwrap_or(usize::MAX);
        let list = self.without_tail(block);
        let list = list.get(REVOCATIONS_HEAD..used.min(list.len()));
        let size = if self.has(WIDE) { 8 } else { 4 };
        for entry in list.unwrap_or_default().chunks_exact(size) {
            let number = entry
                .iter()
                .fold(0, |number, byte| number << 8 | u64::from(*byte));
            self.pending_revoked.push(number);
        }
    }
}

/// Returns true if the transaction `one` is before the other, in numbers that wrap around.
fn is_before(one: u32, other: u32) -> bool {
    one.wrapping_sub(other).cast_signed() < 0
}

fn at(runs: &Runs, block: u32) -> Option<u64> {
    blocks::locate(runs.as_slice(), u64::from(block)).0
}
