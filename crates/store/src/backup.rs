//! Backs a database up while it is in use, and restores it.
//!
//! | | SQLite | PostgreSQL |
//! |---|---|---|
//! | back up | [`Store::backup`] | `pg_dump`, `pg_basebackup` |
//! | restore | [`Store::restore`] | `pg_restore`, then [`Store::finish_restore`] |
//!
//! A backup is written into a directory of its own, `FILE.part`, and has its name once it is whole
//! and on disk. A restore makes a copy beside the database, checks every page of it, brings it to this
//! version's schema and finishes it; then the copy takes the name of the database in one step. The
//! database from before stays as `NAME.before-restore`. If we die before that step, the database is
//! as it was, with a file `NAME.restore` that the next restore replaces.
//!
//! Hosts and clients know more than an older database. So a restore is finished, whichever way it
//! was made:
//!
//! - **Cursors of events** go on far above any that was given out, so that none of them comes twice:
//!   a client that has one from after the backup is told ([`crate::Events::Unknown`]).
//! - **Ends of sandboxes** that have passed, or are about to, are put off by
//!   [`RESTORED_END_GRACE_MS`]: they may have been moved since the backup.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Row as _, SqliteConnection};

use crate::db::rows;
use crate::postgres::APPLICATION;
use crate::sandboxes::is_alive;
use crate::sqlite::{is_busy, options, path_of, unusable};
use crate::transaction::rows_in;
use crate::{Backend, Error, Store};

/// Time that restored sandboxes live at least, in milliseconds: for an operator to see that their
/// ends are those of the backup.
pub const RESTORED_END_GRACE_MS: i64 = 60 * 60 * 1000;
/// Wait for a database that is to be replaced to be let go: one that is in use stays so.
const BUSY_LIMIT: Duration = Duration::from_secs(2);
/// Distance of the next cursor from the last one of a backup: more events than are made in years,
/// and two million restores below the largest whole number of JSON.
const CURSOR_JUMP: i64 = 1 << 32;

/// Name of our connections to PostgreSQL, by which others of control planes are told from them.
const RESTORER: &str = "wrenn-cp restore";

/// Outcome of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// File that has the database from before, if there was one.
    pub before: Option<PathBuf>,
    /// Number of sandboxes whose end was put off.
    pub postponed_ends: u64,
}

impl Store {
    /// Writes a copy of the database, as it is at one moment, to a new file for its owner alone.
    /// Others may write to the database at the same time. A caller that stops waiting leaves no
    /// file.
    ///
    /// # Errors
    /// [`Error::NotForPostgres`]; [`Error::File`] if the file is there already or cannot be written;
    /// [`Error::Query`] if the database cannot be read.
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
    /// it.
    ///
    /// # Errors
    /// [`Error::NotForPostgres`]; [`Error::InUse`] if another process has the database open;
    /// [`Error::File`] if the backup is none or is damaged; [`Error::NotMigrated`] if it is of a
    /// newer version. The database is as it was then.
    pub async fn restore(url: &str, from: &Path, now: i64) -> Result<Restored, Error> {
        if !url.starts_with("sqlite://") {
            return Err(Error::NotForPostgres {
                advice: "restore it with pg_restore --clean --if-exists --dbname=\"$DATABASE_URL\" FILE, \
                         then run `wrenn-cp restore` without FILE",
            });
        }
        let path = path_of(url)?;
        let copy = beside(&path, ".restore");
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(beside(&copy, suffix));
        }
        let prepared = prepare_copy(from, &copy, now).await;
        let replaced = match prepared {
            Ok(restored) => replace_database(&path, &copy, restored).await,
            Err(error) => Err(error),
        };
        if replaced.is_err() {
            let _ = fs::remove_file(&copy);
        }
        replaced
    }

    /// Finishes a restore that other programs have made in the database of `url`: brings it to this
    /// version's schema, lets cursors go on above all that were given out, and puts ends off.
    ///
    /// # Errors
    /// [`Error::InUse`] if a control plane has a database of PostgreSQL open; [`Error::NotMigrated`]
    /// if it has no tables, or those of a newer version; the database's.
    pub async fn finish_restore(url: &str, now: i64) -> Result<Restored, Error> {
        let store = Self::open_as(url, RESTORER).await?;
        let finished = store.finish(now).await;
        store.close().await;
        finished
    }

    async fn finish(&self, now: i64) -> Result<Restored, Error> {
        let found = self.schema().await?;
        if found == 0 {
            let needed = crate::schema::needed_version();
            return Err(Error::NotMigrated { found, needed });
        }
        self.wait_until_unused().await?;
        self.migrate().await?;
        let mut transaction = self.begin("finishing a restore").await?;
        let sql = concat!(
            "UPDATE sandboxes SET ends_at = $1, revision = revision + 1 WHERE ends_at < $1 AND ",
            is_alive!(),
            " RETURNING id"
        );
        let end = now + RESTORED_END_GRACE_MS;
        let postponed = rows_in!(&mut transaction, (String,), sql, end)?.len() as u64;
        match &self.backend {
            Backend::Sqlite(_) => {
                // There is no row before the first event.
                let sql = "INSERT INTO sqlite_sequence (name, seq) SELECT 'events', 0 \
                           WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'events') RETURNING seq";
                rows_in!(&mut transaction, (i64,), sql)?;
                let sql =
                    "UPDATE sqlite_sequence SET seq = seq + $1 WHERE name = 'events' RETURNING seq";
                rows_in!(&mut transaction, (i64,), sql, CURSOR_JUMP)?;
            }
            Backend::Postgres(_) => {
                let sql = "SELECT setval('events_cursor', last_value + $1) FROM events_cursor";
                rows_in!(&mut transaction, (i64,), sql, CURSOR_JUMP)?;
            }
        }
        transaction.commit().await?;
        Ok(Restored {
            before: None,
            postponed_ends: postponed,
        })
    }

    /// Waits a moment until no other process has a database of PostgreSQL open as a control plane.
    async fn wait_until_unused(&self) -> Result<(), Error> {
        let Backend::Postgres(_) = &self.backend else {
            return Ok(());
        };
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND application_name = $1";
        let free = async {
            loop {
                let call = self.read("looking for control planes");
                let others = rows!(call, (i64,), sql, APPLICATION)?;
                if others.first().is_none_or(|row| row.0 == 0) {
                    return Ok(());
                }
                // Connections that were closed are listed for a moment longer.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let in_use = || Error::InUse {
            place: self.read("").place.to_owned(),
        };
        let waited = tokio::time::timeout(BUSY_LIMIT, free).await;
        waited.unwrap_or_else(|_| Err(in_use()))
    }
}

/// A backup that is being written, in a directory of its own. What is dropped before it is published
/// is removed; SQLite may write a moment longer, and can then make no file any more.
struct PartFile {
    directory: PathBuf,
    path: PathBuf,
}

impl PartFile {
    /// Creates an empty file, in place of what an interrupted run left.
    fn create(to: &Path) -> std::io::Result<Self> {
        let directory = beside(to, ".part");
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(&directory)?;
        let path = directory.join("database");
        let part = Self { directory, path };
        // SQLite writes into an empty file, with the mode that it has.
        create_private(&part.path)?;
        Ok(part)
    }

    /// Makes the file durable under its name, which must be free.
    fn publish(self, to: &Path) -> std::io::Result<()> {
        File::open(&self.path)?.sync_all()?;
        let renamed = rustix::fs::renameat_with(CWD, &self.path, CWD, to, RenameFlags::NOREPLACE);
        match renamed {
            // The file system cannot do it in one step.
            Err(Errno::INVAL) => fs::rename(&self.path, to)?,
            renamed => renamed?,
        }
        sync_directory(to)
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Makes a whole, migrated and finished database of a backup.
async fn prepare_copy(from: &Path, copy: &Path, now: i64) -> Result<Restored, Error> {
    copy_private(from, copy).map_err(|error| unusable(from, error))?;
    check_pages(copy, from).await?;
    let store = Store::open(&format!("sqlite://{}", copy.display())).await?;
    let finished = match store.schema().await {
        Ok(0) => Err(not_a_backup(from, "it has no tables of Wrenn")),
        Ok(_) => store.finish(now).await,
        Err(error) => Err(error),
    };
    // The last connection writes the log into the database.
    store.close().await;
    let synced = File::open(copy).and_then(|file| file.sync_all());
    synced.map_err(|error| unusable(copy, error))?;
    finished
}

/// Puts a prepared copy in the place of the database.
async fn replace_database(path: &Path, copy: &Path, restored: Restored) -> Result<Restored, Error> {
    let before = if path.exists() {
        Some(keep_before(path).await?)
    } else {
        None
    };
    fs::rename(copy, path).map_err(|error| unusable(path, error))?;
    sync_directory(path).map_err(|error| unusable(path, error))?;
    Ok(Restored { before, ..restored })
}

/// Gives the database that is to be replaced a second name, unless a process uses it.
async fn keep_before(path: &Path) -> Result<PathBuf, Error> {
    let before = (1..)
        .map(|number: u32| match number {
            1 => beside(path, ".before-restore"),
            _ => beside(path, &format!(".before-restore-{number}")),
        })
        .find(|name| !name.exists())
        .unwrap_or_else(|| beside(path, ".before-restore"));
    // Of a database that is damaged SQLite may remove the log, and say no more than that.
    let log = [beside(path, "-wal"), beside(&before, "-wal")];
    let _ = fs::remove_file(&log[1]);
    let _ = fs::hard_link(&log[0], &log[1]);
    match leave_wal(path).await {
        Ok(()) => drop(fs::remove_file(&log[1])),
        Err(error) if is_busy(&error) => {
            let _ = fs::remove_file(&log[1]);
            let place = path.display().to_string();
            return Err(Error::InUse { place });
        }
        // That is why it is replaced. A log that stayed would be taken for the copy's own.
        Err(error) => {
            tracing::warn!(%error, "the database that is replaced cannot be read");
            for suffix in ["-wal", "-shm"] {
                let _ = fs::remove_file(beside(path, suffix));
            }
        }
    }
    fs::hard_link(path, &before).map_err(|error| unusable(path, error))?;
    Ok(before)
}

/// Writes the log into the database and removes it, for which no other process may have it open.
async fn leave_wal(path: &Path) -> Result<(), sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_LIMIT);
    let mut connection = options.connect().await?;
    let mode = connection.execute("PRAGMA journal_mode = DELETE").await;
    let closed = connection.close().await;
    mode.and(Ok(())).and(closed)
}

/// Checks every page of a copy.
async fn check_pages(copy: &Path, from: &Path) -> Result<(), Error> {
    let damaged = |error: sqlx::Error| unusable(from, error);
    let options = SqliteConnectOptions::new().filename(copy);
    let mut connection: SqliteConnection = options.connect().await.map_err(damaged)?;
    let checked = connection.fetch_one("PRAGMA integrity_check").await;
    let found = checked.and_then(|row| row.try_get::<String, _>(0));
    let _ = connection.close().await;
    match found.map_err(damaged)?.as_str() {
        "ok" => Ok(()),
        problem => Err(not_a_backup(from, problem)),
    }
}

fn not_a_backup(from: &Path, problem: &str) -> Error {
    Error::NotABackup {
        path: from.to_owned(),
        problem: problem.to_owned(),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Creates an empty file for its owner alone, in place of one that an interrupted run left.
fn create_private(path: &Path) -> std::io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

fn copy_private(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut source = File::open(from)?;
    std::io::copy(&mut source, &mut create_private(to)?).map(drop)
}

fn sync_directory(of: &Path) -> std::io::Result<()> {
    match of.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => File::open(directory)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}
