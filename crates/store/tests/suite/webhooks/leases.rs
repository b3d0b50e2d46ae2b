//! Lanes, leases, and what comes between an attempt and its note.

use std::time::Duration;

use model::{DeliveryState, EventKind};
use store::{Attempt, AttemptNote, EventQuery, Events, Store};

use super::{LEASE, due, fan_out, lease, note, payloads, record, visible, waiting, webhook};
use crate::db::Db;

async fn record_keys(store: &Store, subjects: &[&str]) {
    for subject in subjects {
        record(store, EventKind::KeyCreated, Some("default"), subject).await;
    }
    fan_out(store).await;
}

pub async fn lane_follows_last_attempt(db: Db) {
    let store = db.store().await;
    let id = webhook(&store, "default", &["key.created"]).await;
    record_keys(&store, &["a", "b", "c", "d"]).await;
    let slow = AttemptNote {
        is_slow: true,
        ..note(Attempt::Delivered)
    };
    // One that never answered is with those that fail.
    let mut is_in_slow = true;
    for (note, is_slow) in [
        (note(Attempt::Delivered), false),
        (slow, true),
        (note(Attempt::Delivered), false),
        (note(Attempt::Retry(Duration::ZERO)), true),
    ] {
        assert_eq!(waiting(&store, is_in_slow, LEASE).await, [id.as_str()]);
        assert_eq!(waiting(&store, !is_in_slow, LEASE).await, [""; 0]);
        let turn = lease(&store, LEASE, "1").await.remove(0);
        let delivery = due(&store, &turn).await.remove(0);
        store.webhook_note(&turn, &delivery, &note).await.unwrap();
        store.webhook_release(&turn).await.unwrap();
        is_in_slow = is_slow;
    }
    assert_eq!(waiting(&store, true, LEASE).await, [id.as_str()]);
}

pub async fn lease_survives_step_of_clock(db: Db) {
    let store = db.store().await;
    webhook(&store, "default", &["key.created"]).await;
    record_keys(&store, &["a"]).await;
    assert_eq!(lease(&store, LEASE, "1").await.len(), 1);
    // The clock is set back by 5 seconds, as far as rows can tell.
    db.tamper("UPDATE webhooks SET leased_until = leased_until + 5000")
        .await;
    assert_eq!(lease(&store, LEASE, "2").await, []);
    db.tamper("UPDATE webhooks SET leased_until = leased_until + 86400000")
        .await;
    assert_eq!(lease(&store, LEASE, "3").await.len(), 1);
}

pub async fn request_to_resend_outlives_attempt(db: Db) {
    let store = db.store().await;
    let id = webhook(&store, "default", &["key.created"]).await;
    record_keys(&store, &["a"]).await;
    let turn = lease(&store, LEASE, "1").await.remove(0);
    let first = due(&store, &turn).await.remove(0);
    let retry = note(Attempt::Retry(Duration::ZERO));
    store.webhook_note(&turn, &first, &retry).await.unwrap();
    let last = due(&store, &turn).await.remove(0);
    let message = last.message_id.parse().unwrap();
    let sent = store.delivery_send_again(visible(&id), &message).await;
    assert_eq!(sent.unwrap().unwrap().attempts, 0);
    let dead = note(Attempt::Dead);
    store.webhook_note(&turn, &last, &dead).await.unwrap();
    let found = store.delivery_find(visible(&id), &message).await;
    let found = found.unwrap().unwrap();
    assert_eq!((found.state, found.attempts), (DeliveryState::Pending, 0));
}

pub async fn unreadable_webhook_keeps_no_others(db: Db) {
    let store = db.store().await;
    let good = webhook(&store, "default", &["key.created"]).await;
    let broken = webhook(&store, "broken", &["webhook.*"]).await;
    record(&store, EventKind::WebhookUpdated, Some("broken"), "a").await;
    record_keys(&store, &["b"]).await;
    assert_eq!(payloads(&store, &broken).await.last().unwrap(), "a");
    db.tamper("UPDATE webhooks SET kinds = '{' WHERE team_id = 'broken'")
        .await;
    record(&store, EventKind::WebhookUpdated, Some("broken"), "c").await;
    record_keys(&store, &["d"]).await;
    assert_eq!(payloads(&store, &broken).await.last().unwrap(), "a");
    let turn = lease(&store, LEASE, "1").await.remove(0);
    assert_eq!(turn.webhook.id, good);
    assert_eq!(due(&store, &turn).await.len(), 2);
    assert_eq!(
        waiting(&store, true, LEASE).await,
        [""; 0],
        "it is disabled"
    );
    let query = EventQuery {
        kinds: vec![EventKind::WebhookDisabled],
        ..EventQuery::default()
    };
    let Events::Page(page) = store.event_list(&query, None, 10).await.unwrap() else {
        panic!("a page");
    };
    let subjects: Vec<&str> = page.iter().map(|event| event.subject.as_str()).collect();
    assert_eq!(subjects, [broken.as_str()]);
}
