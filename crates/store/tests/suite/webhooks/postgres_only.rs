//! Locks of rows, which SQLite with its one writer does not have.

use std::time::Duration;

use model::{EventKind, TeamId};
use sqlx::{Connection as _, Executor as _, PgConnection, PgPool};

use super::{LEASE, fan_out, lease, payloads, record, webhook};
use crate::db::Db;

/// Inserts what a fan-out inserts that has read the webhooks.
const INSERT: &str = "INSERT INTO webhook_deliveries \
     (webhook_id, message_id, kind, payload, state, attempts, due_at, created_at) \
     SELECT id, 'evt-late', 'key.created', 'late', 'pending', 0, 0, 1 FROM webhooks";
const WAITING: &str = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn removal_waits_for_fan_out() {
    let db = Db::postgres().await;
    let store = db.store().await;
    let id = webhook(&store, "default", &[]).await;
    let mut fan_out = PgConnection::connect(&db.url).await.unwrap();
    fan_out.execute("BEGIN").await.unwrap();
    let lock = "UPDATE webhook_progress SET cursor = cursor";
    fan_out.execute(lock).await.unwrap();
    let removal = {
        let (store, id) = (store.clone(), id.clone());
        tokio::spawn(async move { store.webhook_remove(&TeamId::default(), &id, 2).await })
    };
    let observer = PgPool::connect(&db.url).await.unwrap();
    testkit::eventually("the removal waits, or is done", PATIENCE, async || {
        let waiting = observer.fetch_optional(WAITING).await.unwrap();
        (waiting.is_some() || removal.is_finished()).then_some(())
    })
    .await;
    fan_out.execute(INSERT).await.unwrap();
    fan_out.execute("COMMIT").await.unwrap();
    assert!(removal.await.unwrap().unwrap());
    assert_eq!(payloads(&store, &id).await, Vec::<String>::new());
    observer.close().await;
    fan_out.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn running_fan_out_hides_no_webhook() {
    let db = Db::postgres().await;
    let store = db.store().await;
    webhook(&store, "default", &["key.created"]).await;
    record(&store, EventKind::KeyCreated, Some("default"), "a").await;
    fan_out(&store).await;
    let mut other = PgConnection::connect(&db.url).await.unwrap();
    other.execute("BEGIN").await.unwrap();
    other.execute(INSERT).await.unwrap();
    assert_eq!(lease(&store, LEASE, "1").await.len(), 1);
    other.execute("ROLLBACK").await.unwrap();
    other.close().await.unwrap();
}
