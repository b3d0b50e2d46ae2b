//! Backups of a database in use, restores of them, and what hosts and clients know better.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use model::{EventKind, SandboxAttributes, SandboxId, TeamId, WebhookId};
use store::{
    Error, EventQuery, Events, EventsBound, NewSandbox, NewWebhook, RESTORED_END_GRACE_MS, Store,
};

use crate::db::{Db, insert, new_sandbox};

/// A time after those of all rows.
const NOW: i64 = 1_000_000;

async fn ids(url: &str) -> Vec<SandboxId> {
    let store = Store::open(url).await.unwrap();
    let rows = store.sandbox_list_all().await.unwrap();
    store.close().await;
    rows.into_iter().map(|row| row.id).collect()
}

async fn page(store: &Store, after: Option<i64>) -> Events {
    let query = EventQuery::default();
    store.event_list(&query, after, 1000).await.unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn backup_during_writes_is_one_moment() {
    let db = Db::sqlite();
    let store = db.store().await;
    let file = db.directory().join("backup");
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for number in 0..200 {
                insert(&store, number).await;
            }
        }
    });
    while store.sandbox_list_all().await.unwrap().len() < 20 {
        tokio::task::yield_now().await;
    }
    // As another process does it.
    let other = db.empty().await;
    other.backup(&file).await.unwrap();
    other.close().await;
    writer.await.unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let taken = store.backup(&file).await.unwrap_err();
    assert!(matches!(taken, Error::File { .. }), "{taken:?}");

    let target = Db::sqlite();
    let restored = Store::restore(&target.url, &file, NOW).await.unwrap();
    assert_eq!((restored.before, restored.postponed_ends), (None, 0));
    let restored = target.empty().await;
    restored.check_migrated().await.unwrap();
    let rows = restored.sandbox_list_all().await.unwrap().len();
    assert!((20..=200).contains(&rows), "{rows}");
    let Events::Page(events) = page(&restored, None).await else {
        panic!("expired");
    };
    assert_eq!(events.len(), rows, "rows and events are of one moment");
}

#[tokio::test]
async fn interrupted_backup_leaves_no_file() {
    let db = Db::sqlite();
    let store = db.store().await;
    insert(&store, 1).await;
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("backup");
    // Dropped at its first wait, as by Ctrl-C.
    let _ = tokio::time::timeout(Duration::ZERO, store.backup(&file)).await;
    assert_eq!(names(out.path()), [""; 0]);
    // What a killed one left is no obstacle.
    let left = out.path().join("other.part");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("database"), "half").unwrap();
    store.backup(&out.path().join("other")).await.unwrap();
    assert_eq!(names(out.path()), ["other"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn restore_keeps_database_from_before() {
    let db = Db::sqlite();
    let store = db.store().await;
    let old = insert(&store, 1).await.id;
    let file = db.directory().join("backup");
    store.backup(&file).await.unwrap();
    let new = insert(&store, 2).await.id;
    let used = Store::restore(&db.url, &file, NOW).await.unwrap_err();
    assert!(matches!(used, Error::InUse { .. }), "{used:?}");
    assert!(used.to_string().contains("stop wrenn-cp"), "{used}");
    assert_eq!(store.sandbox_list_all().await.unwrap().len(), 2);
    store.close().await;
    assert_eq!(names(db.directory()), ["backup", "wrenn.db"]);

    for name in ["wrenn.db.before-restore", "wrenn.db.before-restore-2"] {
        let restored = Store::restore(&db.url, &file, NOW).await.unwrap();
        let before = restored.before.unwrap();
        assert_eq!(before, db.directory().join(name));
        assert_eq!(ids(&db.url).await, std::slice::from_ref(&old));
    }
    let first = db.directory().join("wrenn.db.before-restore");
    let kept = ids(&format!("sqlite://{}", first.display())).await;
    assert!(kept.contains(&new) && kept.contains(&old), "{kept:?}");
}

#[tokio::test]
async fn damaged_database_is_replaced() {
    let db = Db::sqlite();
    let store = db.store().await;
    let old = insert(&store, 1).await.id;
    let file = db.directory().join("backup");
    store.backup(&file).await.unwrap();
    store.close().await;
    let path = db.directory().join("wrenn.db");
    std::fs::write(&path, "no database any more ".repeat(500)).unwrap();
    std::fs::write(db.directory().join("wrenn.db-wal"), "its log").unwrap();
    let restored = Store::restore(&db.url, &file, NOW).await.unwrap();
    assert_eq!(ids(&db.url).await, [old]);
    let before = std::fs::read(restored.before.unwrap()).unwrap();
    assert!(before.starts_with(b"no database any more"));
    let log = db.directory().join("wrenn.db.before-restore-wal");
    assert_eq!(std::fs::read(log).unwrap(), b"its log");
}

/// Copies the files of a database in use, as they are on disk when its process is killed.
fn copy_as_killed(from: &Path, to: &Path) {
    for suffix in ["", "-wal"] {
        let name = format!("wrenn.db{suffix}");
        std::fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn log_without_database_is_moved_aside() {
    let db = Db::sqlite();
    let store = db.store().await;
    let old = insert(&store, 1).await.id;
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("backup");
    store.backup(&file).await.unwrap();
    for number in 2..50 {
        insert(&store, number).await;
    }
    let target = Db::sqlite();
    copy_as_killed(db.directory(), target.directory());
    store.close().await;
    // As operators do it: the database out of the way, its log forgotten.
    let path = target.directory().join("wrenn.db");
    std::fs::rename(&path, target.directory().join("broken.db")).unwrap();
    let log = std::fs::read(target.directory().join("wrenn.db-wal")).unwrap();
    assert!(log.len() > 4096);
    let restored = Store::restore(&target.url, &file, NOW).await.unwrap();
    assert_eq!(restored.before, None);
    assert_eq!(ids(&target.url).await, [old]);
    let kept = target.directory().join("wrenn.db.before-restore-wal");
    assert_eq!(std::fs::read(kept).unwrap(), log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn log_beside_backup_is_restored() {
    let db = Db::sqlite();
    let store = db.store().await;
    for number in 0..20 {
        insert(&store, number).await;
    }
    let snapshot = tempfile::tempdir().unwrap();
    copy_as_killed(db.directory(), snapshot.path());
    store.close().await;
    let target = Db::sqlite();
    let file = snapshot.path().join("wrenn.db");
    let read = || std::fs::read(&file).unwrap();
    let before = read();
    Store::restore(&target.url, &file, NOW).await.unwrap();
    assert_eq!(ids(&target.url).await.len(), 20);
    assert!(read() == before, "the backup is as it was");
    assert_eq!(names(target.directory()), ["wrenn.db"]);
}

#[tokio::test]
async fn restore_refuses_database_itself() {
    let db = Db::sqlite();
    let store = db.store().await;
    let old = insert(&store, 1).await.id;
    store.close().await;
    let link = db.directory().join("link");
    std::os::unix::fs::symlink("wrenn.db", &link).unwrap();
    for file in [&db.directory().join("wrenn.db"), &link] {
        let refused = Store::restore(&db.url, file, NOW).await.unwrap_err();
        assert!(matches!(refused, Error::NotABackup { .. }), "{refused:?}");
    }
    assert_eq!(names(db.directory()), ["link", "wrenn.db"]);
    assert_eq!(ids(&db.url).await, [old]);
}

/// Each has a copy of its own or is refused: none publishes what another one is writing.
#[tokio::test(flavor = "multi_thread")]
async fn simultaneous_restores_publish_whole_backups() {
    let db = Db::sqlite();
    let store = db.store().await;
    for number in 0..20 {
        insert(&store, number).await;
    }
    let file = db.directory().join("backup");
    store.backup(&file).await.unwrap();
    store.close().await;
    for _ in 0..5 {
        let restore = || Store::restore(&db.url, &file, NOW);
        let (one, two, three) = tokio::join!(restore(), restore(), restore());
        let outcomes = [one, two, three];
        assert!(outcomes.iter().any(Result::is_ok), "{outcomes:?}");
        for error in outcomes.into_iter().filter_map(Result::err) {
            let is_refusal = matches!(error, Error::File { .. } | Error::InUse { .. });
            assert!(is_refusal, "{error:?}");
        }
        assert_eq!(ids(&db.url).await.len(), 20);
    }
}

/// What root restores is of the user whose service it is.
#[tokio::test]
async fn restored_database_has_owner_of_service() {
    let backup = Db::sqlite();
    let store = backup.store().await;
    let file = backup.directory().join("backup");
    store.backup(&file).await.unwrap();
    store.close().await;
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    for has_database in [false, true] {
        let db = Db::sqlite();
        let path = db.directory().join("wrenn.db");
        if has_database {
            db.store().await.close().await;
        }
        let mut owned = vec![db.directory()];
        owned.extend(has_database.then_some(path.as_path()));
        if is_root {
            for path in owned {
                std::os::unix::fs::chown(path, Some(65534), Some(65533)).unwrap();
            }
        }
        Store::restore(&db.url, &file, NOW).await.unwrap();
        let directory = std::fs::metadata(db.directory()).unwrap();
        let restored = std::fs::metadata(&path).unwrap();
        let owner = (directory.uid(), directory.gid());
        assert_eq!((restored.uid(), restored.gid()), owner);
        assert_eq!(restored.mode() & 0o777, 0o600);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn second_restore_gives_new_cursors() {
    let db = Db::sqlite();
    let store = db.store().await;
    insert(&store, 1).await;
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("backup");
    store.backup(&file).await.unwrap();
    store.close().await;
    let mut given_out = Vec::new();
    // As a clock has them, a moment apart.
    for now in [1_800_000_000_000, 1_800_000_001_000] {
        Store::restore(&db.url, &file, now).await.unwrap();
        let store = db.empty().await;
        for cursor in &given_out {
            assert_eq!(page(&store, Some(*cursor)).await, Events::Unknown);
        }
        for number in 0..3 {
            insert(&store, number).await;
            let last = store.event_last().await.unwrap();
            assert!(!given_out.contains(&last), "{last} comes twice");
            assert!(last < 1 << 53, "{last} is no whole number of JSON");
            given_out.push(last);
        }
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn damaged_backup_is_refused() {
    let db = Db::sqlite();
    let store = db.store().await;
    for number in 0..50 {
        insert(&store, number).await;
    }
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("backup");
    store.backup(&file).await.unwrap();
    store.close().await;
    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    let end = damaged.len() - 4096;
    damaged[4096..end].fill(0xa5);
    for bytes in [&damaged[..], &whole[..whole.len() / 2], b"no database", b""] {
        std::fs::write(&file, bytes).unwrap();
        let refused = Store::restore(&db.url, &file, NOW).await.unwrap_err();
        let is_told = matches!(refused, Error::File { .. } | Error::NotABackup { .. });
        assert!(is_told, "{refused:?}");
    }
    assert_eq!(names(db.directory()), ["wrenn.db"]);
    assert_eq!(ids(&db.url).await.len(), 50);
}

#[tokio::test]
async fn backup_of_newer_schema_is_refused() {
    let db = Db::sqlite();
    db.store().await.close().await;
    db.tamper(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
               VALUES (9999, 'of later', TRUE, x'00', 0)",
    )
    .await;
    let target = Db::sqlite();
    let mine = insert(&target.store().await, 1).await.id;
    let file = db.directory().join("wrenn.db");
    let refused = Store::restore(&target.url, &file, NOW).await.unwrap_err();
    assert!(refused.to_string().contains("newer version"), "{refused}");
    assert_eq!(ids(&target.url).await, [mine]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn postgres_is_left_to_its_tools() {
    let db = Db::postgres().await;
    let store = db.store().await;
    let file = Path::new("/nonexistent/backup");
    let refused = store.backup(file).await.unwrap_err();
    assert!(refused.to_string().contains("pg_dump"), "{refused}");
    let refused = Store::restore(&db.url, file, NOW).await.unwrap_err();
    assert!(refused.to_string().contains("pg_restore"), "{refused}");
    insert(&store, 1).await;
    let refused = Store::finish_restore(&db.url, NOW).await.unwrap_err();
    assert!(matches!(refused, Error::InUse { .. }), "{refused:?}");
    store.close().await;
    Store::finish_restore(&db.url, NOW).await.unwrap();
}

pub async fn restored_cursors_are_new(db: Db) {
    let store = db.store().await;
    for number in 0..5 {
        insert(&store, number).await;
    }
    let last = store.event_last().await.unwrap();
    assert_eq!(page(&store, Some(last)).await, Events::Page(Vec::new()));
    // Given out after the backup that is restored now.
    let later = last + 1;
    store.close().await;
    Store::finish_restore(&db.url, NOW).await.unwrap();
    let store = db.empty().await;
    for number in 5..8 {
        insert(&store, number).await;
    }
    assert_eq!(page(&store, Some(later)).await, Events::Unknown);
    let Events::Page(all) = page(&store, None).await else {
        panic!("expired");
    };
    assert_eq!(all.len(), 8);
    assert!(all[5].cursor > last + 1_000_000, "{all:?}");
    assert_eq!(
        page(&store, Some(last)).await,
        Events::Page(all[5..].to_vec()),
        "what was there goes on"
    );
    let bound = EventsBound { before: 0, rows: 4 };
    store.event_trim(bound).await.unwrap();
    assert_eq!(page(&store, None).await, Events::Page(all[4..].to_vec()));
    assert_eq!(page(&store, Some(all[2].cursor)).await, Events::Expired);
    assert_eq!(page(&store, Some(later)).await, Events::Unknown);
}

pub async fn restored_webhooks_are_disabled(db: Db) {
    let store = db.store().await;
    let team = TeamId::default();
    let new = NewWebhook {
        id: WebhookId::random(),
        team_id: team.clone(),
        with_installation: false,
        url: "https://example.com/".to_owned(),
        description: String::new(),
        kinds: Vec::new(),
        secret: "whsec_".to_owned(),
        now: 1,
    };
    assert!(store.webhook_insert(&new, 2).await.unwrap());
    store.close().await;
    let restored = Store::finish_restore(&db.url, NOW).await.unwrap();
    assert_eq!(restored.disabled_webhooks, 1);
    let store = db.empty().await;
    let found = store.webhook_find(&team, &new.id).await.unwrap().unwrap();
    assert!(!found.enabled);
    assert!(found.disabled_reason.unwrap().contains("backup"));
    let query = EventQuery {
        kinds: vec![EventKind::WebhookDisabled],
        ..EventQuery::default()
    };
    let Events::Page(told) = store.event_list(&query, None, 9).await.unwrap() else {
        panic!("expired");
    };
    assert_eq!((told.len(), told[0].actor.id.as_str()), (1, "operator"));
    store.close().await;
    let again = Store::finish_restore(&db.url, NOW).await.unwrap();
    assert_eq!(again.disabled_webhooks, 0);
}

pub async fn restored_ends_are_put_off(db: Db) {
    let store = db.store().await;
    let mut rows = Vec::new();
    for ends_at in [None, Some(NOW - 1), Some(NOW + 2 * RESTORED_END_GRACE_MS)] {
        let attributes = SandboxAttributes {
            ends_at,
            ..SandboxAttributes::default()
        };
        let new = NewSandbox {
            attributes,
            ..new_sandbox(1)
        };
        store.sandbox_insert(&new).await.unwrap();
        rows.push((new.id, ends_at));
    }
    store.close().await;
    let restored = Store::finish_restore(&db.url, NOW).await.unwrap();
    let store = db.empty().await;
    assert_eq!(restored.postponed_ends, 1);
    rows[1].1 = Some(NOW + RESTORED_END_GRACE_MS);
    for (id, ends_at) in rows {
        let row = store.sandbox_get_any_team(&id).await.unwrap().unwrap();
        assert_eq!(row.attributes.ends_at, ends_at);
        let ended = store.sandbox_expire(&id, "over", NOW).await.unwrap();
        assert_eq!(ended, None);
    }
}
