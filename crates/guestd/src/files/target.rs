//! A file that is being written by an upload.
//!
//! It is written in place, because a watcher must see exactly: created, its attributes set, written (E2B contract
//! 2.5). So on disk there is at every moment what has been written so far. An upload that breaks off, for whatever
//! reason, removes the file again if it made it; a file that was there before stays as far as it was overwritten.
//! If the process dies in the middle, either stays as far as written.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nix::libc;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};

use super::metadata::{self, Metadata};
use crate::as_user::as_user;
use crate::filesystem::error::FileError;
use crate::filesystem::path::ensure_dir;
use crate::user::User;

/// Mode of new files where the request names none.
const FILE_MODE: u32 = 0o644;

/// What a file shall be besides its content.
#[derive(Debug, Clone)]
pub struct Wish {
    pub path: PathBuf,
    pub user: User,
    /// Permission bits; `None` leaves those of an existing file.
    pub mode: Option<u32>,
    pub metadata: Metadata,
}

/// See the module. Dropped without [`Target::keep`], it undoes what can be undone.
#[derive(Debug)]
pub struct Target {
    file: File,
    wish: Wish,
    made: bool,
    written: u64,
}

impl Target {
    /// Opens the file, empty, with its parents, owner, mode and metadata. Call it as the user.
    ///
    /// # Errors
    /// Denied; invalid where something else than a plain file is there; no space.
    pub fn open(wish: Wish) -> Result<Self, FileError> {
        if let Some(parent) = wish.path.parent() {
            ensure_dir(parent)?;
        }
        let (file, made) = open(&wish.path).map_err(|e| match e.raw_os_error() {
            Some(libc::EISDIR) => FileError::invalid(format!("path '{}' is a directory", wish.path.display())),
            _ => FileError::io("write", &wish.path, &e),
        })?;
        // From here on an error drops the target, which removes a file that was made.
        let target = Self { file, wish, made, written: 0 };
        target.prepare()?;
        Ok(target)
    }

    fn prepare(&self) -> Result<(), FileError> {
        let path = &self.wish.path;
        let refused = |doing: &str, e: io::Error| FileError::io(doing, path, &e);
        let there = self.file.metadata().map_err(|e| refused("look at", e))?;
        if !there.is_file() {
            return Err(FileError::invalid(format!("path '{}' is not a plain file", path.display())));
        }
        let (uid, gid) = (self.wish.user.uid, self.wish.user.gid);
        if self.made || (there.uid(), there.gid()) != (uid, gid) {
            // Of a new file also where nothing changes: watchers wait for the event.
            let given = rustix::fs::fchown(&self.file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            match given {
                // A file of somebody else that the user may write stays theirs.
                Err(rustix::io::Errno::PERM) if !self.made => {}
                other => other.map_err(|e| refused("give to its user", e.into()))?,
            }
        }
        let mode = self.wish.mode.or(self.made.then_some(FILE_MODE));
        if let Some(mode) = mode.filter(|mode| there.mode() & 0o7777 != *mode) {
            rustix::fs::fchmod(&self.file, mode.into()).map_err(|e| refused("set the mode of", e.into()))?;
        }
        metadata::replace(&self.file, &self.wish.metadata, path)?;
        if there.len() > 0 {
            self.file.set_len(0).map_err(|e| refused("empty", e))?;
        }
        Ok(())
    }

    /// Appends all pieces, as few writes as the kernel makes of them.
    ///
    /// # Errors
    /// No space, or what the disk says.
    pub fn write(&mut self, pieces: &[Bytes]) -> Result<(), FileError> {
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut left = slices.as_mut_slice();
        while left.iter().any(|slice| !slice.is_empty()) {
            match self.file.write_vectored(left) {
                Ok(count) => {
                    self.written += count as u64;
                    IoSlice::advance_slices(&mut left, count);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(FileError::io("write", &self.wish.path, &e)),
            }
        }
        Ok(())
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether this upload made the file.
    pub fn is_new(&self) -> bool {
        self.made
    }

    pub fn path(&self) -> &Path {
        &self.wish.path
    }

    /// The upload is complete.
    pub fn keep(mut self) -> Wish {
        self.made = false;
        self.wish.clone()
    }

    fn remove(&self) -> io::Result<()> {
        let own = rustix::fs::fstat(self.file.as_fd())?;
        let there = rustix::fs::statat(rustix::fs::CWD, &self.wish.path, AtFlags::SYMLINK_NOFOLLOW)?;
        // Somebody may have put another file there meanwhile; that one is not ours to remove.
        if (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino) {
            std::fs::remove_file(&self.wish.path)?;
        }
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.made {
            return;
        }
        // As the user, so that a path that was bent meanwhile leads nowhere he could not go himself.
        if let Ok(Err(e)) | Err(e) = as_user(&self.wish.user, || self.remove())
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("an upload broke off and its new file stays: {e}");
        }
    }
}

/// Opens for writing, not yet emptied; says whether the file is new.
fn open(path: &Path) -> io::Result<(File, bool)> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    // Without NONBLOCK a pipe that nobody reads would hold the thread.
    let (new, old) = (flags | OFlags::CREATE | OFlags::EXCL, flags | OFlags::NONBLOCK);
    let mode = Mode::from(FILE_MODE);
    match rustix::fs::open(path, new, mode) {
        Ok(fd) => return Ok((fd.into(), true)),
        Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    match rustix::fs::open(path, old, mode) {
        Ok(fd) => Ok((fd.into(), false)),
        // A symbolic link that leads nowhere yet: what it leads to is made.
        Err(rustix::io::Errno::NOENT) => Ok((rustix::fs::open(path, old | OFlags::CREATE, mode)?.into(), false)),
        Err(e) => Err(e.into()),
    }
}
