//! A file that is being written by an upload.
//!
//! ```text
//!  path names nothing      a new file under its name, which a watcher sees created, given its attributes, and written (E2B
//!                          contract 2.5); an upload that breaks off removes it
//!  path names a file       a staged file, `.wrenn-upload-XXXXXXXX`, beside it: with owner, mode and extended attributes; when
//!                          it is complete it is made durable and renamed over the old one
//!  … that must stay the    the same file staged, then copied over the old one, whose room is made sure of first: it has
//!    same inode            other names (hard links), is mounted over, or belongs to another user
//!  … where nothing can     written in place, from the first byte
//!    be made beside it
//!  resumable upload        always a staged file, also of a path that names nothing; refused where none can be made
//! ```
//!
//! So an upload that breaks off, for whatever reason, leaves what was there before; only in the
//! last case, of a file that its user may write in a folder that he may not, the file stays as far
//! as it was overwritten. A symbolic link is followed, also to a file that is not there yet.
//! Anything but a plain file is refused. A replaced file needs room for both: on a disk without it
//! the upload fails and the old one stays. If the process dies in the middle, a new file stays as
//! far as written, and a staged one stays beside the old one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::libc;
use rustix::fs::{Access, AtFlags, FallocateFlags, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;
use sparse::SparseWriter;

use super::metadata::{self, Metadata};
use crate::as_user::as_user;
use crate::filesystem::error::{FileError, Kind};
use crate::filesystem::path::{STAGED_PREFIX, ensure_dir};
use crate::user::User;

/// Mode of new files where the request names none.
const FILE_MODE: u32 = 0o644;

/// Names that are tried for a staged file before giving up.
const ATTEMPTS: usize = 16;

/// Longest value of an extended attribute, bytes (`XATTR_SIZE_MAX`), and of their list
/// (`XATTR_LIST_MAX`).
const XATTR_LIMIT: usize = 65_536;

/// Properties of a file besides its content.
#[derive(Debug, Clone)]
pub struct Wish {
    pub path: PathBuf,
    pub user: User,
    /// Permission bits; `None` leaves those of an existing file.
    pub mode: Option<u32>,
    pub metadata: Metadata,
}

/// Place of the bytes until the upload is complete; see the module.
#[derive(Debug)]
enum Place {
    New(PathBuf),
    Staged {
        temporary: PathBuf,
        real: PathBuf,
        old: File,
        keep_inode: bool,
    },
    /// A staged file of a path that names nothing.
    StagedNew {
        temporary: PathBuf,
        real: PathBuf,
    },
    Direct,
    /// The upload is complete, or what it made is gone already.
    Done,
}

/// Target of an upload; see the module. Dropped without [`Target::keep`], it undoes what can be
/// undone.
#[derive(Debug)]
pub struct Target {
    writer: SparseWriter,
    wish: Wish,
    place: Place,
}

impl Target {
    /// Opens the file, empty, with its parents, owner, mode and metadata. Call it as the user.
    ///
    /// # Errors
    /// Denied; invalid where something else than a plain file is there; no space.
    pub fn open(wish: Wish) -> Result<Self, FileError> {
        Self::open_by(wish, open)
    }

    /// Does the same as [`Target::open`], but never writes to the path itself before
    /// [`Target::keep`].
    ///
    /// # Errors
    /// As [`Target::open`]; denied where nothing can be made beside the path.
    pub fn open_staged(wish: Wish) -> Result<Self, FileError> {
        Self::open_by(wish, open_staged)
    }

    fn open_by(
        wish: Wish,
        open: impl FnOnce(&Wish) -> io::Result<(File, Place)>,
    ) -> Result<Self, FileError> {
        if let Some(parent) = wish.path.parent() {
            ensure_dir(parent)?;
        }
        let (file, place) = open(&wish).map_err(|e| match e.raw_os_error() {
            Some(libc::EISDIR) => {
                FileError::invalid(format!("path '{}' is a directory", wish.path.display()))
            }
            _ => FileError::io("write", &wish.path, &e),
        })?;
        // From here on an error drops the target, which removes what was made.
        let target = Self {
            writer: SparseWriter::new(file),
            wish,
            place,
        };
        target.prepare()?;
        Ok(target)
    }

    fn prepare(&self) -> Result<(), FileError> {
        let path = &self.wish.path;
        let refused = |doing: &str, e: io::Error| FileError::io(doing, path, &e);
        let file = self.writer.file();
        let there = file.metadata().map_err(|e| refused("look at", e))?;
        if !there.is_file() {
            return Err(FileError::invalid(format!(
                "path '{}' is not a plain file",
                path.display()
            )));
        }
        let is_new = matches!(self.place, Place::New(_) | Place::StagedNew { .. });
        let uid = self.wish.user.uid;
        let gid = self.wish.user.gid;
        if is_new || (there.uid(), there.gid()) != (uid, gid) {
            // Of a new file also where nothing changes: watchers wait for the event.
            match rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
                // A file of another owner that the user may write stays theirs.
                Err(Errno::PERM) if !is_new => {}
                other => other.map_err(|e| refused("give to its user", e.into()))?,
            }
        }
        let mode = self.wish.mode.or_else(|| match &self.place {
            Place::New(_) | Place::StagedNew { .. } => Some(FILE_MODE),
            Place::Staged { old, .. } => old.metadata().ok().map(|old| old.mode() & 0o7777),
            Place::Direct | Place::Done => None,
        });
        if let Some(mode) = mode.filter(|mode| there.mode() & 0o7777 != *mode) {
            rustix::fs::fchmod(file, mode.into())
                .map_err(|e| refused("set the mode of", e.into()))?;
        }
        if let Place::Staged { old, .. } = &self.place {
            copy_attributes(old, file);
        }
        metadata::replace_metadata(file, &self.wish.metadata, path)?;
        if there.len() > 0 {
            file.set_len(0).map_err(|e| refused("empty", e))?;
        }
        Ok(())
    }

    /// Appends all pieces, as few writes as the kernel makes of them. Blocks of zeroes become
    /// holes.
    ///
    /// # Errors
    /// No space, or another error of the disk.
    pub fn write<'a>(
        &mut self,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(), FileError> {
        let written = self.writer.append(pieces);
        written.map_err(|e| self.refused("write", &e))
    }

    /// Checks that the disk has room for a file of `length` bytes. Others may take it meanwhile.
    ///
    /// # Errors
    /// No space.
    pub fn check_room(&self, length: u64) -> Result<(), FileError> {
        let disk = rustix::fs::fstatvfs(self.writer.file());
        let room = disk.map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        if room >= length {
            return Ok(());
        }
        let path = self.wish.path.display();
        Err(FileError::new(
            Kind::NoSpace,
            format!(
                "not enough disk space: '{path}' is to have {length} bytes, and {room} are free"
            ),
        ))
    }

    /// Leaves a hole up to `position`, which lies behind everything written so far.
    pub fn skip_to(&mut self, position: u64) {
        self.writer.skip_to(position);
    }

    fn refused(&self, doing: &str, error: &io::Error) -> FileError {
        let mut refused = FileError::io(doing, &self.wish.path, error);
        if refused.kind == Kind::NoSpace && matches!(self.place, Place::Staged { .. }) {
            refused.message.push_str(
                "; the old content stays: if there is no room for both, remove the file first",
            );
        }
        refused
    }

    /// Returns the bytes written so far.
    pub fn written(&self) -> u64 {
        self.writer.length()
    }

    /// Returns what remains of an upload that breaks off now, as text for the client.
    pub fn outcome(&self) -> &'static str {
        match self.place {
            Place::New(_) | Place::StagedNew { .. } => "the new file was removed",
            Place::Staged { .. } => "the file stays as it was",
            Place::Direct | Place::Done => "the file stays as far as it was overwritten",
        }
    }

    pub fn path(&self) -> &Path {
        &self.wish.path
    }

    /// Puts the file of a complete upload in its place. Blocks.
    ///
    /// # Errors
    /// Errors of the disk; the file that was there before stays.
    pub fn keep(mut self) -> Result<Wish, FileError> {
        self.writer
            .finish()
            .map_err(|e| self.refused("write", &e))?;
        let user = self.wish.user.clone();
        let kept = as_user(&user, || self.put_in_place()).map_err(|e| FileError::identity(&e))?;
        kept.map_err(|e| self.refused("replace", &e))?;
        self.place = Place::Done;
        Ok(self.wish.clone())
    }

    fn put_in_place(&self) -> io::Result<()> {
        if let Place::StagedNew { temporary, real } = &self.place {
            self.writer.file().sync_all()?;
            return Ok(rustix::fs::rename(temporary, real)?);
        }
        let Place::Staged {
            temporary,
            real,
            old,
            keep_inode,
        } = &self.place
        else {
            return Ok(());
        };
        let file = self.writer.file();
        if !keep_inode {
            // The old content is given up only when the new one cannot be lost any more.
            file.sync_all()?;
            match rustix::fs::rename(temporary, real) {
                // Mounted over, or in a folder where only its owner may replace it.
                Err(Errno::BUSY | Errno::PERM | Errno::ACCESS) => {}
                renamed => return Ok(renamed?),
            }
        }
        // Takes nothing away yet, and fails where the disk has no room for it.
        match rustix::fs::fallocate(
            old,
            FallocateFlags::KEEP_SIZE,
            0,
            file.metadata()?.blocks() * 512,
        ) {
            Err(e) if !matches!(e, Errno::OPNOTSUPP | Errno::INVAL) => return Err(e.into()),
            _ => {}
        }
        let staged = File::open(temporary)?;
        metadata::replace_metadata(old, &self.wish.metadata, real).map_err(io::Error::other)?;
        let uid = Uid::from_raw(self.wish.user.uid);
        let gid = Gid::from_raw(self.wish.user.gid);
        // A file of another owner that the user may write stays theirs.
        let _ = rustix::fs::fchown(old, Some(uid), Some(gid));
        if let Some(mode) = self.wish.mode {
            rustix::fs::fchmod(old, mode.into())?;
        }
        sparse::copy_sparse(&staged, old)?;
        std::fs::remove_file(temporary)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let own = rustix::fs::fstat(self.writer.file().as_fd())?;
        let there = rustix::fs::statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
        // Another process may have put a file of its own there; that one is not ours to remove.
        if (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino) {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let path = match &self.place {
            Place::New(path)
            | Place::Staged {
                temporary: path, ..
            }
            | Place::StagedNew {
                temporary: path, ..
            } => path,
            Place::Direct | Place::Done => return,
        };
        // As the user, so that a path whose links have been changed since leads nowhere he could
        // not go himself.
        if let Ok(Err(e)) | Err(e) = as_user(&self.wish.user, || self.remove(path))
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("an upload broke off and its file stays: {e}");
        }
    }
}

/// Opens the file to write: the target itself, or a file beside it.
fn open(wish: &Wish) -> io::Result<(File, Place)> {
    let path = &wish.path;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let new = flags | OFlags::CREATE | OFlags::EXCL;
    let mode = Mode::from(FILE_MODE);
    match rustix::fs::open(path, new, mode) {
        Ok(fd) => return Ok((fd.into(), Place::New(path.clone()))),
        Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    // Without NONBLOCK, opening a pipe without a reader would hold the thread.
    match rustix::fs::open(path, flags | OFlags::NONBLOCK, mode) {
        Ok(fd) => stage(fd.into(), wish),
        Err(Errno::TXTBSY) => stage_beside_running(wish),
        // A symbolic link that leads nowhere yet: what it leads to is made.
        Err(Errno::NOENT) => {
            let file = File::from(rustix::fs::open(
                path,
                flags | OFlags::NONBLOCK | OFlags::CREATE,
                mode,
            )?);
            let real = real_path(&file)?;
            Ok((file, Place::New(real)))
        }
        Err(e) => Err(e.into()),
    }
}

/// Makes a file beside the target, whether that is there or not.
fn open_staged(wish: &Wish) -> io::Result<(File, Place)> {
    let path = &wish.path;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => match stage(fd.into(), wish)? {
            (_, Place::Direct) => Err(Errno::ACCESS.into()),
            staged => Ok(staged),
        },
        Err(Errno::TXTBSY) => stage_beside_running(wish),
        Err(Errno::NOENT) => {
            let (file, temporary) = create_beside(path)?;
            let real = path.clone();
            Ok((file, Place::StagedNew { temporary, real }))
        }
        Err(e) => Err(e.into()),
    }
}

fn real_path(file: &File) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Makes a file beside the one that is there.
fn stage(old: File, wish: &Wish) -> io::Result<(File, Place)> {
    let there = old.metadata()?;
    if !there.is_file() {
        return Ok((old, Place::Direct));
    }
    let real = real_path(&old)?;
    let is_owner = wish.user.uid == 0 || wish.user.uid == there.uid();
    let keep_inode = there.nlink() > 1 || !is_owner;
    match create_beside(&real) {
        Ok((file, temporary)) => Ok((
            file,
            Place::Staged {
                temporary,
                real,
                old,
                keep_inode,
            },
        )),
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::NAMETOOLONG) => {
            Ok((old, Place::Direct))
        }
        Err(e) => Err(e.into()),
    }
}

/// Stages a file beside a program that is running: such a file cannot be written (ETXTBSY), but
/// replaced.
fn stage_beside_running(wish: &Wish) -> io::Result<(File, Place)> {
    // With the identity that the thread has, which is the user's.
    rustix::fs::accessat(
        rustix::fs::CWD,
        &wish.path,
        Access::WRITE_OK,
        AtFlags::EACCESS,
    )?;
    let old = rustix::fs::open(&wish.path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    match stage(old.into(), wish)? {
        (
            file,
            place @ Place::Staged {
                keep_inode: false, ..
            },
        ) => Ok((file, place)),
        (file, Place::Staged { temporary, .. }) => {
            drop(file);
            std::fs::remove_file(temporary)?;
            Err(Errno::TXTBSY.into())
        }
        _ => Err(Errno::TXTBSY.into()),
    }
}

fn create_beside(path: &Path) -> rustix::io::Result<(File, PathBuf)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..ATTEMPTS {
        let temporary = path.with_file_name(format!("{STAGED_PREFIX}{:08x}", random()?));
        match rustix::fs::open(&temporary, flags, Mode::from(0o600)) {
            Ok(fd) => return Ok((fd.into(), temporary)),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
    }
    Err(Errno::EXIST)
}

fn random() -> rustix::io::Result<u32> {
    let mut bytes = [0; 4];
    let file = File::open("/dev/urandom").and_then(|file| file.read_exact_at(&mut bytes, 0));
    match file {
        Ok(()) => Ok(u32::from_ne_bytes(bytes)),
        Err(e) => Err(Errno::from_io_error(&e).unwrap_or(Errno::IO)),
    }
}

/// Copies extended attributes, access lists among them. The kernel sets those that the user may not
/// set, such as labels.
fn copy_attributes(from: &File, to: &File) {
    let mut names = vec![0; XATTR_LIMIT];
    let Ok(length) = rustix::fs::flistxattr(from, &mut names[..]) else {
        return;
    };
    let mut value = vec![0; XATTR_LIMIT];
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        if let Ok(length) = rustix::fs::fgetxattr(from, name, &mut value[..]) {
            // Denied for those of the system.
            let _ = rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty());
        }
    }
}
