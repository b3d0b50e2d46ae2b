//! Inodes: what a file is, without its name.

use model::InodeKind;

use super::{Error, Result, incompat, u16_at, u32_at};

fn kind_from_mode(mode: u16) -> Option<InodeKind> {
    Some(match mode >> 12 {
        0x1 => InodeKind::Fifo,
        0x2 => InodeKind::CharacterDevice,
        0x4 => InodeKind::Directory,
        0x6 => InodeKind::BlockDevice,
        0x8 => InodeKind::File,
        0xa => InodeKind::Symlink,
        0xc => InodeKind::Socket,
        _ => return None,
    })
}

const HAS_EXTENTS: u32 = 0x8_0000;
/// `EXT4_EA_INODE_FL`: it has the value of an extended attribute, and no name.
const IS_VALUE: u32 = 0x20_0000;
const HAS_INLINE_DATA: u32 = 0x1000_0000;

/// Bytes of the part that names blocks.
pub(super) const MAP_BYTES: usize = 60;
const MAP: usize = 0x28;
/// End of the part that all inodes have.
const BASE_BYTES: usize = 128;

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    pub number: u32,
    pub kind: InodeKind,
    /// Permission bits, with set-user-id, set-group-id and sticky.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    flags: u32,
    /// Extents, pointers, the target of a short link, or the first bytes of a small file.
    pub(super) map: [u8; MAP_BYTES],
    /// Block with extended attributes; 0 for none.
    pub(super) attribute_block: u64,
    /// Extended attributes behind the inode's fields.
    pub(super) inline_attributes: Vec<u8>,
}

impl Inode {
    pub(super) fn parse(number: u32, bytes: &[u8], incompat: u32) -> Result<Self> {
        let mode = u16_at(bytes, 0);
        let kind = kind_from_mode(mode).ok_or(Error::Damaged("an inode that is not in use"))?;
        // An inode that was removed keeps its mode, and has no name left.
        if u16_at(bytes, 0x1a) == 0 {
            return Err(Error::Damaged("an inode that is not in use"));
        }
        let has_high_size = match kind {
            InodeKind::Directory => incompat & incompat::LARGE_DIRECTORIES != 0,
            kind => kind == InodeKind::File,
        };
        let high = if has_high_size {
            u32_at(bytes, 0x6c)
        } else {
            0
        };
        let wide = |low: usize, high: usize| {
            u32::from(u16_at(bytes, high)) << 16 | u32::from(u16_at(bytes, low))
        };
        let map = bytes.get(MAP..).and_then(|rest| rest.first_chunk());
        let extra = match bytes.len() > BASE_BYTES {
            true => BASE_BYTES + usize::from(u16_at(bytes, 0x80)),
            false => bytes.len(),
        };
        Ok(Self {
            number,
            kind,
            mode: mode & 0o7777,
            uid: wide(0x2, 0x78),
            gid: wide(0x18, 0x7a),
            size: u64::from(high) << 32 | u64::from(u32_at(bytes, 0x4)),
            flags: u32_at(bytes, 0x20),
            map: *map.ok_or(Error::Damaged("size of inodes"))?,
            attribute_block: u64::from(u16_at(bytes, 0x76)) << 32 | u64::from(u32_at(bytes, 0x68)),
            inline_attributes: bytes.get(extra..).unwrap_or_default().to_vec(),
        })
    }

    pub(super) fn has_extents(&self) -> bool {
        self.flags & HAS_EXTENTS != 0
    }

    pub(super) fn is_value(&self) -> bool {
        self.flags & IS_VALUE != 0
    }

    /// Returns true if its content is in the inode itself.
    #[must_use]
    pub fn has_inline_data(&self) -> bool {
        self.flags & HAS_INLINE_DATA != 0
    }

    /// Returns true if it is a link whose target is in the inode itself.
    pub(super) fn is_short_link(&self) -> bool {
        let is_link = self.kind == InodeKind::Symlink;
        is_link && !self.has_extents() && !self.has_inline_data() && self.size < MAP_BYTES as u64
    }

    /// Returns major and minor number of a device.
    #[must_use]
    pub fn device(&self) -> Option<(u32, u32)> {
        if !matches!(
            self.kind,
            InodeKind::BlockDevice | InodeKind::CharacterDevice
        ) {
            return None;
        }
        // As `new_decode_dev` of the kernel does; the first field has those of 8 bits each.
        Some(match (u32_at(&self.map, 0), u32_at(&self.map, 4)) {
            (0, new) => ((new >> 8) & 0xfff, (new & 0xff) | ((new >> 12) & 0xf_ff00)),
            (old, _) => ((old >> 8) & 0xff, old & 0xff),
        })
    }
}
