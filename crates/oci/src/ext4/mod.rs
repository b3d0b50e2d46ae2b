//! Fills an empty ext4 file system that mke2fs(8) has made, as a file.
//!
//! Only what is fixed by the format is relied on: 4 KiB blocks, inodes of 256 bytes, extents,
//! checksums of metadata, 64-bit block numbers, no further features. mke2fs makes journal, reserve
//! for growth and tables; here are added bitmaps, inodes, directories, attributes and data. The file
//! is new and written once, so nothing is ever moved or freed, and a crash leaves a file that is
//! not used.
//!
//! ```text
//!   add_data     blocks and extents of one file after the other, as the layers have them
//!   finish       directories, links, attributes; inode tables, bitmaps, groups, superblock
//! ```
//! Directories have no index, like those of `mke2fs -d`; the kernel makes one when they grow.

mod attributes;
mod data;
mod directory;
mod extents;
mod inode;
mod layout;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

pub(crate) use data::DataWriter;
pub use layout::is_ext4;
pub(crate) use layout::stated_bytes;

use crate::error::Result;
use crate::limits::Budget;
use crate::tree::{InodeId, Kind, ROOT, Tree};
use inode::Body;
use layout::{BLOCK_SIZE, Layout};

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 4096;
/// Inode of the root directory.
const ROOT_INODE: u32 = 2;
/// Inode of `lost+found`, the first one that mke2fs gives out.
const LOST_AND_FOUND: u32 = 11;
/// Most blocks of nodes for each block of data, in the worst case of alternating holes, and blocks
/// that are written at once.
const NODE_ENTRIES: u64 = 340;

/// Blocks and inodes that a tree needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Need {
    pub blocks: u64,
    pub inodes: u64,
}

impl Need {
    /// Returns an upper bound.
    pub(crate) fn of_tree(tree: &Tree) -> Self {
        let mut need = Self {
            blocks: 0,
            inodes: u64::from(LOST_AND_FOUND),
        };
        for (id, inode) in tree.inodes() {
            need.inodes += 1;
            let blocks = match &inode.kind {
                Kind::Directory(_) => directory::blocks(tree, id),
                Kind::File(_, data) => {
                    let extents = data.extents.iter();
                    let blocks =
                        extents.map(|extent| extent.end.div_ceil(BLOCK) - extent.start / BLOCK);
                    let blocks: u64 = blocks.sum();
                    // The inode has room for four stretches, which is all of a small file, should
                    // every other block be a hole. Then a node for every 340 stretches.
                    let nodes = match blocks {
                        0..=4 => 0,
                        _ => blocks / NODE_ENTRIES * 2 + 2,
                    };
                    blocks + nodes
                }
                Kind::Symlink(_) => 1,
                Kind::CharDevice(..) | Kind::BlockDevice(..) | Kind::Fifo => 0,
            };
            need.blocks += blocks + u64::from(!inode.meta.attributes.is_empty());
        }
        need
    }
}

/// An ext4 file system that is being filled.
#[derive(Debug)]
pub(crate) struct FileSystem {
    file: File,
    layout: Layout,
    /// Numbers of inodes by their place in the tree.
    numbers: BTreeMap<InodeId, u32>,
    /// Blocks of files that have data.
    bodies: BTreeMap<InodeId, Body>,
}

impl FileSystem {
    /// Reads what mke2fs has made, and gives the inodes of the tree their numbers.
    ///
    /// # Errors
    /// The file's, and when it has another form than is asked of mke2fs.
    pub(crate) fn open(file: File, tree: &mut Tree) -> Result<Self> {
        let mut layout = Layout::read(&file)?;
        layout.free_directory(&file, ROOT_INODE)?;
        layout.free_directory(&file, LOST_AND_FOUND)?;
        let lost_and_found = tree.ensure_lost_and_found()?;
        let mut numbers = BTreeMap::from([(ROOT, ROOT_INODE), (lost_and_found, LOST_AND_FOUND)]);
        let mut next = LOST_AND_FOUND + 1;
        // Directory by directory, so that what lies together is read together.
        let mut directories = vec![ROOT];
        while let Some(directory) = directories.pop() {
            for (_, id) in tree.children(directory) {
                if let std::collections::btree_map::Entry::Vacant(entry) = numbers.entry(id) {
                    entry.insert(next);
                    next += 1;
                }
                if matches!(tree.inode(id).kind, Kind::Directory(_)) {
                    directories.push(id);
                }
            }
        }
        layout.check_inodes(next - 1)?;
        Ok(Self {
            file,
            layout,
            numbers,
            bodies: BTreeMap::new(),
        })
    }

    /// Begins to write the data of a file.
    pub(crate) fn add_data(&mut self, id: InodeId, length: u64) -> DataWriter<'_> {
        DataWriter::new(self, id, length)
    }

    /// Writes everything but data. Nothing may be added afterwards.
    ///
    /// # Errors
    /// The file's; when there is no room, or attributes do not fit.
    pub(crate) fn finish(mut self, tree: &Tree, budget: &Budget) -> Result<()> {
        let numbers: Vec<(InodeId, u32)> = self
            .numbers
            .iter()
            .map(|(id, number)| (*id, *number))
            .collect();
        let parents = parents(tree);
        for (id, number) in numbers {
            budget.check_time()?;
            let inode = tree.inode(id);
            let body = match &inode.kind {
                Kind::Directory(_) => {
                    let parent = parents.get(&id).copied().unwrap_or(ROOT);
                    self.write_directory(tree, id, parent)?
                }
                Kind::File(..) => self.bodies.remove(&id).unwrap_or_else(Body::empty_file),
                Kind::Symlink(target) => self.write_symlink(number, target)?,
                Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => {
                    Body::device(*major, *minor)
                }
                Kind::Fifo => Body::default(),
            };
            self.write_inode(number, tree, id, body)?;
        }
        self.layout.write(&self.file)?;
        // Here, since the agent is not to wait for it when it ends.
        self.file.sync_all()?;
        Ok(())
    }

    fn number(&self, id: InodeId) -> u32 {
        self.numbers.get(&id).copied().unwrap_or_default()
    }

    fn write_symlink(&mut self, number: u32, target: &[u8]) -> Result<Body> {
        if let Some(body) = Body::short_symlink(target) {
            return Ok(body);
        }
        let mut block = target.to_vec();
        block.resize(BLOCK_SIZE, 0);
        let physical = self.layout.allocate()?;
        self.write_block(physical, &block)?;
        let extents = [extents::Extent {
            logical: 0,
            physical,
            length: 1,
        }];
        self.map_extents(number, &extents, target.len() as u64)
    }

    fn write_block(&self, number: u64, block: &[u8]) -> Result<()> {
        Ok(self.file.write_all_at(block, number * BLOCK)?)
    }
}

/// Returns the parent of each directory.
fn parents(tree: &Tree) -> BTreeMap<InodeId, InodeId> {
    let mut parents = BTreeMap::new();
    for (id, _) in tree.inodes() {
        for (_, child) in tree.children(id) {
            if matches!(tree.inode(child).kind, Kind::Directory(_)) {
                parents.insert(child, id);
            }
        }
    }
    parents
}
