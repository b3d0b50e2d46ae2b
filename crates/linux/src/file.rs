//! Files that must be whole after a crash, and copies that share their blocks.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

pub use crate::lock::Lock;

/// Writes a file so that after a crash at any moment either the old content or the new one is
/// there: temporary name, fsync, rename, fsync of the directory.
///
/// # Errors
/// The file system's error; the old content stands then.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    put_in_place(path, content, mode, File::sync_all)?;
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// Writes a file as [`write_atomic`], but without waiting for the disk: for content that means
/// nothing after a restart of the machine.
///
/// # Errors
/// As [`write_atomic`].
pub fn replace_content(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    put_in_place(path, content, mode, |_| Ok(()))
}

fn put_in_place(
    path: &Path,
    content: &[u8],
    mode: u32,
    finish: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = temporary_name(path);
    let written = (|| {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(content)?;
        finish(&file)?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Returns the name for the unfinished file: beside `path`, hidden, ending in `.unfinished`.
#[must_use]
pub fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.unfinished"))
}

/// Makes additions and removals in a directory durable.
///
/// # Errors
/// The file system's error.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Copies a file by sharing its blocks (FICLONE; XFS, Btrfs). `to` must not exist.
///
/// # Errors
/// `Unsupported` when the file system cannot; then nothing is left.
pub fn reflink(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let target = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    clone_content(&source, &target).inspect_err(|_| {
        let _ = fs::remove_file(to);
    })
}

/// Gives an empty file the content of another by sharing its blocks (FICLONE; XFS, Btrfs).
///
/// # Errors
/// `Unsupported` when the file system cannot; then the file is as it was.
pub fn clone_content(source: &File, target: &File) -> io::Result<()> {
    rustix::fs::ioctl_ficlone(target, source).map_err(|error| match error {
        rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::XDEV | rustix::io::Errno::INVAL => {
            io::Error::new(
                io::ErrorKind::Unsupported,
                "the file system cannot share blocks between files",
            )
        }
        other => other.into(),
    })
}

/// Returns true if files in `dir` can share blocks; finds out by trying.
///
/// # Errors
/// When no file can be made in `dir`.
pub fn can_reflink(dir: &Path) -> io::Result<bool> {
    let from = dir.join(".reflink-probe.unfinished");
    let to = dir.join(".reflink-copy.unfinished");
    let _ = fs::remove_file(&to);
    fs::write(&from, [0x5a; 4096])?;
    let copied = reflink(&from, &to);
    let _ = fs::remove_file(&to);
    fs::remove_file(&from)?;
    match copied {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns the bytes that the file takes on disk, for a sparse one less than its length.
///
/// # Errors
/// When there is no such file.
pub fn allocated_bytes(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.blocks() * 512)
}

/// Frees the disk space of a file but for its last `keep` bytes. Its length and the position of its
/// writer stay: freed parts read as zeros.
///
/// # Errors
/// When there is no such file, or the file system cannot do it.
pub fn free_beginning(path: &Path, keep: u64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    let length = file.metadata()?.len().saturating_sub(keep);
    if length > 0 {
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, flags, 0, length)?;
    }
    Ok(())
}

/// Renames a file or directory to a name that is free.
///
/// # Errors
/// `AlreadyExists` when there is something of that name; the error of renameat2(2).
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags};
    rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?;
    Ok(())
}

/// Exchanges the names of two files or directories, so that each has the other's.
///
/// # Errors
/// The error of renameat2(2).
pub fn exchange_names(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags};
    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?;
    Ok(())
}

/// Returns the bytes that unprivileged users can still write on the file system of `path`.
///
/// # Errors
/// When there is no such path.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Size of a file system, and its space that unprivileged users can still write, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    pub free: u64,
}

/// Returns size and free space of the file system of `path`.
///
/// # Errors
/// When there is no such path.
pub fn file_system_space(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Space {
        total: stat.f_blocks * stat.f_frsize,
        free: stat.f_bavail * stat.f_frsize,
    })
}

/// Allocates blocks for the first `length` bytes of a file, which keeps its length and content.
/// Does nothing on a file system that cannot do that.
///
/// # Errors
/// `StorageFull` when there are no blocks.
pub fn allocate_blocks(file: &File, length: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, length) {
        Err(error) if error != rustix::io::Errno::OPNOTSUPP => Err(error.into()),
        _ => Ok(()),
    }
}

/// Creates a directory that only its owner may enter. An existing one gets that mode.
///
/// # Errors
/// The file system's error; `NotADirectory` for a link.
pub fn ensure_private_dir(path: &Path) -> io::Result<()> {
    stdx::fs::create_private_dir_all(path)?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let dir = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    make_private(&dir, 0o700)
}

/// Opens a file for reading and writing that only its owner may open, and creates it if need be. An
/// existing one gets that mode: a user who may open a file can lock it.
///
/// # Errors
/// The file system's error.
pub fn open_private(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600);
    let file = options
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    make_private(&file, 0o600)?;
    Ok(file)
}

fn make_private(file: &File, mode: u32) -> io::Result<()> {
    if file.metadata()?.mode() & 0o7777 == mode {
        return Ok(());
    }
    file.set_permissions(fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atomic_write_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_atomic(&path, b"one", 0o600).unwrap();
        write_atomic(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_atomic(&dir.path().join("no/such/dir"), b"", 0o600).is_err());
    }

    #[test]
    fn reflink_works_or_is_unsupported() {
        let dir = tempfile::tempdir().unwrap();
        let able = can_reflink(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let from = dir.path().join("a");
        let to = dir.path().join("b");
        fs::write(&from, b"content").unwrap();
        match reflink(&from, &to) {
            Ok(()) => assert!(able && fs::read(&to).unwrap() == b"content"),
            Err(error) => {
                assert!(!able && error.kind() == io::ErrorKind::Unsupported && !to.exists())
            }
        }
    }

    #[test]
    fn beginning_of_file_is_freed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, vec![7; 1 << 20]).unwrap();
        free_beginning(&path, 4096).unwrap();
        let content = fs::read(&path).unwrap();
        assert!(content.len() == 1 << 20 && content[0] == 0 && content.ends_with(&[7; 4096]));
        assert!(allocated_bytes(&path).unwrap() < 1 << 16);
        fs::write(&path, b"short").unwrap();
        free_beginning(&path, 4096).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
    }

    #[test]
    fn private_paths_are_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        let file = dir.path().join("a/b/file");
        ensure_private_dir(&inner).unwrap();
        File::create(&file)
            .unwrap()
            .set_permissions(fs::Permissions::from_mode(0o644))
            .unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o755)).unwrap();
        ensure_private_dir(&inner).unwrap();
        open_private(&file).unwrap();
        let modes = [dir.path().join("a"), inner, file]
            .map(|path| fs::metadata(path).unwrap().mode() & 0o777);
        assert_eq!(modes, [0o700, 0o700, 0o600]);
        std::os::unix::fs::symlink("/tmp", dir.path().join("link")).unwrap();
        assert!(ensure_private_dir(&dir.path().join("link")).is_err());
    }
}
