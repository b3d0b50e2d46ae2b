//! Backs a database up while it is in use, and restores it.
//!
//! | | SQLite | PostgreSQL |
//! |---|---|---|
//! | back up | [`Store::backup`] | `pg_dump`, `pg_basebackup` |
//! | restore | [`Store::restore`] | `pg_restore` into an empty database, then [`Store::finish_restore`] |
//!
//! A backup is written into a directory of its own, `FILE.part`, and has its name once it is whole
//! and on disk; a lock on the directory keeps a second process out. A restore makes a copy in such a
//! directory beside the database, `NAME.restore.part`, checks every page of it, brings it to this
//! version's schema and finishes it; then the copy takes the name of the database in one step
//! (`replace`), and only then the lock ends. The database from before stays as
//! `NAME.before-restore`. If we die before that step, the database is as it was, with a directory
//! that the next restore empties.
//!
//! Hosts, clients and teams know more than an older database. So a restore is finished, whichever
//! way it was made (`finish`).

mod files;
mod finish;
mod replace;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Row as _, SqliteConnection};

use crate::sqlite::{options, path_of, unusable};
use crate::{Backend, Error, Store};
use files::{PartFile, beside};

pub use finish::RESTORED_END_GRACE_MS;

/// Wait for a database that is to be replaced to be let go: one that is in use stays so.
const BUSY_LIMIT: Duration = Duration::from_secs(2);

/// Name of our connections to PostgreSQL, by which others of control planes are told from them.
const RESTORER: &str = "wrenn-cp restore";

/// Outcome of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// File that has the database from before, if there was one.
    pub before: Option<PathBuf>,
    /// Number of sandboxes whose end was put off.
    pub postponed_ends: u64,
    /// Number of webhooks that were disabled.
    pub disabled_webhooks: u64,
}

impl Store {
    /// Writes a copy of the database, as it is at one moment, to a new file for its owner alone.
    /// Others may write to the database at the same time. A caller that stops waiting leaves no
    /// file.
    ///
    /// # Errors
    /// [`Error::NotForPostgres`]; [`Error::File`] if the file is there already, cannot be written, or
    /// is being written by another process; [`Error::Query`] if the database cannot be read.
    pub async fn backup(&self, to: &Path) -> Result<(), Error> {
        let Backend::Sqlite(sqlite) = &self.backend else {
            return Err(Error::NotForPostgres {
                advice: "back it up with pg_dump --format=custom --file=FILE \"$DATABASE_URL\"",
            });
        };
        if to.exists() {
            return Err(unusable(to, std::io::Error::from(Errno::EXIST)));
        }
        let part = PartFile::create(to).map_err(|error| unusable(to, error))?;
        let failed = |source: sqlx::Error| Error::Query {
            doing: "writing a backup",
            source: source.into(),
        };
        // A connection of its own: a large database takes longer than a call of the pool may.
        let source = options(Path::new(&sqlite.place));
        let mut connection = source.connect().await.map_err(failed)?;
        let path = part.path.to_string_lossy().into_owned();
        let copy = sqlx::query("VACUUM INTO $1").bind(path);
        copy.execute(&mut connection).await.map_err(failed)?;
        connection.close().await.map_err(failed)?;
        part.publish(to).map_err(|error| unusable(to, error))
    }

    /// Replaces the database of `url` by a backup, brings it to this version's schema and finishes
    /// it. A log of SQLite beside the backup, as in a snapshot of a file system, is part of it.
    ///
    /// # Errors
    /// [`Error::NotForPostgres`]; [`Error::InUse`] if another process has the database or the backup
    /// open; [`Error::File`] if another process is restoring; [`Error::File`] or [`Error::NotABackup`] if the backup is none, is damaged, or is the
    /// database itself; [`Error::NotMigrated`] if it is of a newer version. The
    /// database is as it was then.
    pub async fn restore(url: &str, from: &Path, now: i64) -> Result<Restored, Error> {
        if !url.starts_with("sqlite://") {
            return Err(Error::NotForPostgres {
                advice: "restore it with pg_restore --single-transaction --exit-on-error into an empty \
                         database, then run `wrenn-cp restore` without FILE",
            });
        }
        let path = path_of(url)?;
        // SQLite has the log beside the file itself, not beside a link to it.
        let path = fs::canonicalize(&path).unwrap_or(path);
        check_source(from, &path)?;
        let target = beside(&path, ".restore");
        let part = PartFile::create(&target).map_err(|error| unusable(&target, error))?;
        let restored = prepare_copy(from, &part.path, &path, now).await?;
        let before = replace::replace_database(&path, &part.path).await?;
        Ok(Restored { before, ..restored })
    }

    /// Finishes a restore that other programs have made in the database of `url`: brings it to this
    /// version's schema, and does what `finish` says.
    ///
    /// # Errors
    /// [`Error::InUse`] if a control plane has a database of PostgreSQL open; [`Error::NotMigrated`]
    /// if it has no tables, or those of a newer version; [`Error::NotWhole`] if something of it is
    /// missing, or tables of a newer version are left from before; the database's.
    pub async fn finish_restore(url: &str, now: i64) -> Result<Restored, Error> {
        let store = Self::open_as(url, RESTORER).await?;
        let finished = store.finish(now).await;
        store.close().await;
        finished
    }
}

/// Checks that the backup is not the database that the restore replaces.
fn check_source(from: &Path, path: &Path) -> Result<(), Error> {
    let source = files::identity(from).map_err(|error| unusable(from, error))?;
    if files::identity(path).is_ok_and(|database| database == source) {
        let problem = "it is the database that is to be replaced";
        return Err(not_a_backup(from, problem));
    }
    Ok(())
}

/// Makes a whole, migrated and finished database of a backup, for the owner of the database `path`.
async fn prepare_copy(from: &Path, copy: &Path, path: &Path, now: i64) -> Result<Restored, Error> {
    files::copy_database(from, copy).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::AGAIN | Errno::ACCESS) if from.exists() => Error::InUse {
            place: from.display().to_string(),
        },
        _ => unusable(from, error),
    })?;
    check_pages(copy, from).await?;
    let store = Store::open(&format!("sqlite://{}", copy.display())).await?;
    let finished = match store.schema().await {
        Ok(0) => Err(not_a_backup(from, "it has no tables of Wrenn")),
        Ok(_) => store.finish(now).await,
        Err(error) => Err(error),
    };
    // The last connection writes the log into the database.
    store.close().await;
    let finished = finished?;
    let synced = File::open(copy).and_then(|file| file.sync_all());
    synced
        .and_then(|()| files::give_to_owner_of(path, copy))
        .map_err(|error| unusable(copy, error))?;
    Ok(finished)
}

/// Checks every page of a copy, after its log was written into it.
async fn check_pages(copy: &Path, from: &Path) -> Result<(), Error> {
    let damaged = |error: sqlx::Error| unusable(from, error);
    let options = SqliteConnectOptions::new().filename(copy);
    let mut connection: SqliteConnection = options.connect().await.map_err(damaged)?;
    // A log that cannot be written into it must not be lost.
    let merged = connection.execute("PRAGMA journal_mode = DELETE").await;
    let checked = match merged {
        Ok(_) => connection.fetch_one("PRAGMA integrity_check").await,
        Err(error) => Err(error),
    };
    let found = checked.and_then(|row| row.try_get::<String, _>(0));
    let _ = connection.close().await;
    match found.map_err(damaged)?.as_str() {
        "ok" => Ok(()),
        problem => Err(not_a_backup(from, &format!("it is damaged: {problem}"))),
    }
}

fn not_a_backup(from: &Path, problem: &str) -> Error {
    Error::NotABackup {
        path: from.to_owned(),
        problem: problem.to_owned(),
    }
}
