//! Superblock, group descriptors and bitmaps (Linux, Documentation/filesystems/ext4).

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::BLOCK;
use crate::error::{Error, Result, invalid, limit};

/// Magic number of a node of extents.
pub(super) const EXTENTS_MAGIC: u16 = 0xf30a;
pub(super) const BLOCK_SIZE: usize = BLOCK as usize;
pub(super) const INODE_SIZE: usize = 256;
/// Offset of the superblock, and its size.
const SUPERBLOCK: u64 = 1024;
const SUPERBLOCK_SIZE: usize = 1024;
const MAGIC: u16 = 0xef53;
/// `filetype`, `extent`, `64bit`, `flex_bg`.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x80 | 0x200;
const METADATA_CSUM: u32 = 0x400;
const DESCRIPTOR_SIZE: usize = 64;
/// Flags of a group.
const INODE_UNINIT: u16 = 1;
const BLOCK_UNINIT: u16 = 2;
/// Inodes that the format reserves.
const RESERVED_INODES: u32 = 10;

/// Returns the checksum of ext4: CRC-32C without inversion at the end, from `seed` on.
pub(super) fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

pub(super) fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from(get16(bytes, at)) | u32::from(get16(bytes, at + 2)) << 16
}

pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Writes the lower bits of a number at one place, and the upper ones at another.
pub(super) fn put_split(bytes: &mut [u8], low: usize, high: usize, value: u64) {
    put32(bytes, low, value as u32);
    put32(bytes, high, (value >> 32) as u32);
}

fn put_split16(bytes: &mut [u8], low: usize, high: usize, value: u32) {
    put16(bytes, low, value as u16);
    put16(bytes, high, (value >> 16) as u16);
}

fn get_split(bytes: &[u8], low: usize, high: usize) -> u64 {
    u64::from(get32(bytes, low)) | u64::from(get32(bytes, high)) << 32
}

fn read_superblock(file: &File) -> Result<Option<[u8; SUPERBLOCK_SIZE]>> {
    let mut superblock = [0; SUPERBLOCK_SIZE];
    if file.metadata()?.len() < SUPERBLOCK + SUPERBLOCK_SIZE as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut superblock, SUPERBLOCK)?;
    Ok(Some(superblock).filter(|superblock| get16(superblock, 0x38) == MAGIC))
}

/// Returns true if the file begins with an ext4 file system, or one of ext2 or ext3.
///
/// # Errors
/// The file's.
pub fn is_ext4(file: &File) -> Result<bool> {
    Ok(read_superblock(file)?.is_some())
}

/// Returns the bytes of the file system in a file as its superblock has them.
///
/// # Errors
/// The file's; when it is none that a sandbox could have as its root.
pub(crate) fn stated_bytes(file: &File) -> Result<u64> {
    let superblock = read_superblock(file)?.ok_or_else(|| invalid("it is no ext4 file system"))?;
    let block = 1024_u64.checked_shl(get32(&superblock, 0x18));
    let block = block.filter(|block| (1024..=65536).contains(block));
    let blocks = match get32(&superblock, 0x60) & 0x80 {
        0 => u64::from(get32(&superblock, 0x04)),
        _ => get_split(&superblock, 0x04, 0x150),
    };
    let bytes = block.and_then(|block| block.checked_mul(blocks));
    bytes
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| invalid("the superblock of the ext4 file system is broken"))
}

#[derive(Debug)]
struct Group {
    descriptor: [u8; DESCRIPTOR_SIZE],
    directories: u32,
    /// Number of its inodes up to the last one that is used.
    used_inodes: u32,
}

impl Group {
    fn block_bitmap(&self) -> u64 {
        get_split(&self.descriptor, 0x00, 0x20)
    }

    fn inode_bitmap(&self) -> u64 {
        get_split(&self.descriptor, 0x04, 0x24)
    }

    fn inode_table(&self) -> u64 {
        get_split(&self.descriptor, 0x08, 0x28)
    }

    fn has_flag(&self, flag: u16) -> bool {
        get16(&self.descriptor, 0x12) & flag != 0
    }

    fn clear_flag(&mut self, flag: u16) {
        let flags = get16(&self.descriptor, 0x12) & !flag;
        put16(&mut self.descriptor, 0x12, flags);
    }
}

/// Tables of a file system.
#[derive(Debug)]
pub(super) struct Layout {
    superblock: [u8; SUPERBLOCK_SIZE],
    groups: Vec<Group>,
    /// A bit for each block that is in use.
    used: Vec<u64>,
    blocks: u64,
    blocks_per_group: u64,
    inodes_per_group: u32,
    /// Where the next free block is looked for.
    cursor: u64,
    /// Seed of all checksums but that of the superblock.
    pub(super) seed: u32,
}

impl Layout {
    pub(super) fn read(file: &File) -> Result<Self> {
        let superblock = read_superblock(file)?.ok_or_else(unexpected)?;
        let is_expected = get32(&superblock, 0x18) == 2
            && usize::from(get16(&superblock, 0x58)) == INODE_SIZE
            && get32(&superblock, 0x60) & !INCOMPATIBLE == 0
            && get32(&superblock, 0x60) & 0xc0 == 0xc0
            && get32(&superblock, 0x64) & METADATA_CSUM != 0
            && usize::from(get16(&superblock, 0xfe)) == DESCRIPTOR_SIZE;
        let blocks = get_split(&superblock, 0x04, 0x150);
        let blocks_per_group = u64::from(get32(&superblock, 0x20));
        let inodes_per_group = get32(&superblock, 0x28);
        if !is_expected || blocks == 0 || blocks_per_group != BLOCK * 8 || inodes_per_group == 0 {
            return Err(unexpected());
        }
        let count = blocks.div_ceil(blocks_per_group);
        let mut groups = Vec::new();
        for number in 0..count {
            let mut descriptor = [0; DESCRIPTOR_SIZE];
            file.read_exact_at(&mut descriptor, BLOCK + number * DESCRIPTOR_SIZE as u64)?;
            groups.push(Group {
                descriptor,
                directories: 0,
                used_inodes: 0,
            });
        }
        let words = usize::try_from(blocks.div_ceil(64)).map_err(|_| unexpected())?;
        let mut layout = Self {
            seed: checksum(u32::MAX, &superblock[0x68..0x78]),
            superblock,
            groups,
            used: vec![0; words],
            blocks,
            blocks_per_group,
            inodes_per_group,
            cursor: 0,
        };
        layout.read_bitmaps(file)?;
        layout.note_inodes(0..RESERVED_INODES);
        Ok(layout)
    }

    fn read_bitmaps(&mut self, file: &File) -> Result<()> {
        let table = u64::from(self.inodes_per_group) * INODE_SIZE as u64 / BLOCK;
        for number in 0..self.groups.len() {
            let start = number as u64 * self.blocks_per_group;
            let group = &self.groups[number];
            let tables = [
                group.block_bitmap()..group.block_bitmap() + 1,
                group.inode_bitmap()..group.inode_bitmap() + 1,
                group.inode_table()..group.inode_table() + table,
            ];
            if group.has_flag(BLOCK_UNINIT) {
                self.mark(start..start + self.backup_blocks(number));
            } else {
                let mut bitmap = [0; BLOCK_SIZE];
                file.read_exact_at(&mut bitmap, group.block_bitmap() * BLOCK)?;
                let end = (start + self.blocks_per_group).min(self.blocks);
                for block in start..end {
                    let at = (block - start) as usize;
                    if bitmap[at / 8] & 1 << (at % 8) != 0 {
                        self.mark(block..block + 1);
                    }
                }
            }
            tables.into_iter().for_each(|range| self.mark(range));
        }
        Ok(())
    }

    /// Returns the number of blocks that a group begins with if it has a copy of the superblock
    /// (`sparse_super`): that, the descriptors, and their reserve.
    fn backup_blocks(&self, group: usize) -> u64 {
        let is_power = |base: usize| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        if group > 1 && ![3, 5, 7].into_iter().any(is_power) {
            return 0;
        }
        let descriptors = (self.groups.len() * DESCRIPTOR_SIZE).div_ceil(BLOCK_SIZE) as u64;
        1 + descriptors + u64::from(get16(&self.superblock, 0xce))
    }

    fn mark(&mut self, range: Range<u64>) {
        for block in range.start..range.end.min(self.blocks) {
            self.used[(block / 64) as usize] |= 1 << (block % 64);
        }
    }

    fn is_used(&self, block: u64) -> bool {
        self.used[(block / 64) as usize] & 1 << (block % 64) != 0
    }

    /// Frees the blocks of a directory that mke2fs has made. It has at most four extents.
    pub(super) fn free_directory(&mut self, file: &File, inode: u32) -> Result<()> {
        let mut bytes = [0; INODE_SIZE];
        file.read_exact_at(&mut bytes, self.inode_offset(inode)?)?;
        let body = &bytes[0x28..0x28 + 60];
        if get16(body, 0) != EXTENTS_MAGIC || get16(body, 6) != 0 {
            return Err(unexpected());
        }
        for entry in 0..usize::from(get16(body, 2)).min(4) {
            let at = 12 + entry * 12;
            let start = u64::from(get32(body, at + 8)) | u64::from(get16(body, at + 6)) << 32;
            for block in start..start + u64::from(get16(body, at + 4)) {
                if block >= self.blocks {
                    return Err(unexpected());
                }
                self.used[(block / 64) as usize] &= !(1 << (block % 64));
            }
        }
        Ok(())
    }

    /// Takes a free block.
    pub(super) fn allocate(&mut self) -> Result<u64> {
        while self.cursor < self.blocks {
            let word = (self.cursor / 64) as usize;
            if self.cursor.is_multiple_of(64) && self.used[word] == u64::MAX {
                self.cursor += 64;
                continue;
            }
            let block = self.cursor;
            self.cursor += 1;
            if !self.is_used(block) {
                self.mark(block..block + 1);
                return Ok(block);
            }
        }
        Err(limit(
            "the file system that was made for the image is too small",
        ))
    }

    pub(super) fn check_inodes(&self, last: u32) -> Result<()> {
        let all = u64::from(self.inodes_per_group) * self.groups.len() as u64;
        if u64::from(last) > all {
            return Err(limit(
                "the file system that was made for the image has too few inodes",
            ));
        }
        Ok(())
    }

    fn note_inodes(&mut self, indices: Range<u32>) {
        for index in indices {
            let group = &mut self.groups[(index / self.inodes_per_group) as usize];
            group.used_inodes = group.used_inodes.max(index % self.inodes_per_group + 1);
        }
    }

    /// Notes that an inode is in use.
    pub(super) fn note_inode(&mut self, inode: u32, is_directory: bool) {
        self.note_inodes(inode - 1..inode);
        let group = &mut self.groups[((inode - 1) / self.inodes_per_group) as usize];
        group.directories += u32::from(is_directory);
    }

    /// Returns where an inode is in the file.
    pub(super) fn inode_offset(&self, inode: u32) -> Result<u64> {
        let index = inode - 1;
        let group = self.groups.get((index / self.inodes_per_group) as usize);
        let table = group.ok_or_else(unexpected)?.inode_table();
        Ok(table * BLOCK + u64::from(index % self.inodes_per_group) * INODE_SIZE as u64)
    }

    /// Writes bitmaps, descriptors and superblock.
    pub(super) fn write(&mut self, file: &File) -> Result<()> {
        let mut free_blocks = 0;
        let mut free_inodes = 0;
        for number in 0..self.groups.len() {
            let free = self.write_group(file, number)?;
            free_blocks += u64::from(free.0);
            free_inodes += free.1;
        }
        put_split(&mut self.superblock, 0x0c, 0x158, free_blocks);
        put32(&mut self.superblock, 0x10, free_inodes);
        let sum = checksum(u32::MAX, &self.superblock[..0x3fc]);
        put32(&mut self.superblock, 0x3fc, sum);
        Ok(file.write_all_at(&self.superblock, SUPERBLOCK)?)
    }

    /// Returns the free blocks and inodes of the group.
    fn write_group(&mut self, file: &File, number: usize) -> Result<(u32, u32)> {
        let start = number as u64 * self.blocks_per_group;
        let mut block_bitmap = [0xff; BLOCK_SIZE];
        let mut free_blocks = 0;
        for block in start..(start + self.blocks_per_group).min(self.blocks) {
            if !self.is_used(block) {
                let at = (block - start) as usize;
                block_bitmap[at / 8] &= !(1 << (at % 8));
                free_blocks += 1;
            }
        }
        let seed = self.seed;
        let inodes = self.inodes_per_group;
        let group = &mut self.groups[number];
        let mut inode_bitmap = [0xff; BLOCK_SIZE];
        for index in group.used_inodes..inodes {
            inode_bitmap[(index / 8) as usize] &= !(1 << (index % 8));
        }
        let free_inodes = inodes - group.used_inodes;
        let block_sum = checksum(seed, &block_bitmap);
        let inode_sum = checksum(seed, &inode_bitmap[..inodes as usize / 8]);
        file.write_all_at(&block_bitmap, group.block_bitmap() * BLOCK)?;
        file.write_all_at(&inode_bitmap, group.inode_bitmap() * BLOCK)?;
        group.clear_flag(BLOCK_UNINIT);
        if group.used_inodes > 0 {
            group.clear_flag(INODE_UNINIT);
        }
        let descriptor = &mut group.descriptor;
        put_split16(descriptor, 0x0c, 0x2c, free_blocks);
        put_split16(descriptor, 0x0e, 0x2e, free_inodes);
        put_split16(descriptor, 0x10, 0x30, group.directories);
        put_split16(descriptor, 0x18, 0x38, block_sum);
        put_split16(descriptor, 0x1a, 0x3a, inode_sum);
        put_split16(descriptor, 0x1c, 0x32, free_inodes);
        put16(descriptor, 0x1e, 0);
        let sum = checksum(seed, &(number as u32).to_le_bytes());
        let sum = checksum(sum, &*descriptor);
        put16(descriptor, 0x1e, sum as u16);
        let at = BLOCK + number as u64 * DESCRIPTOR_SIZE as u64;
        file.write_all_at(&*descriptor, at)?;
        Ok((free_blocks, free_inodes))
    }
}

fn unexpected() -> Error {
    Error::Io(std::io::Error::other(
        "mke2fs has made a file system of another form than it was asked for",
    ))
}
