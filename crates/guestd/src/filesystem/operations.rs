//! Stat, list, make, move, remove. Synchronous; called on a blocking thread under the user's
//! identity.

use std::fs;
use std::io;
use std::path::Path;

use guest_rpc::filesystem::EntryInfo;
use nix::libc;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::entry;
use super::error::{FileError, Kind};
use super::path::ensure_dir;
use super::removal::remove_tree;
use crate::user::Database;

/// Maximum number of entries of one listing: some 50 MiB of answer.
const ENTRIES_LIMIT: usize = 200_000;

fn names() -> Database {
    Database::read(Path::new("/etc"))
}

/// Describes one path.
///
/// # Errors
/// Not found; denied.
pub fn stat_entry(path: &Path) -> Result<EntryInfo, FileError> {
    entry::read_entry(path, &names()).map_err(|e| {
        not_found_error(path, &e).unwrap_or_else(|| FileError::io("look at", path, &e))
    })
}

/// Returns "not found" for ENOTDIR: to a reader, a path below a plain file does not exist.
pub fn not_found_error(path: &Path, error: &io::Error) -> Option<FileError> {
    (error.raw_os_error() == Some(libc::ENOTDIR)).then(|| {
        FileError::new(
            Kind::NotFound,
            format!("path '{}' does not exist", path.display()),
        )
    })
}

/// Lists entries below `path` down to `depth` levels (0 counts as 1): by name, each directory
/// before its entries. Symbolic links to directories are not entered; nor are directories further
/// down that the user may not read.
///
/// # Errors
/// Not found; invalid where `path` is no directory; denied; exhausted beyond [`ENTRIES_LIMIT`].
pub fn list_dir(path: &Path, depth: u32) -> Result<Vec<EntryInfo>, FileError> {
    let top = fs::metadata(path).map_err(|e| {
        not_found_error(path, &e).unwrap_or_else(|| FileError::io("list", path, &e))
    })?;
    if !top.is_dir() {
        return Err(FileError::invalid(format!(
            "path '{}' is not a directory",
            path.display()
        )));
    }
    let names = names();
    let mut entries = Vec::new();
    // Last one first: a stack of what is still to be described, with its level.
    let mut open = children(path, 1).map_err(|e| FileError::io("list", path, &e))?;
    while let Some((path, level)) = open.pop() {
        // Entries that vanish during the listing are left out.
        let Ok(own) = fs::symlink_metadata(&path) else {
            continue;
        };
        if entries.len() == ENTRIES_LIMIT {
            let message = format!(
                "more than {ENTRIES_LIMIT} entries: list a smaller directory or less depth"
            );
            return Err(FileError::new(Kind::Exhausted, message));
        }
        entries.push(entry::describe_file(&path, &own, &names));
        if own.is_dir() && level < depth {
            open.append(&mut children(&path, level + 1).unwrap_or_default());
        }
    }
    Ok(entries)
}

/// Lists the entries of a directory in reverse order of their names.
fn children(dir: &Path, level: u32) -> io::Result<Vec<(std::path::PathBuf, u32)>> {
    let mut found = Vec::new();
    for child in fs::read_dir(dir)? {
        found.push((child?.path(), level));
        if found.len() > ENTRIES_LIMIT {
            break;
        }
    }
    found.sort_unstable_by(|a, b| b.0.cmp(&a.0));
    Ok(found)
}

/// Makes a directory and its missing parents.
///
/// # Errors
/// Already exists; invalid where a file is in the way; denied; no space.
pub fn make_dir(path: &Path) -> Result<EntryInfo, FileError> {
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => Err(FileError::new(
            Kind::AlreadyExists,
            format!("directory '{}' already exists", path.display()),
        )),
        Ok(_) => Err(FileError::invalid(format!(
            "path '{}' already exists and is not a directory",
            path.display()
        ))),
        Err(_) => {
            ensure_dir(path)?;
            stat_entry(path)
        }
    }
}

/// Moves or renames; missing parents of `destination` are made. Replaces a file, or an empty
/// directory by a directory.
///
/// # Errors
/// Not found; denied; invalid; already exists; precondition across file systems.
pub fn rename_entry(source: &Path, destination: &Path) -> Result<EntryInfo, FileError> {
    rename(source, destination, || fs::rename(source, destination))
}

/// Does the same as [`rename_entry`], but leaves a destination that is there alone.
///
/// # Errors
/// As [`rename_entry`]; already exists.
pub fn rename_without_replacing(source: &Path, destination: &Path) -> Result<EntryInfo, FileError> {
    let taken = || {
        let message = format!("path '{}' already exists", destination.display());
        FileError::new(Kind::AlreadyExists, message)
    };
    // Before a missing parent is made.
    if fs::symlink_metadata(destination).is_ok() {
        return Err(taken());
    }
    let renamed = rename(source, destination, || {
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(CWD, source, CWD, destination, flags) {
            // The file system cannot do both in one step: what appears in between is replaced.
            Err(Errno::INVAL) if !destination.starts_with(source) => {
                fs::rename(source, destination)
            }
            other => other.map_err(io::Error::from),
        }
    });
    renamed.map_err(|e| match e.kind {
        Kind::AlreadyExists => taken(),
        _ => e,
    })
}

fn rename(
    source: &Path,
    destination: &Path,
    act: impl FnOnce() -> io::Result<()>,
) -> Result<EntryInfo, FileError> {
    fs::symlink_metadata(source).map_err(|e| {
        not_found_error(source, &e).unwrap_or_else(|| FileError::io("move", source, &e))
    })?;
    if let Some(parent) = destination.parent() {
        ensure_dir(parent)?;
    }
    act().map_err(|e| {
        if e.raw_os_error() == Some(libc::EXDEV) {
            let message = format!(
                "'{}' and '{}' are on different file systems: move it with a command, as in `mv`, which copies",
                source.display(),
                destination.display()
            );
            return FileError::new(Kind::Precondition, message);
        }
        let doing = format!("move '{}' to", source.display());
        FileError::io(&doing, destination, &e)
    })?;
    stat_entry(destination)
}

/// Removes a file, or a directory with all that is in it. A missing path is no error.
///
/// # Errors
/// Denied; invalid for `/`.
pub fn remove_entry(path: &Path) -> Result<(), FileError> {
    if path == Path::new("/") {
        return Err(FileError::invalid(
            "path '/' is the whole sandbox: remove what is in it, or the sandbox",
        ));
    }
    let done = match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => remove_tree(path).map_err(io::Error::from),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match done {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(()),
        Err(e) => Err(FileError::io("remove", path, &e)),
        Ok(()) => Ok(()),
    }
}
