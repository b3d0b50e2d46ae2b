//! Inodes.

use std::os::unix::fs::FileExt;

use super::attributes;
use super::layout::{EXTENTS_MAGIC, INODE_SIZE, checksum, put16, put32};
use super::{BLOCK, FileSystem};
use crate::error::Result;
use crate::tree::{InodeId, Kind, Tree};

/// Bytes of an inode that say where its content is.
pub(super) const BODY: usize = 60;
/// Bytes of the fields behind the first 128.
const EXTRA_SIZE: u16 = 32;
const EXTENTS_FLAG: u32 = 0x8_0000;
/// Most names of a directory; with more, its count is 1 (`dir_nlink`).
const MAX_DIRECTORY_LINKS: u32 = 65_000;

/// Content of an inode.
#[derive(Debug, Clone)]
pub(super) struct Body {
    pub(super) body: [u8; BODY],
    pub(super) length: u64,
    /// Units of 512 bytes that it takes.
    pub(super) sectors: u64,
    pub(super) has_extents: bool,
}

impl Default for Body {
    fn default() -> Self {
        Self {
            body: [0; BODY],
            length: 0,
            sectors: 0,
            has_extents: false,
        }
    }
}

impl Body {
    pub(super) fn empty_file() -> Self {
        let mut body = [0; BODY];
        put16(&mut body, 0, EXTENTS_MAGIC);
        put16(&mut body, 4, 4);
        Self {
            body,
            has_extents: true,
            ..Self::default()
        }
    }

    /// Returns the body of a symbolic link that has room in its inode.
    pub(super) fn short_symlink(target: &[u8]) -> Option<Self> {
        if target.len() >= BODY {
            return None;
        }
        let mut body = [0; BODY];
        body[..target.len()].copy_from_slice(target);
        Some(Self {
            body,
            length: target.len() as u64,
            ..Self::default()
        })
    }

    /// Small numbers in the form of before Linux 2.6, others in the new one.
    pub(super) fn device(major: u32, minor: u32) -> Self {
        let mut body = [0; BODY];
        if major < 256 && minor < 256 {
            put32(&mut body, 0, major << 8 | minor);
        } else {
            put32(
                &mut body,
                4,
                minor & 0xff | major << 8 | (minor & !0xff) << 12,
            );
        }
        Self {
            body,
            ..Self::default()
        }
    }
}

fn type_bits(kind: &Kind) -> u16 {
    match kind {
        Kind::Fifo => 0o010_000,
        Kind::CharDevice(..) => 0o020_000,
        Kind::Directory(_) => 0o040_000,
        Kind::BlockDevice(..) => 0o060_000,
        Kind::File(..) => 0o100_000,
        Kind::Symlink(_) => 0o120_000,
    }
}

/// Returns the lower 32 bits of a time, and the field with the upper bits and the nanoseconds. Times
/// that ext4 does not have become the next one that it has.
fn encode_time((seconds, nanos): (i64, u32)) -> (u32, u32) {
    const FIRST: i64 = i32::MIN as i64;
    const LAST: i64 = FIRST + (1 << 34) - 1;
    let seconds = seconds.clamp(FIRST, LAST);
    let low = seconds as i32;
    let epoch = (seconds - i64::from(low)) >> 32;
    (low.cast_unsigned(), epoch as u32 & 3 | nanos << 2)
}

/// Returns the number of names of an inode, as it has it.
fn count_links(tree: &Tree, id: InodeId) -> u32 {
    let is_directory = |id| matches!(tree.inode(id).kind, Kind::Directory(_));
    if !is_directory(id) {
        return tree.inode(id).links;
    }
    let children = tree.children(id);
    let below = children.filter(|(_, child)| is_directory(*child)).count();
    // Its name, its own `.`, and the `..` of those below.
    let links = u32::try_from(below).unwrap_or(u32::MAX).saturating_add(2);
    if links > MAX_DIRECTORY_LINKS {
        1
    } else {
        links
    }
}

impl FileSystem {
    /// Returns the seed of checksums of what belongs to an inode, whose generation is 0.
    pub(super) fn inode_seed(&self, number: u32) -> u32 {
        let seed = checksum(self.layout.seed, &number.to_le_bytes());
        checksum(seed, &0_u32.to_le_bytes())
    }

    /// Writes an inode, with its attributes.
    pub(super) fn write_inode(
        &mut self,
        number: u32,
        tree: &Tree,
        id: InodeId,
        body: Body,
    ) -> Result<()> {
        let inode = tree.inode(id);
        let meta = &inode.meta;
        let is_directory = matches!(inode.kind, Kind::Directory(_));
        let links = count_links(tree, id);
        let (time, extra) = encode_time(meta.modified);
        let mut bytes = [0; INODE_SIZE];
        put16(&mut bytes, 0x00, type_bits(&inode.kind) | meta.mode);
        put16(&mut bytes, 0x02, meta.uid as u16);
        put32(&mut bytes, 0x04, body.length as u32);
        for at in [0x08, 0x0c, 0x10, 0x90] {
            put32(&mut bytes, at, time);
        }
        for at in [0x84, 0x88, 0x8c, 0x94] {
            put32(&mut bytes, at, extra);
        }
        put16(&mut bytes, 0x18, meta.gid as u16);
        put16(&mut bytes, 0x1a, links as u16);
        put32(
            &mut bytes,
            0x20,
            if body.has_extents { EXTENTS_FLAG } else { 0 },
        );
        bytes[0x28..0x28 + BODY].copy_from_slice(&body.body);
        put32(&mut bytes, 0x6c, (body.length >> 32) as u32);
        put16(&mut bytes, 0x78, (meta.uid >> 16) as u16);
        put16(&mut bytes, 0x7a, (meta.gid >> 16) as u16);
        put16(&mut bytes, 0x80, EXTRA_SIZE);
        let mut sectors = body.sectors;
        let attributes = attributes::encode(&meta.attributes)?;
        if let Some(inline) = attributes.inline() {
            bytes[128 + usize::from(EXTRA_SIZE)..].copy_from_slice(&inline);
        } else if let Some(mut block) = attributes.block() {
            let at = self.layout.allocate()?;
            attributes::seal(&mut block, self.layout.seed, at);
            self.write_block(at, &block)?;
            put32(&mut bytes, 0x68, at as u32);
            put16(&mut bytes, 0x76, (at >> 32) as u16);
            sectors += BLOCK / 512;
        }
        put32(&mut bytes, 0x1c, sectors as u32);
        put16(&mut bytes, 0x74, (sectors >> 32) as u16);
        let sum = checksum(self.inode_seed(number), &bytes);
        put16(&mut bytes, 0x7c, sum as u16);
        put16(&mut bytes, 0x82, (sum >> 16) as u16);
        self.layout.note_inode(number, is_directory);
        Ok(self
            .file
            .write_all_at(&bytes, self.layout.inode_offset(number)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_take_34_bits() {
        let year_2446 = 15_032_385_535;
        for (seconds, expected) in [
            (0, (0, 0)),
            (-1, (u32::MAX, 0)),
            (i64::from(i32::MAX) + 1, (0x8000_0000, 1)),
            (year_2446, (0x7fff_ffff, 3)),
            (i64::MAX, (0x7fff_ffff, 3)),
            (i64::MIN, (0x8000_0000, 0)),
        ] {
            assert_eq!(encode_time((seconds, 0)), expected, "{seconds}");
        }
        assert_eq!(encode_time((0, 999_999_999)), (0, 999_999_999 << 2));
    }
}
