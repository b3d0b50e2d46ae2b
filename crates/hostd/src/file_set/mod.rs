//! Sets of files, and the blocks that go with them.
//!
//! Files share blocks in two ways, and the file system knows both: names of one file (links), and
//! blocks of several files (reflinks). A block is exclusive to a set of files if removing all their
//! names frees it:
//!
//! - all names of its file are in the set, by the file's link count, and
//! - it is in no other file. The file system says of a block whether a second file has it, but not
//!   which: so a set alone has no such block ([`FileSet::sizes`]), and among all sets of a host it
//!   has those that only its own files have ([`FileSet::sizes_among`]).
//!
//! What a VMM holds open after its last name is gone is free when the VMM ends.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use linux::extents::{StoredFile, stored_file};

/// Levels of directories below one that is measured. Saved states have one; a VMM owns a directory,
/// and may have made any number there.
const DEPTH: usize = 3;
/// Most files of one directory that is measured.
const MAX_FILES: usize = 10_000;

/// Bytes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Allocated blocks, each once.
    pub allocated: u64,
    /// Those of them that removing the files would free.
    pub exclusive: u64,
}

impl Sizes {
    /// Returns the bytes that stay when the files are removed, since others have them.
    #[must_use]
    pub fn shared(self) -> u64 {
        self.allocated.saturating_sub(self.exclusive)
    }
}

/// Files, each once, with the number of names that each has in the set.
#[derive(Debug, Clone, Default)]
pub struct FileSet(BTreeMap<FileId, Counted>);

/// Device and inode.
type FileId = (u64, u64);

#[derive(Debug, Clone)]
struct Counted {
    file: StoredFile,
    names: u64,
}

impl Counted {
    /// Returns true if the set has all names of the file.
    fn is_whole(&self) -> bool {
        self.names >= self.file.links
    }

    /// Returns the bytes that no other file has, as far as the file system says so.
    fn unshared_bytes(&self) -> u64 {
        if self.file.shared.is_cut {
            return 0;
        }
        self.file.bytes.saturating_sub(self.shared_bytes())
    }

    fn shared_bytes(&self) -> u64 {
        let ranges = self.file.shared.ranges.iter();
        ranges.map(|range| range.end - range.start).sum()
    }
}

impl FileSet {
    /// Measures all files in and below a directory but for the entries that are named. What is
    /// removed while this runs does not count.
    ///
    /// # Errors
    /// The file system's error.
    pub fn of_dir(dir: &Path, without: &[&str]) -> io::Result<Self> {
        let mut set = Self::default();
        set.add_dir(dir, without, DEPTH)?;
        Ok(set)
    }

    /// Measures one name of a file.
    ///
    /// # Errors
    /// The file system's error.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let mut set = Self::default();
        set.add_file(path)?;
        Ok(set)
    }

    fn add_dir(&mut self, dir: &Path, without: &[&str], depth: usize) -> io::Result<()> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if without.iter().any(|name| entry.file_name() == **name) {
                continue;
            }
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir && depth > 0 {
                self.add_dir(&entry.path(), &[], depth - 1)?;
            } else if self.0.len() < MAX_FILES {
                self.add_file(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Returns true if there is no file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Measures one more name of a file. Adds nothing if there is no regular file of that name.
    ///
    /// # Errors
    /// The file system's error.
    pub fn add_file(&mut self, path: &Path) -> io::Result<()> {
        if let Some(file) = stored_file(path)? {
            self.add(Counted { file, names: 1 });
        }
        Ok(())
    }

    /// Adds the files of another set, which has other names.
    pub fn add_set(&mut self, other: &Self) {
        for counted in other.0.values() {
            self.add(counted.clone());
        }
    }

    fn add(&mut self, counted: Counted) {
        let id = (counted.file.device, counted.file.inode);
        let names = counted.names;
        self.0
            .entry(id)
            .and_modify(|known| known.names += names)
            .or_insert(counted);
    }

    /// Returns the sizes, as far as they are known without other sets.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let whole = self.0.values().filter(|counted| counted.is_whole());
        Sizes {
            allocated: self.allocated_bytes(),
            exclusive: whole.map(Counted::unshared_bytes).sum(),
        }
    }

    /// Returns the sizes of this set, given the files of all sets of the host.
    #[must_use]
    pub fn sizes_among(&self, all: &Self) -> Sizes {
        let sizes = self.sizes();
        Sizes {
            exclusive: sizes.exclusive + self.only_here(all),
            ..sizes
        }
    }

    /// Returns the bytes of all blocks, each once.
    fn allocated_bytes(&self) -> u64 {
        let files: u64 = self.0.values().map(|counted| counted.file.bytes).sum();
        let shared: u64 = self.0.values().map(Counted::shared_bytes).sum();
        let mut once = 0;
        sweep(&self.edges(|_| true, 1, 0), |bytes, here, _| {
            if here > 0 {
                once += bytes;
            }
        });
        files.saturating_sub(shared).saturating_add(once)
    }

    /// Returns the bytes of blocks that several files of this set have, and no other file. A block
    /// that only one of all files has, and the file system calls shared, is in an unknown file.
    fn only_here(&self, all: &Self) -> u64 {
        let mut edges = self.edges(Counted::is_whole, 1, 0);
        if edges.is_empty() {
            return 0;
        }
        edges.extend(all.edges(|_| true, 0, 1));
        edges.sort_unstable();
        let mut bytes_here = 0;
        sweep(&edges, |bytes, here, everywhere| {
            if here > 1 && here == everywhere {
                bytes_here += bytes;
            }
        });
        bytes_here
    }

    /// Returns where shared ranges begin and end, in order.
    fn edges(&self, wanted: impl Fn(&Counted) -> bool, here: i64, everywhere: i64) -> Vec<Edge> {
        let wanted = self.0.values().filter(|counted| wanted(counted));
        let mut edges: Vec<Edge> = wanted
            .flat_map(|counted| {
                let device = counted.file.device;
                let ends = move |range: &Range<u64>| {
                    [
                        (device, range.start, here, everywhere),
                        (device, range.end, -here, -everywhere),
                    ]
                };
                counted.file.shared.ranges.iter().flat_map(ends)
            })
            .collect();
        edges.sort_unstable();
        edges
    }
}

/// Device, position, and the change there of the number of files that have the block: of this set,
/// and of all.
type Edge = (u64, u64, i64, i64);

/// Calls `add` for each piece between two edges with its bytes and the numbers of files.
fn sweep(edges: &[Edge], mut add: impl FnMut(u64, i64, i64)) {
    let mut here = 0;
    let mut everywhere = 0;
    for pair in edges.windows(2) {
        let [(device, start, more_here, more_everywhere), (next, end, ..)] = *pair else {
            return;
        };
        here += more_here;
        everywhere += more_everywhere;
        if device == next && end > start {
            add(end - start, here, everywhere);
        }
    }
}

#[cfg(test)]
mod tests;
