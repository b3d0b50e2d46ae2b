//! Directories without an index: blocks of entries, each with a checksum at its end.

use super::extents::append_block;
use super::inode::Body;
use super::layout::{BLOCK_SIZE, checksum, put16, put32};
use super::{BLOCK, FileSystem};
use crate::error::{Result, limit};
use crate::tree::{InodeId, Kind, Tree};

/// Bytes of an entry before its name.
const HEADER: usize = 8;
/// Bytes of the entry that holds the checksum, and its type.
const TAIL: usize = 12;
const TAIL_TYPE: u8 = 0xde;

fn entry_size(name: &[u8]) -> usize {
    (HEADER + name.len()).next_multiple_of(4)
}

/// Returns the number of blocks of a directory.
pub(super) fn blocks(tree: &Tree, id: InodeId) -> u64 {
    let mut blocks = 1;
    let mut used = 2 * entry_size(b"..");
    for (name, _) in tree.children(id) {
        if used + entry_size(name) > BLOCK_SIZE - TAIL {
            blocks += 1;
            used = 0;
        }
        used += entry_size(name);
    }
    blocks
}

fn file_type(kind: &Kind) -> u8 {
    match kind {
        Kind::File(..) => 1,
        Kind::Directory(_) => 2,
        Kind::CharDevice(..) => 3,
        Kind::BlockDevice(..) => 4,
        Kind::Fifo => 5,
        Kind::Symlink(_) => 7,
    }
}

/// Block of a directory that is being filled.
struct Block {
    bytes: [u8; BLOCK_SIZE],
    used: usize,
    /// Where the last entry is: it reaches to the end of the block.
    last: usize,
}

impl Block {
    fn new() -> Self {
        Self {
            bytes: [0; BLOCK_SIZE],
            used: 0,
            last: 0,
        }
    }

    fn has_room(&self, name: &[u8]) -> bool {
        self.used + entry_size(name) <= BLOCK_SIZE - TAIL
    }

    fn push(&mut self, name: &[u8], inode: u32, kind: u8) {
        let at = self.used;
        let size = entry_size(name);
        put32(&mut self.bytes, at, inode);
        put16(&mut self.bytes, at + 4, size as u16);
        self.bytes[at + 6] = name.len() as u8;
        self.bytes[at + 7] = kind;
        self.bytes[at + HEADER..at + HEADER + name.len()].copy_from_slice(name);
        self.last = at;
        self.used += size;
    }

    fn finish(&mut self, seed: u32) -> &[u8] {
        let tail = BLOCK_SIZE - TAIL;
        put16(&mut self.bytes, self.last + 4, (tail - self.last) as u16);
        put16(&mut self.bytes, tail + 4, TAIL as u16);
        self.bytes[tail + 7] = TAIL_TYPE;
        let sum = checksum(seed, &self.bytes[..tail]);
        put32(&mut self.bytes, tail + 8, sum);
        &self.bytes
    }
}

impl FileSystem {
    pub(super) fn write_directory(
        &mut self,
        tree: &Tree,
        id: InodeId,
        parent: InodeId,
    ) -> Result<Body> {
        let number = self.number(id);
        let seed = self.inode_seed(number);
        let mut block = Block::new();
        block.push(b".", number, 2);
        block.push(b"..", self.number(parent), 2);
        let mut blocks = Vec::new();
        for (name, child) in tree.children(id) {
            if !block.has_room(name) {
                blocks.push(std::mem::replace(&mut block, Block::new()));
            }
            let kind = file_type(&tree.inode(child).kind);
            block.push(name, self.number(child), kind);
        }
        blocks.push(block);
        let mut extents = Vec::new();
        let length = blocks.len() as u64 * BLOCK;
        for (logical, mut block) in blocks.into_iter().enumerate() {
            let logical = u32::try_from(logical).map_err(|_| limit("a directory is too large"))?;
            let physical = self.layout.allocate()?;
            self.write_block(physical, block.finish(seed))?;
            append_block(&mut extents, logical, physical);
        }
        self.map_extents(number, &extents, length)
    }
}
