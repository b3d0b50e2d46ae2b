//! The files of two disks as the trees that are compared.

use std::cell::Cell;

use model::InodeKind;

use super::content::Content;
use super::text::{MAX_PATCH_BYTES, MAX_TEXT_BYTES, Patch};
use super::{Bytes, Change, FileState, Listing, Read, Side, Sides};
use crate::ext4::{self, Error, FileSystem, Inode, ROOT};

/// Bytes of all unified diffs of one comparison together.
const MAX_PATCHES_BYTES: usize = 32 << 20;
/// Longest file whose hash is told. One of this size takes a second.
const MAX_HASHED_BYTES: u64 = 256 << 20;

/// Reason why there is nothing to compare.
#[derive(Debug)]
pub enum NoSides {
    /// The path exists on neither side.
    NoSuchPath,
    /// A directory on the way to the path cannot be read.
    Unreadable(Side, Error),
}

/// File systems of two disks, below a path.
#[derive(Debug)]
pub struct DiskSides<'a> {
    before: &'a FileSystem,
    after: &'a FileSystem,
    roots: [Option<u32>; 2],
    /// Bytes that unified diffs may still have; `None` if none are wanted.
    patches: Option<Cell<usize>>,
}

/// A file of a disk.
#[derive(Debug)]
pub struct DiskFile {
    inode: Inode,
    state: FileState,
}

impl<'a> DiskSides<'a> {
    /// Finds the path on both disks. Symbolic links are not followed.
    ///
    /// # Errors
    /// [`NoSides`].
    pub fn new(
        before: &'a FileSystem,
        after: &'a FileSystem,
        path: &[u8],
        patches: bool,
    ) -> Result<Self, NoSides> {
        let find = |side, fs| find(fs, path).map_err(|error| NoSides::Unreadable(side, error));
        let roots = [find(Side::Before, before)?, find(Side::After, after)?];
        if roots == [None, None] {
            return Err(NoSides::NoSuchPath);
        }
        Ok(Self {
            before,
            after,
            roots,
            patches: patches.then(|| Cell::new(MAX_PATCHES_BYTES)),
        })
    }

    fn fs(&self, side: Side) -> &'a FileSystem {
        match side {
            Side::Before => self.before,
            Side::After => self.after,
        }
    }

    fn content<'b>(&'b self, side: Side, file: &'b DiskFile) -> Content<'b> {
        Content {
            fs: self.fs(side),
            inode: &file.inode,
        }
    }

    /// Reads a side of a unified diff; `None` if it is too long.
    fn text(&self, side: Side, file: Option<&DiskFile>) -> Read<Option<Vec<u8>>> {
        match file {
            Some(file) => self.content(side, file).read_all(MAX_TEXT_BYTES),
            None => Ok(Some(Vec::new())),
        }
    }

    fn patch(
        &self,
        before: Option<&DiskFile>,
        after: Option<&DiskFile>,
        left: usize,
    ) -> Read<Patch> {
        let old = self.text(Side::Before, before)?;
        let new = self.text(Side::After, after)?;
        if let (Some(old), Some(new)) = (old, new) {
            return Ok(Patch::new(&old, &new, left.min(MAX_PATCH_BYTES)));
        }
        for (side, file) in [(Side::Before, before), (Side::After, after)] {
            if let Some(file) = file
                && self.content(side, file).starts_binary()?
            {
                return Ok(Patch::BINARY);
            }
        }
        Ok(Patch::TOO_LONG)
    }

    fn hash(&self, side: Side, file: Option<&DiskFile>) -> Read<Option<String>> {
        let hash = |file| self.content(side, file).sha256(MAX_HASHED_BYTES);
        Ok(file.map(hash).transpose()?.flatten())
    }
}

/// Returns the number of the inode at a path; `None` if there is none.
fn find(fs: &FileSystem, path: &[u8]) -> ext4::Result<Option<u32>> {
    let names = path.split(|byte| *byte == b'/');
    let names = names.filter(|name| !name.is_empty() && *name != b".");
    let mut number = ROOT;
    for name in names {
        let directory = fs.inode(number)?;
        if directory.kind != InodeKind::Directory {
            return Ok(None);
        }
        let Some(found) = fs.find_entry(&directory, name)? else {
            return Ok(None);
        };
        number = found;
    }
    Ok(Some(number))
}

impl Sides for DiskSides<'_> {
    type Entry = u32;
    type File = DiskFile;

    fn root(&self, side: Side) -> Option<u32> {
        let [before, after] = self.roots;
        match side {
            Side::Before => before,
            Side::After => after,
        }
    }

    fn missing(&self) -> Option<&'static str> {
        let has_unread = self.before.has_unread_changes() || self.after.has_unread_changes();
        has_unread.then_some("the journal has fast commits, which are not read")
    }

    fn open(&self, side: Side, entry: u32) -> Read<DiskFile> {
        let fs = self.fs(side);
        let inode = fs.inode(entry)?;
        let target = match inode.kind {
            InodeKind::Symlink => Some(Bytes(fs.link_target(&inode)?)),
            _ => None,
        };
        let state = FileState {
            kind: inode.kind,
            size: if inode.kind == InodeKind::File {
                inode.size
            } else {
                0
            },
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            target,
            device: inode.device(),
            sha256: None,
        };
        Ok(DiskFile { inode, state })
    }

    fn state<'b>(&self, file: &'b DiskFile) -> &'b FileState {
        &file.state
    }

    fn list(&self, side: Side, directory: &DiskFile, most: usize) -> Read<Listing<u32>> {
        let entries = self.fs(side).entries(&directory.inode, most)?;
        let by_name = entries.by_name.into_iter();
        Ok(Listing {
            entries: by_name.map(|(name, entry)| (name, entry.inode)).collect(),
            is_cut: entries.is_cut,
            is_damaged: entries.is_damaged,
        })
    }

    fn is_content_same(&self, before: &DiskFile, after: &DiskFile) -> Read<bool> {
        let before = self.content(Side::Before, before);
        before.is_same(&self.content(Side::After, after))
    }

    fn are_attributes_same(&self, before: &DiskFile, after: &DiskFile) -> Read<bool> {
        if self
            .before
            .has_same_attributes(&before.inode, self.after, &after.inode)
        {
            return Ok(true);
        }
        let old = self.before.attributes(&before.inode)?;
        Ok(old.are_same(&self.after.attributes(&after.inode)?))
    }

    fn add_content(
        &self,
        before: Option<&DiskFile>,
        after: Option<&DiskFile>,
        change: &mut Change,
    ) -> Read<()> {
        let Some(left) = &self.patches else {
            return Ok(());
        };
        if before.is_some() && after.is_some() && !change.is_content_changed {
            return Ok(());
        }
        let is_file = |file: &&DiskFile| file.inode.kind == InodeKind::File;
        let before = before.filter(is_file);
        let after = after.filter(is_file);
        if before.is_none() && after.is_none() {
            return Ok(());
        }
        let patch = self.patch(before, after, left.get())?;
        if patch.text.is_empty() {
            let hashes = [(Side::Before, before), (Side::After, after)];
            let [old, new] = hashes.map(|(side, file)| self.hash(side, file));
            if let Some(state) = &mut change.before {
                state.sha256 = old?;
            }
            if let Some(state) = &mut change.after {
                state.sha256 = new?;
            }
        }
        left.set(left.get().saturating_sub(patch.text.len()));
        change.patch = Some(patch);
        Ok(())
    }
}
