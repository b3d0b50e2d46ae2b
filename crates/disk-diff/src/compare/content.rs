//! Contents of regular files.

use sha2::{Digest, Sha256};

use super::text::BINARY_BYTES;
use super::{Read, Unread};
use crate::ext4::{self, FileSystem, Inode, Runs, locate};

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;
/// Blocks that are looked at together.
const PIECE_BLOCKS: u64 = 64;

impl From<ext4::Error> for Unread {
    fn from(error: ext4::Error) -> Self {
        match error {
            ext4::Error::TimeOver => Self::TimeOver,
            _ => Self::Damaged,
        }
    }
}

/// Place of a block of a file.
#[derive(Debug, Clone, Copy)]
enum Place {
    Hole,
    /// Number of the block on the disk.
    Block(u64),
    /// In the inode, which has less than a block.
    Inode,
}

/// A file's content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content<'a> {
    pub(super) fs: &'a FileSystem,
    pub(super) inode: &'a Inode,
}

impl Content<'_> {
    /// Reads all of a file that has at most `most` bytes.
    pub(super) fn read_all(&self, most: usize) -> Read<Option<Vec<u8>>> {
        let length = usize::try_from(self.inode.size).ok();
        let Some(length) = length.filter(|length| *length <= most) else {
            return Ok(None);
        };
        let mut bytes = vec![0; length];
        self.fs
            .read(self.inode, &self.fs.runs(self.inode)?, 0, &mut bytes)?;
        Ok(Some(bytes))
    }

    /// Returns true if its first bytes are those of a binary file.
    pub(super) fn starts_binary(&self) -> Read<bool> {
        let mut start = vec![0; BINARY_BYTES];
        let runs = self.fs.runs(self.inode)?;
        let count = self.fs.read(self.inode, &runs, 0, &mut start)?;
        Ok(start[..count].contains(&0))
    }

    /// Returns the SHA-256 of a file that has at most `most` bytes.
    pub(super) fn sha256(&self, most: u64) -> Read<Option<String>> {
        if self.inode.size > most {
            return Ok(None);
        }
        let runs = self.fs.runs(self.inode)?;
        let mut hash = Sha256::new();
        let mut piece = vec![0; PIECE];
        let mut offset = 0;
        loop {
            match self.fs.read(self.inode, &runs, offset, &mut piece)? {
                0 => return Ok(Some(hex::encode(hash.finalize()))),
                count => {
                    hash.update(&piece[..count]);
                    offset += count as u64;
                }
            }
        }
    }

    /// Returns true if the other file, which has the same size, has the same content. Blocks that
    /// both have from the same place are not read, nor are holes.
    pub(super) fn is_same(&self, other: &Self) -> Read<bool> {
        let runs = self.fs.runs(self.inode)?;
        let others = other.fs.runs(other.inode)?;
        let block = self.fs.block_size();
        if block != other.fs.block_size() {
            return self.are_same_bytes(&runs, other, &others, 0..self.inode.size);
        }
        let end = self.inode.size.div_ceil(block);
        let mut next = 0;
        while next < end {
            let (place, count) = self.locate(&runs, next);
            let (other_place, other_count) = other.locate(&others, next);
            let mut count = count.min(other_count).min(end - next);
            let is_shared = match (place, other_place) {
                (Place::Hole, Place::Hole) => true,
                (Place::Block(place), Place::Block(other_place)) => {
                    // So that little is read around a block that was written in the middle.
                    count = count.min(PIECE_BLOCKS);
                    place == other_place && self.fs.shares_blocks(other.fs, place, count)
                }
                _ => false,
            };
            let bytes = next * block..((next + count) * block).min(self.inode.size);
            if !is_shared && !self.are_same_bytes(&runs, other, &others, bytes)? {
                return Ok(false);
            }
            self.fs.check_time()?;
            next += count;
        }
        Ok(true)
    }

    /// Returns where a block is, and for how many blocks that goes on.
    fn locate(&self, runs: &Runs, block: u64) -> (Place, u64) {
        if self.inode.has_inline_data() {
            return match block {
                0 => (Place::Inode, 1),
                _ => (Place::Hole, u64::MAX),
            };
        }
        let (place, count) = locate(runs.as_slice(), block);
        (place.map_or(Place::Hole, Place::Block), count)
    }

    fn are_same_bytes(
        &self,
        runs: &Runs,
        other: &Self,
        others: &Runs,
        range: std::ops::Range<u64>,
    ) -> Read<bool> {
        let mut offset = range.start;
        let mut ours = vec![0; PIECE];
        let mut theirs = vec![0; PIECE];
        while offset < range.end {
            let left = usize::try_from(range.end - offset).unwrap_or(PIECE);
            let ours = &mut ours[..left.min(PIECE)];
            let theirs = &mut theirs[..left.min(PIECE)];
            self.fs.read(self.inode, runs, offset, ours)?;
            other.fs.read(other.inode, others, offset, theirs)?;
            if ours != theirs {
                return Ok(false);
            }
            offset += ours.len() as u64;
        }
        Ok(true)
    }
}
