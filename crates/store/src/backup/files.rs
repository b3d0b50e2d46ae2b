//! Files of backups and restores: written in a directory of their own, copied with their log, given to
//! the owner of the database.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;

/// Name that files in such a directory begin with: SQLite adds to it.
const PART_NAME: &str = "database";

/// A copy of a database that is being written, in a directory of its own, which is locked. What is
/// dropped before it has another name is removed; SQLite may write a moment longer, and can then make no file any more.
/// The lock of a process that was killed is free, and the next one removes what that left.
#[derive(Debug)]
pub(super) struct PartFile {
    directory: PathBuf,
    pub(super) path: PathBuf,
    _lock: File,
}

impl PartFile {
    /// Creates an empty file, in place of what an interrupted run left.
    ///
    /// # Errors
    /// `ResourceBusy` if another process is writing a copy for this name; `AlreadyExists` if the
    /// directory has files of others.
    pub(super) fn create(to: &Path) -> io::Result<Self> {
        let directory = beside(to, ".part");
        let lock = lock_directory(&directory)?;
        remove_parts(&directory)?;
        let path = directory.join(PART_NAME);
        let part = Self {
            directory,
            path,
            _lock: lock,
        };
        // SQLite writes into an empty file, with the mode that it has.
        create_private(&part.path)?;
        Ok(part)
    }

    /// Makes the file durable under its name, which must be free.
    pub(super) fn publish(self, to: &Path) -> io::Result<()> {
        File::open(&self.path)?.sync_all()?;
        rename_to_free_name(&self.path, to)?;
        sync_directory(to)
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Creates the directory of a part, if it is not there, and locks it.
fn lock_directory(directory: &Path) -> io::Result<File> {
    loop {
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let lock = match File::open(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                let text = "another process is writing this file";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
            }
            locked => locked?,
        }
        // The one that had the lock before removes the directory when it ends.
        let locked = lock.metadata()?;
        if identity(directory).is_ok_and(|found| found == (locked.dev(), locked.ino())) {
            return Ok(lock);
        }
    }
}

/// Empties the directory of a part, unless files of others are in it.
fn remove_parts(directory: &Path) -> io::Result<()> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with(PART_NAME) || entry.file_type()?.is_dir() {
            let text = format!(
                "the directory {} has other files; name the backup differently",
                directory.display()
            );
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        parts.push(entry.path());
    }
    parts.iter().try_for_each(fs::remove_file)
}

/// Returns what tells a file from others, whatever names lead to it.
pub(super) fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Creates an empty file for its owner alone, in place of one that an interrupted run left.
fn create_private(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

/// Copies a database with the log that SQLite has beside it, for our eyes alone.
///
/// # Errors
/// `EAGAIN` or `EACCES` if another process has the database open: it may change while it is copied.
pub(super) fn copy_database(from: &Path, to: &Path) -> io::Result<()> {
    // Without the right to write there is no lock, nor is a control plane at work on it. The one
    // descriptor until the end: to close another one would end the lock.
    let database = match OpenOptions::new().read(true).write(true).open(from) {
        Ok(file) => {
            lock_file(&file)?;
            file
        }
        Err(_) => File::open(from)?,
    };
    // The log first: what is written into the database later is in it as well.
    for suffix in ["-wal", "-journal"] {
        match copy_private(&beside(from, suffix), &beside(to, suffix)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            copied => copied?,
        }
    }
    copy_content(&database, to)
}

fn copy_private(from: &Path, to: &Path) -> io::Result<()> {
    copy_content(&File::open(from)?, to)
}

fn copy_content(mut from: &File, to: &Path) -> io::Result<()> {
    io::copy(&mut from, &mut create_private(to)?).map(drop)
}

/// Locks all bytes of a file, those that SQLite locks included, until the process closes any
/// descriptor of it.
///
/// # Errors
/// `EAGAIN` or `EACCES` if another process has a lock on it.
pub(super) fn lock_file(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fcntl_lock(
        file,
        FlockOperation::NonBlockingLockExclusive,
    )?)
}

/// Gives the copy to the one who is to use it, where we are root and another user's service is
/// restored: to the owner of the database, or of its directory if that one is root's, too.
pub(super) fn give_to_owner_of(path: &Path, copy: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let database = fs::metadata(path).ok();
    let owner = match database.filter(|found| found.uid() != 0) {
        Some(owner) => owner,
        None => fs::metadata(directory_of(path))?,
    };
    std::os::unix::fs::chown(copy, Some(owner.uid()), Some(owner.gid()))
}

/// Renames a file to a name that no other file has.
///
/// # Errors
/// `EEXIST` if one has it.
pub(super) fn rename_to_free_name(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system cannot do it in one step.
        Err(Errno::INVAL) if to.exists() => Err(Errno::EXIST.into()),
        Err(Errno::INVAL) => fs::rename(from, to),
        renamed => Ok(renamed?),
    }
}

pub(super) fn sync_directory(of: &Path) -> io::Result<()> {
    File::open(directory_of(of))?.sync_all()
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}
