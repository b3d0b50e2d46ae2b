//! Puts a prepared copy in the place of a database file.
//!
//! SQLite finds the log of a database by its name, and takes one with valid checksums for the
//! database's own, whichever file it was written for. So no log may be left beside the name when the
//! copy takes it, and no process may make one afterwards that belongs to the file from before:
//!
//! 1. The file is locked until the copy has its name. Where SQLite can read it, it writes the log into
//!    it first; a process that opened it before finds, once the lock is free, a file that has moved,
//!    and writes nothing to it (`SQLITE_READONLY_DBMOVED`). Where it is damaged, all its bytes are
//!    locked: a control plane that has it open has a lock on some of them.
//! 2. A second name for it, `NAME.before-restore`; logs that are left, of a damaged database or of one
//!    that was moved away, get names beside that. Both reach the disk.
//! 3. The copy takes the name. Where there was no database, none may have come since.
//!
//! If we die after 2, a damaged database is without its log under its old name, but has it under the
//! second one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Row as _, SqliteConnection};

use super::BUSY_LIMIT;
use super::files::{beside, lock_file, rename_to_free_name, sync_directory};
use crate::Error;
use crate::sqlite::{code_of, is_busy, unusable};

/// Suffixes of the logs of a database, in either journal mode.
const LOGS: [&str; 2] = ["-wal", "-journal"];

/// Lock on a database that is to be replaced, which ends when this is dropped.
pub(super) enum DatabaseLock {
    /// There is none.
    Missing,
    /// By SQLite, which has written the log into the database.
    Readable(SqliteConnection),
    /// On all bytes of a file that SQLite cannot read.
    Damaged(#[expect(dead_code, reason = "its descriptor holds the lock")] File),
}

/// Puts a prepared copy in the place of the database, and returns the name of the one from before.
pub(super) async fn replace_database(path: &Path, copy: &Path) -> Result<Option<PathBuf>, Error> {
    let name = free_name(path);
    // Of a damaged database SQLite may remove the log, and say no more than that.
    link_logs(path, &name)?;
    let lock = lock_database(path).await;
    if !matches!(lock, Ok(DatabaseLock::Damaged(_))) {
        for suffix in LOGS {
            let _ = fs::remove_file(beside(&name, suffix));
        }
    }
    let lock = lock?;
    let before = rename_copy(path, copy, &name, &lock);
    if let DatabaseLock::Readable(connection) = lock {
        let _ = connection.close().await;
    }
    before
}

/// Gives the logs that there are second names.
fn link_logs(path: &Path, name: &Path) -> Result<(), Error> {
    for suffix in LOGS {
        match fs::hard_link(beside(path, suffix), beside(name, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(unusable(&beside(path, suffix), error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Locks a database file.
///
/// # Errors
/// [`Error::InUse`]; [`Error::File`] if it is neither readable nor damaged: its disk fails or is
/// full.
pub(super) async fn lock_database(path: &Path) -> Result<DatabaseLock, Error> {
    let in_use = || Error::InUse {
        place: path.display().to_string(),
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DatabaseLock::Missing),
        found => found.map_err(|error| unusable(path, error))?,
    };
    match lock_readable(path).await {
        Ok(Some(connection)) => return Ok(DatabaseLock::Readable(connection)),
        Ok(None) => return Err(in_use()),
        Err(error) if is_busy(&error) => return Err(in_use()),
        Err(error) if is_damaged(&error) => {
            tracing::warn!(%error, "the database that is replaced is damaged");
        }
        Err(error) => return Err(unusable(path, error)),
    }
    let opened = File::options().read(true).write(true).open(path);
    let file = opened.map_err(|error| unusable(path, error))?;
    match lock_file(&file) {
        Ok(()) => Ok(DatabaseLock::Damaged(file)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::AGAIN | Errno::ACCESS) => Err(in_use()),
            _ => Err(unusable(path, error)),
        },
    }
}

/// Writes the log into the database and removes it, then locks it for ourselves. Returns `None` if
/// another process has begun a new log in between.
async fn lock_readable(path: &Path) -> Result<Option<SqliteConnection>, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_LIMIT);
    let mut connection = options.connect().await?;
    let locked = async {
        connection.execute("PRAGMA journal_mode = DELETE").await?;
        connection.execute("BEGIN EXCLUSIVE").await?;
        // With a log of writes ahead, an exclusive transaction lets others read.
        let mode = connection.fetch_one("PRAGMA journal_mode").await?;
        Ok::<bool, sqlx::Error>(mode.try_get::<String, _>(0)? == "delete")
    }
    .await;
    match locked {
        Ok(true) => Ok(Some(connection)),
        // Closed before any other lock is taken: closing one descriptor of a file ends all locks that
        // this process has on it.
        Ok(false) => connection.close().await.map(|()| None),
        Err(error) => {
            let _ = connection.close().await;
            Err(error)
        }
    }
}

/// Returns true for `SQLITE_CORRUPT` and `SQLITE_NOTADB`. Failures of the disk are no damage: the log
/// may be whole.
fn is_damaged(error: &sqlx::Error) -> bool {
    matches!(code_of(error), Some(11 | 26))
}

/// Gives the copy the name of a database that is locked, and that the name `name`.
pub(super) fn rename_copy(
    path: &Path,
    copy: &Path,
    name: &Path,
    lock: &DatabaseLock,
) -> Result<Option<PathBuf>, Error> {
    let at_path = |error: io::Error| unusable(path, error);
    let before = match lock {
        DatabaseLock::Missing => None,
        DatabaseLock::Readable(_) | DatabaseLock::Damaged(_) => {
            fs::hard_link(path, name).map_err(at_path)?;
            Some(name.to_owned())
        }
    };
    for suffix in LOGS {
        let log = beside(path, suffix);
        let kept = beside(name, suffix);
        let moved = match kept.exists() {
            true => fs::remove_file(&log),
            false => fs::rename(&log, &kept),
        };
        match moved {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(unusable(&log, error));
            }
            _ if kept.exists() => {
                tracing::warn!("the log of the database from before is {}", kept.display());
            }
            _ => {}
        }
    }
    // The index of a log, which SQLite makes anew.
    let _ = fs::remove_file(beside(path, "-shm"));
    sync_directory(path).map_err(at_path)?;
    let renamed = match lock {
        DatabaseLock::Missing => rename_to_free_name(copy, path),
        DatabaseLock::Readable(_) | DatabaseLock::Damaged(_) => fs::rename(copy, path),
    };
    renamed.map_err(|error| match error.kind() {
        // A control plane that was started meanwhile has made it.
        io::ErrorKind::AlreadyExists => Error::InUse {
            place: path.display().to_string(),
        },
        _ => unusable(path, error),
    })?;
    sync_directory(path).map_err(at_path)?;
    Ok(before)
}

/// Returns a name for the database from before which neither a file nor a log has.
fn free_name(path: &Path) -> PathBuf {
    let is_free = |name: &PathBuf| {
        let mut names = [""].iter().chain(&LOGS);
        names.all(|suffix| fs::symlink_metadata(beside(name, suffix)).is_err())
    };
    (1..)
        .map(|number: u32| match number {
            1 => beside(path, ".before-restore"),
            _ => beside(path, &format!(".before-restore-{number}")),
        })
        .find(is_free)
        .unwrap_or_else(|| beside(path, ".before-restore"))
}
