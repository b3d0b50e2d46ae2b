//! Visits a path, and where it is a directory all that is below it, however deep that is.
//!
//! As in a removal, nothing here recurses, no path has more than one name in it, and few
//! descriptors are open. Symbolic links are visited and never followed, so a link that is put in
//! the place of a directory during the walk leads nowhere. The way up goes by `..`, and must lead to
//! the directory that was left. A directory is visited before its entries.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::{Errno, Result};

/// Most directories in one directory; more would be some hundred MiB of names.
const MAX_DIRECTORIES: usize = 1 << 20;

/// A file of the walk, opened without any access to its content.
#[derive(Debug)]
pub struct Visited {
    pub file: File,
    pub metadata: std::fs::Metadata,
}

/// A directory on the way from the top to the one in hand.
struct Level {
    /// Device and inode of the directory that it is in.
    above: (u64, u64),
    /// Directories in it that are still to be visited.
    left: Vec<CString>,
}

/// Visits the path itself, reached through symbolic links, and with `recursive` what is below it.
/// Call it as the user.
///
/// # Errors
/// The first that the kernel refuses or that `visit` returns; `EBUSY` where a directory was moved
/// away during the walk.
pub fn walk(
    path: &Path,
    recursive: bool,
    mut visit: impl FnMut(&Visited) -> Result<()>,
) -> Result<()> {
    let top = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let top = visited(top)?;
    visit(&top)?;
    if !recursive || !top.metadata.is_dir() {
        return Ok(());
    }
    let mut here = OwnedFd::from(top.file);
    let mut way = vec![Level {
        above: (0, 0),
        left: visit_entries(&here, &mut visit)?,
    }];
    while let Some(level) = way.last_mut() {
        match level.left.pop() {
            Some(name) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = match rustix::fs::openat(&here, &name, flags, Mode::empty()) {
                    Ok(below) => below,
                    // Gone, or replaced by something else, since its directory was read.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                    Err(e) => return Err(e),
                };
                let left = visit_entries(&below, &mut visit)?;
                way.push(Level {
                    above: identity(&here)?,
                    left,
                });
                here = below;
            }
            None => here = ascend(here, &mut way)?,
        }
    }
    Ok(())
}

/// Goes back to the directory above; stays where there is none.
fn ascend(here: OwnedFd, way: &mut Vec<Level>) -> Result<OwnedFd> {
    let above = way.pop().map(|level| level.above);
    if way.is_empty() {
        return Ok(here);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let up = rustix::fs::openat(&here, c"..", flags, Mode::empty())?;
    if Some(identity(&up)?) == above {
        Ok(up)
    } else {
        Err(Errno::BUSY)
    }
}

/// Visits all entries of a directory, and returns those that are directories.
fn visit_entries(
    dir: &OwnedFd,
    visit: &mut impl FnMut(&Visited) -> Result<()>,
) -> Result<Vec<CString>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listing = rustix::fs::openat(dir, c".", flags, Mode::empty())?;
    let mut directories = Vec::new();
    for entry in Dir::new(listing)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(e),
        };
        let file = visited(file)?;
        visit(&file)?;
        if !file.metadata.is_dir() {
            continue;
        }
        if directories.len() == MAX_DIRECTORIES {
            return Err(Errno::NOMEM);
        }
        directories.push(name.to_owned());
    }
    Ok(directories)
}

fn visited(file: OwnedFd) -> Result<Visited> {
    let file = File::from(file);
    let metadata = file
        .metadata()
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    Ok(Visited { file, metadata })
}

fn identity(dir: impl AsFd) -> Result<(u64, u64)> {
    rustix::fs::fstat(dir).map(|stat| (stat.st_dev, stat.st_ino))
}

impl Visited {
    /// Returns true if it is a symbolic link itself.
    pub fn is_symlink(&self) -> bool {
        self.metadata.is_symlink()
    }

    pub fn mode(&self) -> u32 {
        self.metadata.mode() & 0o7777
    }
}
