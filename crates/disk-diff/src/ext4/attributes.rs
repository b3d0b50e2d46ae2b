//! Extended attributes: in what an inode has left, and in a block of their own.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::{Error, FileSystem, Inode, Result, u16_at, u32_at};

const MAGIC: u32 = 0xea02_0000;
/// Bytes of the head of a block of attributes, and of one in an inode.
const BLOCK_HEAD: usize = 32;
const INODE_HEAD: usize = 4;
const ENTRY_HEAD: usize = 16;
/// `EXT4_XATTR_INDEX_SYSTEM`: with the name `data` it is the content of a small file.
const SYSTEM: u8 = 7;
/// Longest value, which is in an inode of its own (`XATTR_SIZE_MAX`).
const MAX_VALUE: u64 = 64 << 10;

const DAMAGED: Error = Error::Damaged("extended attributes");

type Hash = [u8; 32];

/// Attributes of a file: index of the prefix of the name, the rest of it, and the hash of the
/// value, since a hostile block has the same bytes in as many values as it has entries.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    own: BTreeSet<(u8, Vec<u8>, Hash)>,
    /// Part of a small file's content that is an attribute.
    pub(super) inline_data: Vec<u8>,
}

impl Attributes {
    /// Returns true if both have the same ones, apart from content of small files.
    #[must_use]
    pub fn are_same(&self, other: &Self) -> bool {
        self.own == other.own
    }

    /// Adds the entries from `start` on; offsets of values count from `base`. `hash_inode` returns
    /// the hash of a value in an inode of its own.
    fn add(
        &mut self,
        bytes: &[u8],
        start: usize,
        base: usize,
        hash_inode: impl Fn(u32) -> Result<Hash>,
    ) -> Result<()> {
        let mut at = start;
        while let Some(entry) = bytes.get(at..at + ENTRY_HEAD) {
            // Four zeroes are the end.
            if u32_at(entry, 0) == 0 {
                return Ok(());
            }
            let name_end = at + ENTRY_HEAD + usize::from(entry[0]);
            let name = bytes.get(at + ENTRY_HEAD..name_end).ok_or(DAMAGED)?;
            at = name_end.next_multiple_of(4);
            let index = entry[1];
            let inode = u32_at(entry, 4);
            if inode != 0 {
                self.own.insert((index, name.to_vec(), hash_inode(inode)?));
                continue;
            }
            let value = match usize::try_from(u32_at(entry, 8)).unwrap_or(usize::MAX) {
                0 => &[],
                length => {
                    let from = base + usize::from(u16_at(entry, 2));
                    bytes
                        .get(from..from.saturating_add(length))
                        .ok_or(DAMAGED)?
                }
            };
            if index == SYSTEM && name == b"data" {
                self.inline_data = value.to_vec();
            } else {
                self.own
                    .insert((index, name.to_vec(), Sha256::digest(value).into()));
            }
        }
        Ok(())
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
            // Values in inodes of their own may differ all the same.
            && !self.has_values_in_inodes()
            && !other.has_values_in_inodes()
    }

    /// Reads the extended attributes of a file.
    ///
    /// # Errors
    /// [`Error::Damaged`] if not all of them can be read.
    pub fn attributes(&self, inode: &Inode) -> Result<Attributes> {
        let mut found = Attributes::default();
        let hash_inode = |number| {
            // A hostile block has many of them.
            self.check_time()?;
            self.hash_value(number)
        };
        if u32_at(&inode.inline_attributes, 0) == MAGIC {
            found.add(&inode.inline_attributes, INODE_HEAD, INODE_HEAD, hash_inode)?;
        }
        if inode.attribute_block != 0 {
            let block = self.block(inode.attribute_block)?;
            if u32_at(&block, 0) != MAGIC {
                return Err(DAMAGED);
            }
            found.add(&block, BLOCK_HEAD, 0, hash_inode)?;
        }
        Ok(found)
    }

    /// Hashes a value in an inode of its own. Its number says nothing: it is used again.
    fn hash_value(&self, number: u32) -> Result<Hash> {
        let inode = self.inode(number)?;
        if !inode.is_value() || inode.size > MAX_VALUE {
            return Err(DAMAGED);
        }
        let mut value = vec![0; usize::try_from(inode.size).unwrap_or_default()];
        self.read(&inode, &self.runs(&inode)?, 0, &mut value)?;
        Ok(Sha256::digest(value).into())
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
            let hash_inode = |_| Ok([0; 32]);
            let _ = found.add(&bytes, INODE_HEAD, INODE_HEAD, hash_inode);
            let _ = found.add(&bytes, BLOCK_HEAD, 0, hash_inode);
            prop_assert!(found.own.len() <= bytes.len() / 8);
        }
    }

    /// A block with one entry, whose value is where `offset` says.
    fn block(offset: u16, length: u32) -> Vec<u8> {
        let mut block = vec![0; 256];
        block[BLOCK_HEAD..BLOCK_HEAD + 2].copy_from_slice(&[4, 1]);
        block[BLOCK_HEAD + 2..BLOCK_HEAD + 4].copy_from_slice(&offset.to_le_bytes());
        block[BLOCK_HEAD + 8..BLOCK_HEAD + 12].copy_from_slice(&length.to_le_bytes());
        block[BLOCK_HEAD + 16..BLOCK_HEAD + 20].copy_from_slice(b"note");
        block
    }

    #[test]
    fn value_beyond_block_is_damage() {
        let add = |offset, length| {
            let mut found = Attributes::default();
            found.add(&block(offset, length), BLOCK_HEAD, 0, |_| Err(DAMAGED))?;
            Ok::<_, Error>(found)
        };
        assert!(add(200, 56).is_ok() && add(u16::MAX, 0).is_ok());
        assert!(matches!(add(200, 57), Err(Error::Damaged(_))));
        assert!(matches!(add(200, u32::MAX), Err(Error::Damaged(_))));
    }
}
