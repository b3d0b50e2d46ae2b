//! Removes a directory with all that is in it, however deep it is.
//!
//! Guests make trees of any depth, so nothing here recurses, no path has more than one name in it,
//! and at most three descriptors are open. Symbolic links are removed, never followed. The way up
//! goes by `..`, and must lead to the directory that was left: if that was moved away during the
//! removal, the removal ends with an error. Broken off at any moment, a part of the tree is gone.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};

/// A directory on the way from the top to the one in hand.
struct Level {
    name: CString,
    /// Device and inode of the directory that it is in.
    above: (u64, u64),
    /// Directories in it that are still to be removed.
    left: Vec<CString>,
}

/// Removes the directory at `path`, which is absolute and not `/`. Call it as the user.
///
/// # Errors
/// The first that the kernel refuses; `EBUSY` also where a directory was moved away during the
/// removal.
pub fn remove_tree(path: &Path) -> Result<()> {
    let name = CString::new(path.file_name().unwrap_or(OsStr::new("")).as_bytes())
        .map_err(|_| Errno::INVAL)?;
    let above = path.parent().unwrap_or(Path::new("/"));
    let mut here = rustix::fs::open(
        above,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut way = Vec::new();
    descend(&mut here, &mut way, name)?;
    while let Some(level) = way.last_mut() {
        match level.left.pop() {
            Some(name) => descend(&mut here, &mut way, name)?,
            None => ascend(&mut here, &mut way)?,
        }
    }
    Ok(())
}

/// Goes into `name` and empties it of all but directories.
fn descend(here: &mut OwnedFd, way: &mut Vec<Level>, name: CString) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let below = match rustix::fs::openat(&*here, &name, flags, Mode::empty()) {
        Ok(below) => below,
        Err(Errno::NOENT) => return Ok(()),
        // Something else took its place.
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return gone(rustix::fs::unlinkat(&*here, &name, AtFlags::empty()));
        }
        // Not to be looked into; but an empty one can go all the same.
        Err(e) => return rustix::fs::unlinkat(&*here, &name, AtFlags::REMOVEDIR).map_err(|_| e),
    };
    let left = empty(&below)?;
    way.push(Level {
        name,
        above: identity(&*here)?,
        left,
    });
    *here = below;
    Ok(())
}

/// Goes back to the directory above, and removes the one that was left.
fn ascend(here: &mut OwnedFd, way: &mut Vec<Level>) -> Result<()> {
    let Some(level) = way.pop() else {
        return Ok(());
    };
    let above = rustix::fs::openat(
        &*here,
        c"..",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    if identity(&above)? != level.above {
        return Err(Errno::BUSY);
    }
    *here = above;
    gone(rustix::fs::unlinkat(
        &*here,
        &level.name,
        AtFlags::REMOVEDIR,
    ))
}

/// Removes all entries of `dir` but directories, and returns these.
fn empty(dir: &OwnedFd) -> Result<Vec<CString>> {
    let mut directories = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            directories.push(name.to_owned());
            continue;
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => directories.push(name.to_owned()),
            other => gone(other)?,
        }
    }
    Ok(directories)
}

fn identity(dir: impl AsFd) -> Result<(u64, u64)> {
    rustix::fs::fstat(dir).map(|stat| (stat.st_dev, stat.st_ino))
}

/// Treats files that others removed as removed.
fn gone(done: Result<()>) -> Result<()> {
    if done == Err(Errno::NOENT) {
        Ok(())
    } else {
        done
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn removal_follows_no_link() {
        let home = tempfile::tempdir().expect("a directory");
        let top = home.path().join("top");
        let kept = home.path().join("kept");
        fs::create_dir(&kept)
            .and_then(|()| fs::write(kept.join("file"), "x"))
            .expect("made");
        for dir in ["a/b/c", "a/d", "e"] {
            fs::create_dir_all(top.join(dir))
                .and_then(|()| fs::write(top.join(dir).join("file"), "x"))
                .expect("made");
            symlink(&kept, top.join(dir).join("link")).expect("a link");
        }
        remove_tree(&top).expect("removes");
        assert!(!top.exists() && kept.join("file").exists());
    }

    #[test]
    fn depth_costs_neither_stack_nor_descriptors() {
        // In memory: a disk takes a minute for it.
        let home = tempfile::tempdir_in("/dev/shm").expect("a directory");
        let top = home.path().join("top");
        fs::create_dir(&top).expect("made");
        let mut here = rustix::fs::open(&top, OFlags::PATH, Mode::empty()).expect("opens");
        for _ in 0..20_000 {
            rustix::fs::mkdirat(&here, "d", Mode::from(0o755)).expect("made");
            here = rustix::fs::openat(&here, "d", OFlags::PATH, Mode::empty()).expect("opens");
        }
        drop(here);
        // Less than any thread of the agent has.
        let thread = std::thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(move || remove_tree(&top));
        thread
            .expect("starts")
            .join()
            .expect("does not panic")
            .expect("removes");
        assert_eq!(fs::read_dir(home.path()).expect("is there").count(), 0);
    }
}
