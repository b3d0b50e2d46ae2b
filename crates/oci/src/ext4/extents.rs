//! Extent trees: which blocks a file has.

use super::inode::{BODY, Body};
use super::layout::{BLOCK_SIZE, EXTENTS_MAGIC, checksum, put16, put32};
use super::{BLOCK, FileSystem, NODE_ENTRIES};
use crate::error::Result;

/// Entries in an inode.
const ROOT_ENTRIES: usize = 4;
const ENTRY: usize = 12;
/// Most blocks of one extent; larger numbers mark unwritten ones.
pub(super) const MAX_LENGTH: u16 = 32768;

/// A run of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Number of the first block in the file, and on the disk.
    pub(super) logical: u32,
    pub(super) physical: u64,
    pub(super) length: u16,
}

impl Extent {
    fn encode(self) -> [u8; ENTRY] {
        let mut entry = [0; ENTRY];
        put32(&mut entry, 0, self.logical);
        put16(&mut entry, 4, self.length);
        put16(&mut entry, 6, (self.physical >> 32) as u16);
        put32(&mut entry, 8, self.physical as u32);
        entry
    }
}

/// Appends a block, to the last extent where it follows that.
pub(super) fn append_block(extents: &mut Vec<Extent>, logical: u32, physical: u64) {
    if let Some(last) = extents.last_mut()
        && last.length < MAX_LENGTH
        && last.logical + u32::from(last.length) == logical
        && last.physical + u64::from(last.length) == physical
    {
        last.length += 1;
        return;
    }
    extents.push(Extent {
        logical,
        physical,
        length: 1,
    });
}

/// Entries of one level of a tree, each with the first block of the file that is below it.
type Level = Vec<(u32, [u8; ENTRY])>;

impl FileSystem {
    /// Writes the tree of a file's extents, and returns what its inode has of it.
    pub(super) fn map_extents(
        &mut self,
        inode: u32,
        extents: &[Extent],
        length: u64,
    ) -> Result<Body> {
        let data: u64 = extents.iter().map(|extent| u64::from(extent.length)).sum();
        let mut blocks = data;
        let entries = extents
            .iter()
            .map(|extent| (extent.logical, extent.encode()));
        let mut level: Level = entries.collect();
        let mut depth = 0;
        while level.len() > ROOT_ENTRIES {
            let mut above = Level::new();
            for entries in level.chunks(NODE_ENTRIES as usize) {
                let number = self.layout.allocate()?;
                blocks += 1;
                let mut node = [0; BLOCK_SIZE];
                fill_node(&mut node, entries, NODE_ENTRIES as u16, depth);
                let tail = 12 + NODE_ENTRIES as usize * ENTRY;
                let sum = checksum(self.inode_seed(inode), &node[..tail]);
                put32(&mut node, tail, sum);
                self.write_block(number, &node)?;
                let mut entry = [0; ENTRY];
                put32(&mut entry, 0, entries[0].0);
                put32(&mut entry, 4, number as u32);
                put16(&mut entry, 8, (number >> 32) as u16);
                above.push((entries[0].0, entry));
            }
            level = above;
            depth += 1;
        }
        let mut body = [0; BODY];
        fill_node(&mut body, &level, ROOT_ENTRIES as u16, depth);
        Ok(Body {
            body,
            length,
            sectors: blocks * (BLOCK / 512),
            has_extents: true,
        })
    }
}

fn fill_node(node: &mut [u8], entries: &[(u32, [u8; ENTRY])], most: u16, depth: u16) {
    put16(node, 0, EXTENTS_MAGIC);
    put16(node, 2, entries.len() as u16);
    put16(node, 4, most);
    put16(node, 6, depth);
    for (place, (_, entry)) in node[12..].chunks_mut(ENTRY).zip(entries) {
        place.copy_from_slice(entry);
    }
}
