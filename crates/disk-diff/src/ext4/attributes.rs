//! Extended attributes: in what an inode has left, and in a block of their own.

use std::collections::BTreeSet;

use super::{FileSystem, Inode, Result, u16_at, u32_at};

const MAGIC: u32 = 0xea02_0000;
/// Bytes of the head of a block of attributes, and of one in an inode.
const BLOCK_HEAD: usize = 32;
const INODE_HEAD: usize = 4;
const ENTRY_HEAD: usize = 16;
/// `EXT4_XATTR_INDEX_SYSTEM`: with the name `data` it is the content of a small file.
const SYSTEM: u8 = 7;

/// Attributes of a file: index of the prefix of the name, the rest of it, and the value. Of a value
/// that is in an inode of its own, the number of that.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Attributes(BTreeSet<(u8, Vec<u8>, Vec<u8>)>);

impl Attributes {
    fn is_inline_data(index: u8, name: &[u8]) -> bool {
        index == SYSTEM && name == b"data"
    }

    /// Returns the part of a small file's content that is an attribute.
    pub(super) fn inline_data(self) -> Vec<u8> {
        let mut all = self.0.into_iter();
        let found = all.find(|(index, name, _)| Self::is_inline_data(*index, name));
        found.map(|(_, _, value)| value).unwrap_or_default()
    }

    /// Returns true if both have the same ones, apart from content of small files.
    #[must_use]
    pub fn are_same(&self, other: &Self) -> bool {
        let own = |of: &Self| {
            let all = of.0.iter();
            all.filter(|(index, name, _)| !Self::is_inline_data(*index, name))
                .cloned()
                .collect::<Vec<_>>()
        };
        own(self) == own(other)
    }

    /// Adds the entries from `start` on; offsets of values count from `base`.
    fn add(&mut self, bytes: &[u8], start: usize, base: usize) {
        let mut at = start;
        while let Some(entry) = bytes.get(at..at + ENTRY_HEAD) {
            // Four zeroes are the end.
            if u32_at(entry, 0) == 0 {
                return;
            }
            let name_length = usize::from(entry[0]);
            let Some(name) = bytes.get(at + ENTRY_HEAD..at + ENTRY_HEAD + name_length) else {
                return;
            };
            let value = match u32_at(entry, 4) {
                0 => {
                    let from = base + usize::from(u16_at(entry, 2));
                    let length = usize::try_from(u32_at(entry, 8)).unwrap_or(usize::MAX);
                    bytes
                        .get(from..from.saturating_add(length))
                        .unwrap_or_default()
                        .to_vec()
                }
                inode => inode.to_le_bytes().to_vec(),
            };
            self.0.insert((entry[1], name.to_vec(), value));
            at += (ENTRY_HEAD + name_length).next_multiple_of(4);
        }
    }
}

impl FileSystem {
    /// Returns true if extended attributes of two files are the same without reading them.
    #[must_use]
    pub fn has_same_attributes(&self, inode: &Inode, other: &Self, others: &Inode) -> bool {
        let block = inode.attribute_block;
        inode.inline_attributes == others.inline_attributes
            && block == others.attribute_block
            && (block == 0 || self.shares_blocks(other, block, 1))
    }

    /// Reads the extended attributes of a file. Those that are damaged are left out.
    ///
    /// # Errors
    /// When the block cannot be read.
    pub fn attributes(&self, inode: &Inode) -> Result<Attributes> {
        let mut found = Attributes::default();
        if u32_at(&inode.inline_attributes, 0) == MAGIC {
            found.add(&inode.inline_attributes, INODE_HEAD, INODE_HEAD);
        }
        if inode.attribute_block != 0 {
            let block = self.block(inode.attribute_block)?;
            if u32_at(&block, 0) == MAGIC {
                found.add(&block, BLOCK_HEAD, 0);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut found = Attributes::default();
            found.add(&bytes, INODE_HEAD, INODE_HEAD);
            found.add(&bytes, BLOCK_HEAD, 0);
            prop_assert!(found.0.len() <= bytes.len() / 8);
        }
    }
}
