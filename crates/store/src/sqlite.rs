//! SQLite: one file, write-ahead log, one writer.
//!
//! SQLite takes one writer at a time and lets the others poll, unfairly, until they fail with
//! `SQLITE_BUSY`. So all writes of this process go through one connection, for which callers queue
//! in order; only another process (`wrenn-cp migrate` beside a server) meets the polling, and that
//! is bounded by a long busy timeout. Readers have connections of their own: with a write-ahead log
//! nothing blocks them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::db::CALL_LIMIT;
use crate::{Error, schema};

/// Number of reading connections: reads are short and mostly from memory.
const READERS: u32 = 4;

#[derive(Debug, Clone)]
pub(crate) struct Sqlite {
    pub(crate) writer: SqlitePool,
    pub(crate) readers: SqlitePool,
    /// The path, for errors.
    pub(crate) place: String,
}

impl Sqlite {
    pub(crate) async fn open(url: &str) -> Result<Self, Error> {
        let path = path_of(url)?;
        make_private(&path)?;
        let writer = open_writer(&path).await.map_err(|e| unusable(&path, e))?;
        // Lazily, since only the writer has seen by now that the file is in order.
        let readers = pool(READERS).connect_lazy_with(options(&path).pragma("query_only", "1"));
        Ok(Self {
            writer,
            readers,
            place: path.display().to_string(),
        })
    }

    pub(crate) async fn migrate(&self) -> Result<(), Error> {
        // The lock of the one writer, taken first: a second process that migrates finds everything
        // done. Each step is a savepoint.
        let mut transaction = self
            .writer
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(|e| schema::migration_error(e.into()))?;
        schema::apply_migrations(&schema::SQLITE, &mut *transaction).await?;
        transaction
            .commit()
            .await
            .map_err(|e| schema::migration_error(e.into()))
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Returns the path of a URL: all bytes after `sqlite://`, without escapes.
pub(crate) fn path_of(url: &str) -> Result<PathBuf, Error> {
    let path = url.trim_start_matches("sqlite://");
    let problem = if !path.starts_with('/') {
        "must name the file by its absolute path, as in sqlite:///path"
    } else if path.contains('?') {
        "must not have options after the path of the file"
    } else if path.ends_with('/') || path.contains('\0') {
        "must name a file"
    } else {
        return Ok(path.into());
    };
    Err(Error::InvalidUrl {
        problem: problem.to_owned(),
    })
}

/// Opens the first connection, which turns the write-ahead log on. Where several processes do that
/// to a new file at once, SQLite ignores the busy timeout for fear of a deadlock, so the waiting is
/// done here.
async fn open_writer(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = options(path).journal_mode(SqliteJournalMode::Wal);
    let opened = async {
        loop {
            match pool(1).connect_with(options.clone()).await {
                Err(error) if is_busy(&error) => {
                    tokio::time::sleep(Duration::from_millis(10)).await
                }
                result => return result,
            }
        }
    };
    tokio::time::timeout(CALL_LIMIT, opened)
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Returns true for `SQLITE_BUSY`.
pub(crate) fn is_busy(error: &sqlx::Error) -> bool {
    code_of(error) == Some(5)
}

/// Returns the code of an error of SQLite, which extended codes have in their lowest byte.
pub(crate) fn code_of(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?.parse::<u32>().ok()?;
    Some(code & 0xff)
}

/// Makes the file readable by its owner alone: it holds hashes of keys and environments of
/// sandboxes. SQLite gives `-wal` and `-shm` the mode of the database itself, so making it first,
/// for its owner alone, is enough; files of wider mode are narrowed.
///
/// Nothing is opened for it: closing any descriptor of a file drops the locks that SQLite holds on
/// it in this process.
fn make_private(path: &Path) -> Result<(), Error> {
    match rustix::fs::mknodat(CWD, path, FileType::RegularFile, Mode::RUSR | Mode::WUSR, 0) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(unusable(path, error)),
    }
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        let is_wide = std::fs::metadata(&file)
            .is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0);
        if is_wide {
            std::fs::set_permissions(&file, Permissions::from_mode(0o600))
                .map_err(|e| unusable(path, e))?;
        }
    }
    Ok(())
}

pub(crate) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        // Each commit reaches the disk: an acknowledged write survives a power cut.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(CALL_LIMIT)
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(CALL_LIMIT)
        // Nothing lies between us and the file that could break a connection.
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
}

pub(crate) fn unusable(
    path: &Path,
    source: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::File {
        path: path.to_owned(),
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pragma(pool: &SqlitePool, sql: &'static str) -> String {
        let (value,): (String,) = sqlx::query_as(sql).fetch_one(pool).await.unwrap();
        value
    }

    /// A test cannot cut the power, so it looks at what SQLite needs to survive that.
    #[tokio::test]
    async fn commits_reach_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let sqlite = Sqlite::open(&format!(
            "sqlite://{}/a b%20.db",
            directory.path().display()
        ))
        .await
        .unwrap();
        assert!(directory.path().join("a b%20.db").exists());
        for pool in [&sqlite.writer, &sqlite.readers] {
            assert_eq!(
                pragma(pool, "SELECT journal_mode FROM pragma_journal_mode").await,
                "wal"
            );
            // 2 is FULL.
            assert_eq!(
                pragma(
                    pool,
                    "SELECT CAST(synchronous AS TEXT) FROM pragma_synchronous"
                )
                .await,
                "2"
            );
            assert_eq!(
                pragma(
                    pool,
                    "SELECT CAST(foreign_keys AS TEXT) FROM pragma_foreign_keys"
                )
                .await,
                "1"
            );
        }
        let refused = sqlx::query("CREATE TABLE t (x)")
            .execute(&sqlite.readers)
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("readonly"), "{refused}");
    }
}
