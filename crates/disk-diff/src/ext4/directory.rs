//! Entries of directories. A directory with an index of hashes is also a list, in which the index
//! is hidden in entries without a file.

use std::collections::BTreeMap;

use model::InodeKind;

use super::{Error, FileSystem, Inode, Result, u16_at, u32_at};

/// Bytes of an entry before its name.
const HEAD: usize = 8;
/// Entries of a directory in its inode begin after the number of its parent.
const INLINE_START: usize = 4;

/// Most blocks of a directory that are read: 1 GiB of the usual size. Extents may name one block many
/// times.
const MAX_BLOCKS: u64 = 1 << 18;

/// An entry of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub inode: u32,
}

/// Entries of a directory by name, without `.` and `..`.
#[derive(Debug, Default)]
pub struct Entries {
    pub by_name: BTreeMap<Vec<u8>, Entry>,
    /// There are more than were wanted.
    pub is_cut: bool,
    /// Some could not be read.
    pub is_damaged: bool,
}

/// Entries that a reading is for.
#[derive(Debug, Clone, Copy)]
enum Wanted<'a> {
    /// All, up to a number of them.
    UpTo(usize),
    Named(&'a [u8]),
}

impl FileSystem {
    /// Reads a directory, up to `most` entries of it.
    ///
    /// # Errors
    /// [`Error::Damaged`] if none of it can be read.
    pub fn entries(&self, directory: &Inode, most: usize) -> Result<Entries> {
        self.read_entries(directory, Wanted::UpTo(most))
    }

    /// Returns the number of the inode of a name in a directory; `None` if there is no such name.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the name may be in a part that cannot be read.
    pub fn find_entry(&self, directory: &Inode, name: &[u8]) -> Result<Option<u32>> {
        let found = self.read_entries(directory, Wanted::Named(name))?;
        match found.by_name.get(name) {
            Some(entry) => Ok(Some(entry.inode)),
            None if found.is_cut => Err(Error::Damaged("a directory that is too long")),
            None if found.is_damaged => Err(Error::Damaged("a directory")),
            None => Ok(None),
        }
    }

    fn read_entries(&self, directory: &Inode, wanted: Wanted<'_>) -> Result<Entries> {
        if directory.kind != InodeKind::Directory {
            return Err(Error::Damaged("a directory that is none"));
        }
        let mut entries = Entries::default();
        if directory.has_inline_data() {
            let content = self.inline_content(directory)?;
            let (first, rest) = content.split_at(super::inode::MAP_BYTES.min(content.len()));
            for part in [first.get(INLINE_START..).unwrap_or_default(), rest] {
                entries.add_block(part, wanted);
            }
            return Ok(entries);
        }
        let runs = self.runs(directory)?;
        let end = directory.size / self.block_size();
        let is_long = end > MAX_BLOCKS;
        let end = end.min(MAX_BLOCKS);
        let mut next = 0;
        for run in runs.as_slice() {
            // The kernel makes no directory with holes, in which entries would be missing.
            entries.is_damaged |= run.first > next && next < end;
            next = run.end();
            for index in 0..run.count {
                if run.first + index >= end || entries.is_cut {
                    break;
                }
                match self.block(run.place + index) {
                    Ok(block) => entries.add_block(&block, wanted),
                    Err(Error::Damaged(_)) => entries.is_damaged = true,
                    Err(error) => return Err(error),
                }
            }
        }
        entries.is_damaged |= next < end;
        entries.is_cut |= is_long;
        Ok(entries)
    }
}

impl Entries {
    /// Adds the entries of a block, or of a part of an inode.
    fn add_block(&mut self, block: &[u8], wanted: Wanted<'_>) {
        let mut rest = block;
        while rest.len() >= HEAD {
            let length = match u16_at(rest, 4) {
                // As long as a block of 64 KiB, which the field cannot say.
                0 | u16::MAX if block.len() > usize::from(u16::MAX) => rest.len(),
                length => usize::from(length),
            };
            if length < HEAD || length > rest.len() {
                self.is_damaged = true;
                return;
            }
            let (entry, after) = rest.split_at(length);
            rest = after;
            self.add_entry(entry, wanted);
            if self.is_cut {
                return;
            }
        }
    }

    fn add_entry(&mut self, entry: &[u8], wanted: Wanted<'_>) {
        let inode = u32_at(entry, 0);
        if inode == 0 {
            return;
        }
        let name = entry.get(HEAD..HEAD + usize::from(entry[6]));
        let name = match name {
            Some(b"." | b"..") => return,
            Some(name) if !name.is_empty() && !name.iter().any(|byte| b"/\0".contains(byte)) => {
                name
            }
            _ => {
                self.is_damaged = true;
                return;
            }
        };
        match wanted {
            Wanted::UpTo(most) if self.by_name.len() >= most => {
                self.is_cut = true;
                return;
            }
            Wanted::Named(wanted) if wanted != name => return,
            Wanted::UpTo(_) | Wanted::Named(_) => {}
        }
        // No kernel makes two of a name.
        let former = self.by_name.insert(name.to_vec(), Entry { inode });
        self.is_damaged |= former.is_some();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(inode: u32, name: &[u8], length: usize) -> Vec<u8> {
        let mut entry = inode.to_le_bytes().to_vec();
        entry.extend(u16::try_from(length).unwrap().to_le_bytes());
        entry.extend([u8::try_from(name.len()).unwrap(), 1]);
        entry.extend(name);
        entry.resize(length, 0);
        entry
    }

    #[test]
    fn hostile_names_are_damage() {
        let mut entries = Entries::default();
        let names: [&[u8]; 6] = [b"fine", b"..", b"a/b", b"", b"nul\0", b"caf\xe9"];
        let block: Vec<u8> = names.iter().flat_map(|name| entry(7, name, 16)).collect();
        entries.add_block(&block, Wanted::UpTo(10));
        let found: Vec<&[u8]> = entries.by_name.keys().map(Vec::as_slice).collect();
        assert_eq!(found, [&b"caf\xe9"[..], b"fine"]);
        assert!(entries.is_damaged && !entries.is_cut);
        let mut few = Entries::default();
        few.add_block(&block, Wanted::UpTo(1));
        assert!(few.is_cut && few.by_name.len() == 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(block in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut entries = Entries::default();
            entries.add_block(&block, Wanted::UpTo(100));
            prop_assert!(entries.by_name.len() <= block.len() / HEAD);
        }
    }
}
