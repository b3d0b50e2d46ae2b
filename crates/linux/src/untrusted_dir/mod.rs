//! Directories whose names a hostile process controls.
//!
//! The owner of a directory may put a link, a pipe or a deep tree in place of any name in it, at
//! any moment, even if another user made the file. So nothing in such a directory is opened by a
//! path: an [`UntrustedDir`] is a descriptor, and each name is resolved below it by the kernel,
//! without following links and without leaving the file system (openat2(2), `RESOLVE_BENEATH`).
//! Writes go to the file that was created here, by its descriptor; a file that is read is checked
//! after it was opened. This is the only module that does so; `tests/tidy` holds others to it.
//!
//! Removal needs two descriptors and no recursion, however deep the tree is: a directory that is
//! not empty gives its subdirectories to the top, one rename each, and goes.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags, Uid,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Restrictions on the resolution of names. Mounts below a directory are refused as well: they
/// would be under its owner's control.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Prefix of the names that subdirectories get when they are moved to the top to be removed.
const MOVED: &str = ".removed-";

/// Directory whose names a hostile process controls.
#[derive(Debug)]
pub struct UntrustedDir {
    dir: OwnedFd,
}

/// Identity of a directory, for as long as its file system is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirIdentity {
    device: u64,
    inode: u64,
}

/// Socket in an [`UntrustedDir`], pinned: its path leads to this very socket for as long as the
/// value lives.
#[derive(Debug)]
pub struct PinnedSocket(OwnedFd);

impl PinnedSocket {
    /// Returns a path shorter than the 107 bytes that a socket's may have (unix(7)).
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

impl AsFd for UntrustedDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl From<OwnedFd> for UntrustedDir {
    fn from(dir: OwnedFd) -> Self {
        Self { dir }
    }
}

impl UntrustedDir {
    /// Opens a directory whose parent is ours.
    ///
    /// # Errors
    /// `NotFound` when there is none, `NotADirectory` also for a link.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self {
            dir: rustix::fs::open(path, flags, Mode::empty())?,
        })
    }

    /// Opens the working directory of a process, if it is the directory that was recorded.
    ///
    /// # Errors
    /// `NotFound` when the process is gone, `PermissionDenied` when it is in another directory by
    /// now.
    pub fn working_dir_of(pid: u32, recorded: DirIdentity) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let found = Self {
            dir: rustix::fs::open(format!("/proc/{pid}/cwd"), flags, Mode::empty())?,
        };
        if found.identity()? == recorded {
            return Ok(found);
        }
        let problem = format!("process {pid} has left the directory that it was started in");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
    }

    /// Opens the same directory again.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            dir: self.dir.try_clone()?,
        })
    }

    /// Returns the identity of the directory, without asking the server of a network file system.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn identity(&self) -> io::Result<DirIdentity> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let found = rustix::fs::statx(&self.dir, c"", flags, StatxFlags::INO)?;
        let device = rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor);
        Ok(DirIdentity {
            device,
            inode: found.stx_ino,
        })
    }

    /// Creates a file of mode 0600. An existing entry is an error, also a link.
    ///
    /// # Errors
    /// `AlreadyExists`, or the file system's error.
    pub fn create_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        Ok(File::from(self.open_at(
            name,
            flags,
            Mode::RUSR | Mode::WUSR,
        )?))
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// `InvalidData` when something else is in its place; otherwise the kernel's error.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        // Opening a pipe would wait for its writer.
        let file = match self.open_at(name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::LOOP | Errno::XDEV | Errno::NXIO) => return Err(replaced(name)),
            Err(error) => return Err(error.into()),
        };
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(replaced(name))
        }
    }

    /// Copies a file of at most `limit` bytes to the new file `to`, which lies in a directory of
    /// ours.
    ///
    /// # Errors
    /// As [`UntrustedDir::open_file`]; also when it is longer. Then nothing is left at `to`.
    pub fn copy_file(&self, name: &str, limit: u64, to: &Path) -> io::Result<()> {
        let source = self.open_file(name)?;
        let mut target = new_file(to)?;
        // One byte more, since the file may grow at any time.
        let copied = io::copy(&mut source.take(limit + 1), &mut target);
        let copied = copied.and_then(|bytes| {
            if bytes > limit {
                Err(replaced(name))
            } else {
                Ok(())
            }
        });
        copied.inspect_err(|_| {
            let _ = fs::remove_file(to);
        })
    }

    /// Makes a file ours: moves it to `to`, which lies in a directory of ours on the same file
    /// system, and gives it the owner of that directory and mode 0600. No other process can change
    /// its content afterwards: if one has it open for writing all the same, `to` becomes a copy.
    ///
    /// # Errors
    /// `InvalidData` when something else is in its place, which is gone then; otherwise the
    /// file system's error.
    pub fn take_file(&self, name: &str, to: &Path) -> io::Result<()> {
        self.check(name)?;
        rustix::fs::renameat(&self.dir, name, CWD, to)?;
        let taken = own(name, to);
        if taken.is_err() {
            let _ = remove_tree(to);
        }
        taken
    }

    /// Removes a file, or an entry of any other kind in its place. A missing one is no error.
    ///
    /// # Errors
    /// The file system's error.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.check(name)?;
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => {
                let dir = Self {
                    dir: self.open_at(name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?,
                };
                dir.clear()?;
                Ok(rustix::fs::unlinkat(&self.dir, name, AtFlags::REMOVEDIR)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Creates a symbolic link for the owner of the directory. We never follow it.
    ///
    /// # Errors
    /// The file system's error.
    pub fn symlink(&self, target: &Path, name: &str) -> io::Result<()> {
        self.check(name)?;
        Ok(rustix::fs::symlinkat(target, &self.dir, name)?)
    }

    /// Changes the owner of the entry of that name, also of a link.
    ///
    /// # Errors
    /// The file system's error.
    pub fn give_file(&self, name: &str, uid: u32, gid: u32) -> io::Result<()> {
        self.check(name)?;
        let uid = Uid::from_raw(uid);
        let gid = Gid::from_raw(gid);
        Ok(rustix::fs::chownat(
            &self.dir,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// Returns the owner of the directory.
    ///
    /// # Errors
    /// The file system's error.
    pub fn owner(&self) -> io::Result<u32> {
        Ok(rustix::fs::fstat(&self.dir)?.st_uid)
    }

    /// Opens a socket to connect to.
    ///
    /// # Errors
    /// `NotFound` when there is none yet, `InvalidData` when something else is in its place.
    pub fn socket(&self, name: &str) -> io::Result<PinnedSocket> {
        let socket = match self.open_at(name, OFlags::PATH, Mode::empty()) {
            Ok(socket) => socket,
            Err(Errno::LOOP | Errno::XDEV) => return Err(replaced(name)),
            Err(error) => return Err(error.into()),
        };
        let mode = rustix::fs::fstat(&socket)?.st_mode;
        if FileType::from_raw_mode(mode) == FileType::Socket {
            Ok(PinnedSocket(socket))
        } else {
            Err(replaced(name))
        }
    }

    /// Returns a path at which a socket can be bound, which follows no link; valid for as long as
    /// the value lives.
    ///
    /// # Errors
    /// `InvalidInput` for a name with more than one component.
    pub fn bind_path(&self, name: &str) -> io::Result<PathBuf> {
        self.check(name)?;
        Ok(PathBuf::from(format!("/proc/self/fd/{}", self.dir.as_raw_fd())).join(name))
    }

    fn open_at(&self, name: &str, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        self.check(name).map_err(|_| Errno::INVAL)?;
        rustix::fs::openat2(
            &self.dir,
            name,
            flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            mode,
            RESOLVE,
        )
    }

    fn check(&self, name: &str) -> io::Result<()> {
        if name.is_empty() || name == "." || name == ".." || name.contains('/') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name:?} is no single name"),
            ));
        }
        Ok(())
    }

    /// Removes everything in the directory.
    fn clear(&self) -> io::Result<()> {
        let mut moved = 0;
        loop {
            let mut is_empty = true;
            self.each(|name| {
                is_empty = false;
                let Some(below) = self.unlink_or_open(name)? else {
                    return Ok(());
                };
                below.each(|inner| match below.unlink_or_open(inner)? {
                    Some(_) => self.lift(&below, inner, &mut moved),
                    None => Ok(()),
                })?;
                match rustix::fs::unlinkat(&self.dir, name, AtFlags::REMOVEDIR) {
                    // The next round removes the remaining entries.
                    Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            })?;
            if is_empty {
                return Ok(());
            }
        }
    }

    fn each(&self, mut work: impl FnMut(&CStr) -> io::Result<()>) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let list = Dir::new(rustix::fs::openat(&self.dir, c".", flags, Mode::empty())?)?;
        for entry in list {
            let entry = entry?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                work(entry.file_name())?;
            }
        }
        Ok(())
    }

    /// Removes the entry of that name, or opens it if it is a directory.
    fn unlink_or_open(&self, name: &CStr) -> io::Result<Option<Self>> {
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(None),
            Err(Errno::ISDIR) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let dir = rustix::fs::openat2(&self.dir, name, flags, Mode::empty(), RESOLVE)?;
                Ok(Some(Self { dir }))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Moves a subdirectory of `below` here, under a free name.
    fn lift(&self, below: &Self, name: &CStr, moved: &mut u64) -> io::Result<()> {
        loop {
            *moved += 1;
            let to = format!("{MOVED}{moved}");
            match rustix::fs::renameat_with(&below.dir, name, &self.dir, to, RenameFlags::NOREPLACE)
            {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Removes a directory whose parent is ours, with everything that a hostile process made in it, or
/// a file. A missing one is no error. The process must be gone: it could go on making files.
///
/// # Errors
/// The file system's error; another call can remove the rest.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {}
        done => return done,
    }
    UntrustedDir::open(path)?.clear()?;
    stdx::fs::remove_dir_if_exists(path)
}

fn new_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn replaced(name: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the VMM has put something else in the place of {name}"),
    )
}

/// Takes ownership of the file. `path` lies in a directory of ours by now, so it leads to the same
/// file until the end.
fn own(name: &str, path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(replaced(name));
    }
    let file = File::open(path)?;
    let owner = fs::metadata(path.parent().unwrap_or(Path::new("/")))?;
    // From here on no other process can open it.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    if !may_be_written(&file) {
        return Ok(());
    }
    let copy = crate::file::temporary_name(path);
    let _ = fs::remove_file(&copy);
    crate::sparse::copy(path, &copy)?;
    fs::rename(copy, path)
}

/// Returns true if another process may have the file open for writing, or mapped so. A lease for
/// reading is given only if there is none (fcntl(2)); a file system without leases cannot tell.
/// `file` is open for reading only.
fn may_be_written(file: &File) -> bool {
    // SAFETY: both are calls with a number, on a descriptor that lives.
    unsafe {
        let given = libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) == 0;
        if given {
            libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK);
        }
        !given
    }
}

#[cfg(test)]
mod tests;
