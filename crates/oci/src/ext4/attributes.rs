//! Extended attributes: in the inode if all have room there, else in a block of their own.

use super::layout::{BLOCK_SIZE, checksum, get32, put16, put32};
use crate::error::{Result, invalid, limit, printable};
use crate::tar_stream::Attributes as Named;

const MAGIC: u32 = 0xea02_0000;
/// Bytes of an inode behind its fields.
const INLINE: usize = 96;
const INLINE_HEADER: usize = 4;
const BLOCK_HEADER: usize = 32;
const ENTRY: usize = 16;
/// Zeroes that end the list of entries.
const END: usize = 4;

/// Access lists, whose form on disk is not that of the system call.
const ACCESS_LIST: &[u8] = b"system.posix_acl_access";
const DEFAULT_LIST: &[u8] = b"system.posix_acl_default";

/// An attribute as ext4 has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Attribute {
    /// Number of the prefix of its name.
    index: u8,
    name_length: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// Attributes of one inode, in the order that ext4 wants.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<Attribute>);

/// Encodes the attributes that ext4 has. Those of other namespaces, such as the `com.apple.` of
/// archives from macOS, mean nothing to Linux and are left out.
///
/// # Errors
/// When they are too large.
pub(super) fn encode(named: &Named) -> Result<Attributes> {
    let mut attributes = Vec::new();
    for (name, value) in named {
        if let Some(attribute) = encode_one(name, value)? {
            attributes.push(attribute);
        }
    }
    attributes.sort();
    let attributes = Attributes(attributes);
    if attributes.size() + BLOCK_HEADER + END > BLOCK_SIZE {
        return Err(limit(format!(
            "a file has extended attributes of more than 4 KiB, beginning with {}",
            printable(named.first().map_or(&b""[..], |(name, _)| name))
        )));
    }
    Ok(attributes)
}

fn encode_one(full: &[u8], value: &[u8]) -> Result<Option<Attribute>> {
    let index_and_name = match full {
        ACCESS_LIST => Some((2, &b""[..])),
        DEFAULT_LIST => Some((3, &b""[..])),
        _ => [(1, &b"user."[..]), (4, b"trusted."), (6, b"security.")]
            .into_iter()
            .find_map(|(index, prefix)| Some((index, full.strip_prefix(prefix)?)))
            .filter(|(_, name)| !name.is_empty()),
    };
    let Some((index, name)) = index_and_name else {
        return Ok(None);
    };
    if name.len() > 255 || name.contains(&0) {
        return Err(invalid(format!(
            "{} is no name of an extended attribute",
            printable(full)
        )));
    }
    let value = match index {
        2 | 3 => encode_access_list(value)
            .ok_or_else(|| invalid(format!("the access list in {} is broken", printable(full))))?,
        _ => value.to_vec(),
    };
    Ok(Some(Attribute {
        index,
        name_length: name.len(),
        name: name.to_vec(),
        value,
    }))
}

/// Converts from the form of acl(5) in extended attributes to that of ext4, whose entries have an id
/// only where they need one.
fn encode_access_list(value: &[u8]) -> Option<Vec<u8>> {
    const USER: u32 = 2;
    const GROUP: u32 = 8;
    let entries = value.strip_prefix(&2_u32.to_le_bytes())?;
    let (entries, []) = entries.as_chunks::<8>() else {
        return None;
    };
    let mut encoded = 1_u32.to_le_bytes().to_vec();
    for entry in entries {
        let tag = get32(entry, 0) & 0xffff;
        let length = if [USER, GROUP].contains(&tag) { 8 } else { 4 };
        encoded.extend_from_slice(&entry[..length]);
    }
    Some(encoded)
}

impl Attribute {
    fn entry_size(&self) -> usize {
        (ENTRY + self.name.len()).next_multiple_of(4)
    }

    fn value_size(&self) -> usize {
        self.value.len().next_multiple_of(4)
    }

    /// Returns the hash of Linux' `ext4_xattr_hash_entry`.
    fn hash(&self) -> u32 {
        let name = self.name.iter();
        let hash = name.fold(0_u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
        let words = self.value.chunks(4).map(|chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            u32::from_le_bytes(word)
        });
        words.fold(hash, |hash, word| hash.rotate_left(16) ^ word)
    }
}

impl Attributes {
    fn size(&self) -> usize {
        let sizes = self.0.iter();
        sizes.map(|one| one.entry_size() + one.value_size()).sum()
    }

    /// Returns what the inode has behind its fields, if all fit there.
    pub(super) fn inline(&self) -> Option<[u8; INLINE]> {
        if self.size() + INLINE_HEADER + END > INLINE {
            return None;
        }
        let mut bytes = [0; INLINE];
        if !self.0.is_empty() {
            put32(&mut bytes, 0, MAGIC);
            // Offsets of values count from the first entry.
            self.fill(&mut bytes[INLINE_HEADER..], 0, false);
        }
        Some(bytes)
    }

    /// Returns the block of attributes, without its checksum.
    pub(super) fn block(&self) -> Option<[u8; BLOCK_SIZE]> {
        let mut bytes = [0; BLOCK_SIZE];
        put32(&mut bytes, 0, MAGIC);
        put32(&mut bytes, 4, 1);
        put32(&mut bytes, 8, 1);
        let hashes = self.0.iter().map(Attribute::hash);
        let hash = hashes.fold(0_u32, |hash, one| hash.rotate_left(16) ^ one);
        put32(&mut bytes, 12, hash);
        self.fill(&mut bytes, BLOCK_HEADER, true);
        Some(bytes)
    }

    fn fill(&self, bytes: &mut [u8], first: usize, with_hashes: bool) {
        let mut entry = first;
        let mut values = bytes.len();
        for attribute in &self.0 {
            bytes[entry] = attribute.name.len() as u8;
            bytes[entry + 1] = attribute.index;
            if !attribute.value.is_empty() {
                values -= attribute.value_size();
                put16(bytes, entry + 2, values as u16);
                let end = values + attribute.value.len();
                bytes[values..end].copy_from_slice(&attribute.value);
            }
            put32(bytes, entry + 8, attribute.value.len() as u32);
            if with_hashes {
                put32(bytes, entry + 12, attribute.hash());
            }
            let name = entry + ENTRY;
            bytes[name..name + attribute.name.len()].copy_from_slice(&attribute.name);
            entry += attribute.entry_size();
        }
    }
}

/// Adds the checksum to a block of attributes.
pub(super) fn seal(block: &mut [u8; BLOCK_SIZE], seed: u32, number: u64) {
    let sum = checksum(seed, &number.to_le_bytes());
    let sum = checksum(sum, &*block);
    put32(block, 16, sum);
}
