//! Groups of blocks: where the tables of inodes are.

use super::{Error, Result, incompat, u16_at, u32_at};

/// Layout of the groups, and where their descriptors are.
#[derive(Debug)]
pub(super) struct Groups {
    inodes_per_group: u32,
    blocks_per_group: u32,
    /// Block 1 in a file system of blocks of 1 KiB, else 0.
    first_block: u32,
    descriptor_size: u64,
    is_wide: bool,
    /// First descriptor block that lies in its own groups; `None` where all are after the
    /// superblock.
    first_meta: Option<u32>,
    /// Only some groups have a copy of the superblock.
    is_sparse: bool,
}

/// Block and offset in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) block: u64,
    pub(super) offset: usize,
}

impl Groups {
    pub(super) fn from_superblock(bytes: &[u8], incompat: u32, block_size: u64) -> Result<Self> {
        const SPARSE: u32 = 1;
        let is_wide = incompat & incompat::WIDE != 0;
        let size = match (is_wide, u16_at(bytes, 0xfe)) {
            (false, _) | (true, 0) => 32,
            (true, size) => u64::from(size),
        };
        let groups = Self {
            inodes_per_group: u32_at(bytes, 0x28),
            blocks_per_group: u32_at(bytes, 0x20),
            first_block: u32_at(bytes, 0x14),
            descriptor_size: size,
            is_wide,
            first_meta: (incompat & incompat::META_GROUPS != 0).then(|| u32_at(bytes, 0x104)),
            is_sparse: u32_at(bytes, 0x64) & SPARSE != 0,
        };
        let is_fine = groups.inodes_per_group > 0
            && groups.blocks_per_group > 0
            && size.is_power_of_two()
            && (32..=block_size).contains(&size);
        is_fine
            .then_some(groups)
            .ok_or(Error::Damaged("sizes of groups"))
    }

    /// Returns the group of an inode, and its index in there. `number` is at least 1.
    pub(super) fn group_of(&self, number: u32) -> (u32, u32) {
        let index = number - 1;
        (index / self.inodes_per_group, index % self.inodes_per_group)
    }

    /// Returns where the descriptor of a group is.
    pub(super) fn descriptor_place(&self, group: u32, block_size: u64) -> Place {
        let per_block = block_size / self.descriptor_size;
        let meta = u64::from(group) / per_block;
        let offset = u64::from(group) % per_block * self.descriptor_size;
        let block = match self.first_meta {
            Some(first) if meta >= u64::from(first) => {
                let first_group = meta * per_block;
                let start = first_group * u64::from(self.blocks_per_group);
                let copy = u64::from(self.has_superblock(first_group));
                u64::from(self.first_block) + start + copy
            }
            _ => u64::from(self.first_block) + 1 + meta,
        };
        Place {
            block,
            offset: usize::try_from(offset).unwrap_or(usize::MAX),
        }
    }

    /// Returns the first block of the table of inodes that a descriptor names.
    pub(super) fn inode_table(&self, block: &[u8], offset: usize) -> Result<u64> {
        let descriptor = block.get(offset..);
        let descriptor = descriptor.ok_or(Error::Damaged("place of a group"))?;
        let high = match self.is_wide && self.descriptor_size >= 64 {
            true => u32_at(descriptor, 0x28),
            false => 0,
        };
        Ok(u64::from(high) << 32 | u64::from(u32_at(descriptor, 0x8)))
    }

    fn has_superblock(&self, group: u64) -> bool {
        let is_power = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        !self.is_sparse || group <= 1 || [3, 5, 7].into_iter().any(is_power)
    }
}
