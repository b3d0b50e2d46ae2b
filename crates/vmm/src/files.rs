//! Files in the directories of VMs and snapshots, in which only the agent creates names.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::{Error, Result};

/// Creates an empty file that only its owner can read, for the memory of a guest.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// Creates a file that only its owner can read, and never opens an existing one: a user who can
/// write to the directory could have put a link in its place.
pub(crate) fn new_file(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

pub(crate) fn remove(path: &Path) -> Result<()> {
    stdx::fs::remove_file_if_exists(path).map_err(in_file("remove", path))
}

/// Gives a file a second name, or copies it where that is impossible. The file is never written
/// again, so both names may lead to it.
pub(crate) fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_| linux::sparse::copy(from, to))
}

/// Refuses to write a snapshot among other files, so that the cleanup after a failure removes only
/// the snapshot's own.
pub(crate) fn must_be_empty(dir: &Path) -> Result<()> {
    let empty = fs::read_dir(dir)
        .map(|mut entries| entries.next().is_none())
        .map_err(in_file("list", dir))?;
    if empty {
        return Ok(());
    }
    Err(Error::Refused {
        command: "snapshot".into(),
        reason: format!("{} is not empty", dir.display()),
    })
}

pub(crate) async fn run_blocking<T: Send + 'static>(
    action: &'static str,
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    stdx::task::run_blocking(work)
        .await
        .map_err(in_file(action, path))
}

pub(crate) fn in_file(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io {
        action,
        path,
        source,
    }
}
