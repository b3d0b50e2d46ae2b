//! Extends [`std::fs`].

use std::fs::{self, DirBuilder};
use std::io::Result;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::io::OptionalExt;

/// Mode with which only the owner may list, enter and change the directory.
const PRIVATE_DIR_MODE: u32 = 0o700;

/// Removes a file. A file that does not exist is no error.
///
/// # Errors
/// All others of the file system.
pub fn remove_file_if_exists(path: impl AsRef<Path>) -> Result<()> {
    fs::remove_file(path).optional().map(drop)
}

/// Removes an empty directory. A directory that does not exist is no error.
///
/// # Errors
/// All others of the file system.
pub fn remove_dir_if_exists(path: impl AsRef<Path>) -> Result<()> {
    fs::remove_dir(path).optional().map(drop)
}

/// Creates a directory that only its owner can enter.
///
/// # Errors
/// `AlreadyExists` when the name is taken; all others of the file system.
pub fn create_private_dir(path: impl AsRef<Path>) -> Result<()> {
    DirBuilder::new().mode(PRIVATE_DIR_MODE).create(path)
}

/// Creates a directory that only its owner can enter, and those above it that are missing. One
/// that exists keeps its mode.
///
/// # Errors
/// Errors of the file system.
pub fn create_private_dir_all(path: impl AsRef<Path>) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_DIR_MODE)
        .create(path)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn absent_file_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, b"x").unwrap();
        remove_file_if_exists(&path).unwrap();
        remove_file_if_exists(&path).unwrap();
        remove_dir_if_exists(&path).unwrap();
        let error = remove_file_if_exists(dir.path()).unwrap_err();
        assert_ne!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn private_dir_is_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        create_private_dir_all(&path).unwrap();
        create_private_dir_all(&path).unwrap();
        let error = create_private_dir(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        for made in [dir.path().join("a"), path] {
            let mode = fs::metadata(made).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
    }
}
