//! The file tree that layers add up to, in memory: names, kinds, owners, and where in which layer the
//! data of files is.
//!
//! Nothing of an image is written while its layers are merged, and no path of it is ever one of the
//! host: names are keys of maps, and symbolic links are followed in the tree alone, whose root is
//! its own parent.

use std::collections::{BTreeMap, VecDeque};

use crate::error::{Result, invalid, limit, printable};
use crate::limits::{Budget, MAX_DEPTH, MAX_FOLLOWED, MAX_NAME, MAX_TARGET};
use crate::tar_stream::{Attributes, Data, Entry, EntryKind};

/// Prefix of files that hide files of the layers below (OCI image specification, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// Hides all that the layers below have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Prefix of metadata of aufs, which is no content.
const AUFS: &[u8] = b".wh..wh.";
/// Most hard links of a file (`EXT4_LINK_MAX`).
const MAX_LINKS: u32 = 65_000;

/// Largest device numbers of Linux (`MINORBITS`).
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;

/// Index of an inode in its tree.
pub(crate) type InodeId = usize;

/// The root directory.
pub(crate) const ROOT: InodeId = 0;

/// A file tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    inodes: Vec<Inode>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) meta: Metadata,
    pub(crate) kind: Kind,
    /// Names that it has; 0 for one that was replaced or hidden.
    pub(crate) links: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// Permission bits, with those of set-user-ID and the like.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since the Unix epoch, and nanoseconds.
    pub(crate) modified: (i64, u32),
    pub(crate) attributes: Attributes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory(BTreeMap<Vec<u8>, Child>),
    /// Layer, and place in it.
    File(usize, Data),
    Symlink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// Name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) inode: InodeId,
    /// Layer that has made it, or has named it last.
    layer: usize,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let meta = Metadata {
            mode: 0o755,
            ..Metadata::default()
        };
        let kind = Kind::Directory(BTreeMap::new());
        let inodes = vec![Inode {
            meta,
            kind,
            links: 1,
        }];
        Self { inodes }
    }

    pub(crate) fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id]
    }

    /// Returns all inodes that have a name, with their numbers.
    pub(crate) fn inodes(&self) -> impl Iterator<Item = (InodeId, &Inode)> {
        let inodes = self.inodes.iter().enumerate();
        inodes.filter(|(_, inode)| inode.links > 0)
    }

    /// Returns the children of a directory; none of other inodes.
    pub(crate) fn children(&self, id: InodeId) -> impl Iterator<Item = (&[u8], InodeId)> {
        let children = match &self.inodes[id].kind {
            Kind::Directory(children) => Some(children),
            _ => None,
        };
        let children = children.into_iter().flatten();
        children.map(|(name, child)| (&**name, child.inode))
    }

    /// Makes the directory that e2fsck(8) puts lost files into, unless there is one.
    pub(crate) fn ensure_lost_and_found(&mut self) -> Result<InodeId> {
        let name = b"lost+found";
        match self.child(ROOT, name).map(|child| child.inode) {
            Some(id) if self.is_directory(id) => return Ok(id),
            Some(_) => {
                let text = "\"lost+found\" is a file, and ext4 needs a directory of that name";
                return Err(invalid(text));
            }
            None => {}
        }
        let meta = Metadata {
            mode: 0o700,
            modified: self.inodes[ROOT].meta.modified,
            ..Metadata::default()
        };
        self.insert(ROOT, name, 0, meta, Kind::Directory(BTreeMap::new()))
    }

    /// Adds an entry of a layer.
    ///
    /// # Errors
    /// When it has no place in the tree.
    pub(crate) fn apply_entry(
        &mut self,
        layer: usize,
        entry: Entry,
        whiteouts: bool,
        budget: &mut Budget,
    ) -> Result<()> {
        let path = split_path(&entry.path)?;
        budget.count_tree(entry.memory())?;
        let meta = Metadata {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            modified: entry.modified,
            attributes: entry.attributes,
        };
        let Some((name, parents)) = path.split_last() else {
            if entry.kind == EntryKind::Directory {
                self.inodes[ROOT].meta = meta;
            }
            return Ok(());
        };
        let within = |error: &str| {
            let path = printable(&entry.path);
            invalid(format!("{path} cannot be made: {error}"))
        };
        let is_aufs = |name: &&[u8]| name.starts_with(AUFS);
        if whiteouts && parents.iter().any(is_aufs) {
            return Ok(());
        }
        if whiteouts && name.starts_with(WHITEOUT) {
            return self.apply_whiteout(layer, name, parents, budget);
        }
        let make = Some((layer, meta.modified));
        let parent = self.find_directory(parents, make, budget)?;
        let parent = parent.ok_or_else(|| within("it lies below a file that is no directory"))?;
        let kind = match entry.kind {
            EntryKind::Directory => return self.put_directory(parent, name, layer, meta),
            EntryKind::HardLink(target) => {
                let inode = self.find_link_target(&target, budget)?;
                let inode =
                    inode.ok_or_else(|| within("the file that it is a link to is missing"))?;
                return self.link(parent, name, layer, inode);
            }
            kind => leaf_kind(layer, kind).map_err(within)?,
        };
        self.insert(parent, name, layer, meta, kind).map(drop)
    }

    fn apply_whiteout(
        &mut self,
        layer: usize,
        name: &[u8],
        parents: &[&[u8]],
        budget: &mut Budget,
    ) -> Result<()> {
        if name.starts_with(AUFS) && name != OPAQUE {
            return Ok(());
        }
        let Some(parent) = self.find_directory(parents, None, budget)? else {
            return Ok(());
        };
        if name == OPAQUE {
            let names = self.children(parent).map(|(name, _)| name.to_vec());
            for name in names.collect::<Vec<_>>() {
                self.hide(parent, &name, layer, budget)?;
            }
        } else {
            self.hide(parent, &name[WHITEOUT.len()..], layer, budget)?;
        }
        Ok(())
    }

    /// Removes what the layers below `layer` have under a name. Returns true if all of it is gone.
    fn hide(
        &mut self,
        parent: InodeId,
        name: &[u8],
        layer: usize,
        budget: &mut Budget,
    ) -> Result<bool> {
        budget.count_step()?;
        let Some(child) = self.child(parent, name) else {
            return Ok(true);
        };
        let names: Vec<Vec<u8>> = self
            .children(child.inode)
            .map(|(name, _)| name.to_vec())
            .collect();
        let mut is_empty = true;
        for name in names {
            is_empty &= self.hide(child.inode, &name, layer, budget)?;
        }
        let is_gone = is_empty && child.layer != layer;
        if is_gone {
            self.unlink(parent, name);
        }
        Ok(is_gone)
    }

    fn put_directory(
        &mut self,
        parent: InodeId,
        name: &[u8],
        layer: usize,
        meta: Metadata,
    ) -> Result<()> {
        if let Some(child) = self.child(parent, name)
            && self.is_directory(child.inode)
        {
            self.inodes[child.inode].meta = meta;
            self.set_child(parent, name, child.inode, layer);
            return Ok(());
        }
        let kind = Kind::Directory(BTreeMap::new());
        self.insert(parent, name, layer, meta, kind).map(drop)
    }

    /// Makes a new inode in place of what has the name.
    fn insert(
        &mut self,
        parent: InodeId,
        name: &[u8],
        layer: usize,
        meta: Metadata,
        kind: Kind,
    ) -> Result<InodeId> {
        check_name(name)?;
        self.unlink(parent, name);
        self.inodes.push(Inode {
            meta,
            kind,
            links: 1,
        });
        let inode = self.inodes.len() - 1;
        self.set_child(parent, name, inode, layer);
        Ok(inode)
    }

    fn link(&mut self, parent: InodeId, name: &[u8], layer: usize, inode: InodeId) -> Result<()> {
        check_name(name)?;
        if self
            .child(parent, name)
            .is_some_and(|child| child.inode == inode)
        {
            self.set_child(parent, name, inode, layer);
            return Ok(());
        }
        let links = &mut self.inodes[inode].links;
        if *links >= MAX_LINKS {
            return Err(limit(format!(
                "{} is one of more than {MAX_LINKS} names of a file",
                printable(name)
            )));
        }
        *links += 1;
        self.unlink(parent, name);
        self.set_child(parent, name, inode, layer);
        Ok(())
    }

    /// Removes a name, with all below it.
    fn unlink(&mut self, parent: InodeId, name: &[u8]) {
        let Kind::Directory(children) = &mut self.inodes[parent].kind else {
            return;
        };
        let Some(child) = children.remove(name) else {
            return;
        };
        let mut unlinked = vec![child.inode];
        while let Some(id) = unlinked.pop() {
            let inode = &mut self.inodes[id];
            inode.links -= 1;
            if let Kind::Directory(children) = &mut inode.kind {
                let children = std::mem::take(children).into_values();
                unlinked.extend(children.map(|child| child.inode));
            }
        }
    }

    fn child(&self, parent: InodeId, name: &[u8]) -> Option<Child> {
        match &self.inodes[parent].kind {
            Kind::Directory(children) => children.get(name).copied(),
            _ => None,
        }
    }

    fn set_child(&mut self, parent: InodeId, name: &[u8], inode: InodeId, layer: usize) {
        if let Kind::Directory(children) = &mut self.inodes[parent].kind {
            children.insert(name.to_vec(), Child { inode, layer });
        }
    }

    fn is_directory(&self, id: InodeId) -> bool {
        matches!(self.inodes[id].kind, Kind::Directory(_))
    }

    /// Returns the inode of a file for another link to it.
    fn find_link_target(&mut self, target: &[u8], budget: &mut Budget) -> Result<Option<InodeId>> {
        let path = split_path(target)?;
        let Some((name, parents)) = path.split_last() else {
            return Ok(None);
        };
        let parent = self.find_directory(parents, None, budget)?;
        let child = parent.and_then(|parent| self.child(parent, name));
        let inode = child.map(|child| child.inode);
        Ok(inode.filter(|inode| !self.is_directory(*inode)))
    }

    /// Returns the directory at a path, whose symbolic links are followed within the tree. What is
    /// missing is made where `make` has a layer and a time. `None` if it is missing, or no directory.
    fn find_directory(
        &mut self,
        path: &[&[u8]],
        make: Option<(usize, (i64, u32))>,
        budget: &mut Budget,
    ) -> Result<Option<InodeId>> {
        let mut rest: VecDeque<Vec<u8>> = path.iter().map(|name| name.to_vec()).collect();
        let mut above = vec![ROOT];
        let mut followed = 0;
        while let Some(name) = rest.pop_front() {
            budget.count_step()?;
            let parent = above.last().copied().unwrap_or(ROOT);
            match &*name {
                b"" | b"." => continue,
                b".." => {
                    if above.len() > 1 {
                        above.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let inode = match (self.child(parent, &name), make) {
                (Some(child), _) => child.inode,
                (None, None) => return Ok(None),
                (None, Some((layer, modified))) => {
                    let meta = Metadata {
                        mode: 0o755,
                        modified,
                        ..Metadata::default()
                    };
                    let kind = Kind::Directory(BTreeMap::new());
                    self.insert(parent, &name, layer, meta, kind)?
                }
            };
            match &self.inodes[inode].kind {
                Kind::Directory(_) => above.push(inode),
                Kind::Symlink(target) => {
                    followed += 1;
                    if followed > MAX_FOLLOWED {
                        return Err(invalid(format!(
                            "more than {MAX_FOLLOWED} symbolic links are to be followed in {}",
                            printable(&path.join(&b'/'))
                        )));
                    }
                    if target.starts_with(b"/") {
                        above.truncate(1);
                    }
                    for name in target.rsplit(|byte| *byte == b'/') {
                        rest.push_front(name.to_vec());
                    }
                }
                _ => return Ok(None),
            }
            if above.len() > MAX_DEPTH {
                return Err(too_deep(&path.join(&b'/')));
            }
        }
        Ok(above.last().copied())
    }
}

/// Converts the kind of an entry that is neither a directory nor a hard link.
///
/// # Errors
/// Why Linux has no such file.
fn leaf_kind(layer: usize, kind: EntryKind) -> std::result::Result<Kind, &'static str> {
    Ok(match kind {
        EntryKind::File(data) => Kind::File(layer, data),
        EntryKind::Symlink(target) if target.len() > MAX_TARGET => {
            return Err("its target has more than 4095 bytes");
        }
        EntryKind::Symlink(target) if target.is_empty() || target.contains(&0) => {
            return Err("its target is no path");
        }
        EntryKind::Symlink(target) => Kind::Symlink(target),
        EntryKind::CharDevice(major, minor) | EntryKind::BlockDevice(major, minor)
            if major > MAX_MAJOR || minor > MAX_MINOR =>
        {
            return Err("its device number is none of Linux");
        }
        EntryKind::CharDevice(major, minor) => Kind::CharDevice(major, minor),
        EntryKind::BlockDevice(major, minor) => Kind::BlockDevice(major, minor),
        EntryKind::Fifo => Kind::Fifo,
        EntryKind::Directory | EntryKind::HardLink(_) => {
            return Err("it is no file of its own");
        }
    })
}

/// Splits a path of an archive. It is taken from the root on, whether it begins with a slash or not.
fn split_path(path: &[u8]) -> Result<Vec<&[u8]>> {
    let names = path.split(|byte| *byte == b'/');
    let names: Vec<&[u8]> = names
        .filter(|name| !name.is_empty() && *name != b".")
        .collect();
    if names.contains(&&b".."[..]) {
        return Err(invalid(format!(
            "the path {} leads out of the image (\"..\")",
            printable(path)
        )));
    }
    if names.len() > MAX_DEPTH {
        return Err(too_deep(path));
    }
    names.iter().try_for_each(|name| check_name(name))?;
    Ok(names)
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > MAX_NAME {
        return Err(limit(format!(
            "the name {} has more than {MAX_NAME} bytes",
            printable(name)
        )));
    }
    if name.contains(&0) {
        return Err(invalid(format!("the name {} has a zero", printable(name))));
    }
    Ok(())
}

fn too_deep(path: &[u8]) -> crate::Error {
    limit(format!(
        "{} lies below more than {MAX_DEPTH} directories",
        printable(path)
    ))
}

#[cfg(test)]
mod tests;
