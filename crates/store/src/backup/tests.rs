//! Locks on files that are replaced or written, and schemas of PostgreSQL that an upgrade came
//! between.

use std::fs;
use std::process::Command;

use sqlx::{Connection as _, Executor as _, PgConnection};

use super::files::PartFile;
use super::replace::{lock_database, replace_database};
use super::*;
use crate::schema::{POSTGRES, apply_migrations};

const NOW: i64 = 1_800_000_000_000;

#[tokio::test]
async fn replaced_file_takes_no_writes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wrenn.db");
    let copy = directory.path().join("wrenn.db.restore");
    for (file, value) in [(&path, 1), (&copy, 2)] {
        let options = SqliteConnectOptions::new().filename(file);
        let mut made = options.create_if_missing(true).connect().await.unwrap();
        let sql = format!("CREATE TABLE t (x); INSERT INTO t VALUES ({value})");
        made.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
        made.close().await.unwrap();
    }
    // Opened before the file is locked, and used after it was replaced.
    let options = SqliteConnectOptions::new().filename(&path);
    let mut early = options.clone().connect().await.unwrap();
    early.execute("SELECT * FROM t").await.unwrap();
    let lock = lock_database(&path).await.unwrap();
    let busy = options.clone().busy_timeout(Duration::ZERO).connect().await;
    let busy = match busy {
        Ok(mut late) => late.execute("SELECT * FROM t").await.unwrap_err(),
        Err(error) => error,
    };
    assert!(crate::sqlite::is_busy(&busy), "{busy}");
    if let replace::DatabaseLock::Readable(connection) = lock {
        connection.close().await.unwrap();
    }
    replace_database(&path, &copy).await.unwrap();
    let wal = early.execute("PRAGMA journal_mode = WAL").await;
    let write = early.execute("INSERT INTO t VALUES (3)").await;
    assert!(write.is_err(), "{wal:?}");
    let _ = early.close().await;
    assert!(!beside(&path, "-wal").exists());
    let mut connection = options.connect().await.unwrap();
    let row = connection.fetch_one("SELECT x FROM t").await.unwrap();
    assert_eq!(row.get::<i64, _>(0), 2);
}

#[tokio::test]
async fn database_of_failing_disk_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wrenn.db");
    let copy = directory.path().join("wrenn.db.restore");
    fs::write(&copy, "the copy").unwrap();
    // What SQLite cannot open is no damage.
    fs::create_dir(&path).unwrap();
    fs::write(beside(&path, "-wal"), "its log").unwrap();
    let refused = replace_database(&path, &copy).await.unwrap_err();
    assert!(matches!(refused, Error::File { .. }), "{refused:?}");
    assert_eq!(fs::read(beside(&path, "-wal")).unwrap(), b"its log");
}

#[tokio::test]
async fn database_made_during_restore_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wrenn.db");
    let copy = directory.path().join("wrenn.db.restore");
    fs::write(&copy, "the copy").unwrap();
    let lock = lock_database(&path).await.unwrap();
    fs::write(&path, "of another process").unwrap();
    let refused =
        replace::rename_copy(&path, &copy, &beside(&path, ".before-restore"), &lock).unwrap_err();
    assert!(matches!(refused, Error::InUse { .. }), "{refused:?}");
    assert_eq!(fs::read(&path).unwrap(), b"of another process");
}

#[tokio::test]
async fn second_restore_waits_for_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wrenn.db");
    let url = format!("sqlite://{}", path.display());
    let backup = directory.path().join("backup");
    fs::write(&backup, "").unwrap();
    let first = PartFile::create(&beside(&path, ".restore")).unwrap();
    let second = Store::restore(&url, &backup, NOW).await.unwrap_err();
    let Error::File { source, .. } = second else {
        panic!("{second:?}");
    };
    assert!(source.to_string().contains("another process"), "{source}");
    assert!(first.path.exists(), "the copy of the first is left alone");
}

/// A log that is a pipe shows what is locked while it is copied.
#[test]
fn backup_is_locked_until_copied() {
    let directory = tempfile::tempdir().unwrap();
    let from = directory.path().join("backup");
    let to = directory.path().join("copy");
    fs::write(&from, "pages").unwrap();
    let log = beside(&from, "-journal");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &log, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let (_, inode) = files::identity(&from).unwrap();
    let is_locked = || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.contains(&format!(":{inode} 0 EOF"))
    };
    std::thread::scope(|scope| {
        let copied = scope.spawn(|| files::copy_database(&from, &to));
        // Opens once the other side is read.
        let pipe = File::options().write(true).open(&log).unwrap();
        assert!(is_locked());
        drop(pipe);
        copied.join().unwrap().unwrap();
    });
    assert_eq!(fs::read(&to).unwrap(), b"pages");
    assert!(!is_locked());
}

#[test]
fn backups_to_one_file_exclude_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("backup");
    let first = PartFile::create(&to).unwrap();
    fs::write(&first.path, "whole").unwrap();
    let second = PartFile::create(&to).unwrap_err();
    assert!(second.to_string().contains("another process"), "{second}");
    first.publish(&to).unwrap();
    assert_eq!(fs::read(&to).unwrap(), b"whole");

    let foreign = directory.path().join("other.part");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.txt"), "years").unwrap();
    let refused = PartFile::create(&directory.path().join("other")).unwrap_err();
    assert!(refused.to_string().contains("other files"), "{refused}");
    assert!(foreign.join("thesis.txt").exists());
}

/// Runs a program of PostgreSQL as docs/operations.md does.
fn run(program: &str, url: &str, args: &[&str]) -> bool {
    // Options after the ? are the driver's own.
    let url = url.split('?').next().unwrap();
    let mut command = Command::new(testkit::postgres::program(program).unwrap());
    let done = command.args(["--dbname", url]).args(args).output().unwrap();
    if !done.status.success() {
        eprintln!("{program}: {}", String::from_utf8_lossy(&done.stderr));
    }
    done.status.success()
}

const EMPTY: [&str; 4] = [
    "--command",
    "DROP SCHEMA public CASCADE",
    "--command",
    "CREATE SCHEMA public",
];
const WHOLE: [&str; 2] = ["--single-transaction", "--exit-on-error"];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn dump_of_earlier_schema_is_restored() {
    let database = testkit::postgres::Database::create().await.unwrap();
    let url = database.url();
    // Before the last step that made tables, which stay behind where a dump does not have them.
    const STEP_WITH_TABLES: i64 = 9;
    let earlier = POSTGRES
        .iter()
        .filter(|step| step.version < STEP_WITH_TABLES);
    let earlier = sqlx::migrate::Migrator::with_migrations(earlier.cloned().collect());
    let mut connection = PgConnection::connect(&url).await.unwrap();
    apply_migrations(&earlier, &mut connection).await.unwrap();
    let sql = "INSERT INTO events (kind, team_id, subject, actor, data, created_at) \
               VALUES ('key.created', '', 'key-1', 'operator', '{}', 5)";
    connection.execute(sql).await.unwrap();
    connection.close().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let dump = directory.path().join("dump").display().to_string();
    assert!(run("pg_dump", &url, &["--format=custom", "--file", &dump]));
    let store = Store::open(&url).await.unwrap();
    store.migrate().await.unwrap();
    store.close().await;

    // Over the tables of a later version.
    assert!(run("pg_restore", &url, &["--clean", "--if-exists", &dump]));
    let refused = Store::finish_restore(&url, NOW).await.unwrap_err();
    assert!(matches!(refused, Error::NotWhole { .. }), "{refused:?}");
    assert!(refused.to_string().contains("empty database"), "{refused}");

    // As the documents say; twice, since a dump tells who owns the schema.
    for _ in 0..2 {
        assert!(run("psql", &url, &EMPTY));
        assert!(run("pg_restore", &url, &[&WHOLE[..], &[&dump]].concat()));
        Store::finish_restore(&url, NOW).await.unwrap();
        fs::remove_file(&dump).unwrap();
        assert!(run("pg_dump", &url, &["--format=custom", "--file", &dump]));
    }
    let store = Store::open(&url).await.unwrap();
    store.check_migrated().await.unwrap();
    assert_eq!(store.event_last().await.unwrap(), 1);
    store.close().await;

    // One that was interrupted is an empty database.
    let whole = fs::read(&dump).unwrap();
    fs::write(&dump, &whole[..whole.len() * 9 / 10]).unwrap();
    assert!(run("psql", &url, &EMPTY));
    assert!(!run("pg_restore", &url, &[&WHOLE[..], &[&dump]].concat()));
    let refused = Store::finish_restore(&url, NOW).await.unwrap_err();
    assert!(matches!(refused, Error::NotMigrated { found: 0, .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn half_restored_postgres_is_refused() {
    for (sql, problem) in [
        (
            "ALTER TABLE sandboxes DROP CONSTRAINT sandboxes_pkey CASCADE",
            "sandboxes",
        ),
        ("DELETE FROM events_horizon", "rows"),
        ("SELECT setval('events_cursor', 1)", "cursors"),
    ] {
        let database = testkit::postgres::Database::create().await.unwrap();
        let url = database.url();
        let store = Store::open(&url).await.unwrap();
        store.migrate().await.unwrap();
        store.close().await;
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let event = "INSERT INTO events (kind, team_id, subject, actor, data, created_at) \
                     VALUES ('key.created', '', 'key-1', 'operator', '{}', 5)";
        connection.execute(event).await.unwrap();
        connection.execute(event).await.unwrap();
        connection.execute(sql).await.unwrap();
        connection.close().await.unwrap();
        let refused = Store::finish_restore(&url, NOW).await.unwrap_err();
        assert!(matches!(refused, Error::NotWhole { .. }), "{refused:?}");
        assert!(refused.to_string().contains(problem), "{refused}");
    }
}

/// One that starts while a restore is being finished would hand out cursors from before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_waits_for_restore() {
    let database = testkit::postgres::Database::create().await.unwrap();
    let url = database.url();
    let store = Store::open(&url).await.unwrap();
    store.migrate().await.unwrap();
    store.check_migrated().await.unwrap();
    let restorer = Store::open_as(&url, RESTORER).await.unwrap();
    // The first call connects.
    restorer.schema().await.unwrap();
    let refused = store.check_migrated().await.unwrap_err();
    assert!(
        matches!(refused, Error::BeingRestored { .. }),
        "{refused:?}"
    );
    restorer.close().await;
    let limit = Duration::from_secs(20);
    testkit::eventually("the restore is over", limit, async || {
        store.check_migrated().await.ok()
    })
    .await;
    store.close().await;
}
