//! Receivers that fail or change.

use std::time::Duration;

use model::{EventKind, TeamId};
use store::{
    Attempt, AttemptNote, NewWebhook, Noted, Store, VisibleDeliveries, Webhook, WebhookChange,
};

use super::{LEASE, due, fan_out, lease, note, payloads, record, visible, webhook};
use crate::db::Db;

const HOUR: Duration = Duration::from_secs(3600);

async fn update(store: &Store, webhook: &Webhook, change: WebhookChange) {
    let changed = store.webhook_update(&webhook.team_id, &webhook.id, &change, 9);
    assert!(changed.await.unwrap().is_some());
}

/// Notes a failed attempt of the oldest delivery, ends the turn, and returns the time until the next
/// one.
async fn fail(store: &Store, note: &AttemptNote) -> Duration {
    let turn = lease(store, LEASE, "fails").await.remove(0);
    let oldest = due(store, &turn).await.remove(0);
    store.webhook_note(&turn, &oldest, note).await.unwrap();
    store.webhook_release(&turn).await.unwrap();
    store.webhook_next_due().await.unwrap().unwrap()
}

fn is_about(wait: Duration, expected: Duration) -> bool {
    wait <= expected && wait + Duration::from_secs(60) > expected
}

pub async fn failed_receiver_is_left_alone(db: Db) {
    let store = db.store().await;
    let id = webhook(&store, "default", &["key.created"]).await;
    for subject in ["a", "b", "c"] {
        record(&store, EventKind::KeyCreated, Some("default"), subject).await;
    }
    fan_out(&store).await;
    let failed = |now: i64| AttemptNote {
        now,
        min_pause: HOUR,
        max_pause: 3 * HOUR,
        ..note(Attempt::Retry(Duration::ZERO))
    };
    let wait = fail(&store, &failed(1)).await;
    assert!(is_about(wait, HOUR), "{wait:?}");
    let leased = lease(&store, LEASE, "1").await;
    assert_eq!(leased, [], "others wait as well");
    // A user asks for it.
    assert_eq!(
        store.delivery_send_dead_again(visible(&id)).await.unwrap(),
        0
    );
    let two_hours = 2 * i64::try_from(HOUR.as_millis()).unwrap();
    let wait = fail(&store, &failed(two_hours)).await;
    assert!(is_about(wait, 2 * HOUR), "{wait:?}");
    store.delivery_send_dead_again(visible(&id)).await.unwrap();
    let wait = fail(&store, &failed(100 * two_hours)).await;
    assert!(is_about(wait, 3 * HOUR), "{wait:?}");
    // It leads elsewhere: what was learned of the receiver before does not hold.
    let found = store.webhook_find(&TeamId::default(), &id).await;
    let found = found.unwrap().unwrap();
    assert!(found.failing_since.is_some());
    let url = Some("https://example.com/new".to_owned());
    let change = WebhookChange {
        url,
        ..WebhookChange::default()
    };
    update(&store, &found, change).await;
    let turn = lease(&store, LEASE, "2").await.remove(0);
    assert_eq!(turn.webhook.failing_since, None);
    assert_eq!(due(&store, &turn).await.len(), 3);
    // An attempt beside one that failed ends no pause.
    let both = due(&store, &turn).await;
    store
        .webhook_note(&turn, &both[0], &failed(1))
        .await
        .unwrap();
    let delivered = note(Attempt::Delivered);
    store
        .webhook_note(&turn, &both[1], &delivered)
        .await
        .unwrap();
    store.webhook_release(&turn).await.unwrap();
    let wait = store.webhook_next_due().await.unwrap().unwrap();
    assert!(is_about(wait, HOUR), "{wait:?}");
}

pub async fn changed_receiver_ends_lease(db: Db) {
    let store = db.store().await;
    webhook(&store, "default", &["key.created"]).await;
    record(&store, EventKind::KeyCreated, Some("default"), "a").await;
    fan_out(&store).await;
    let text = |text: &str| Some(text.to_owned());
    let changes = [
        (
            WebhookChange {
                description: text("new"),
                ..WebhookChange::default()
            },
            Noted::GoOn,
        ),
        (
            WebhookChange {
                url: text("https://example.com/"),
                ..WebhookChange::default()
            },
            Noted::GoOn,
        ),
        (
            WebhookChange {
                url: text("https://example.com/new"),
                ..WebhookChange::default()
            },
            Noted::LeaseLost,
        ),
        (
            WebhookChange {
                secret: Some(("new".to_owned(), 0)),
                ..WebhookChange::default()
            },
            Noted::LeaseLost,
        ),
        (
            WebhookChange {
                enabled: Some(false),
                ..WebhookChange::default()
            },
            Noted::LeaseLost,
        ),
    ];
    for (change, expected) in changes {
        let turn = lease(&store, LEASE, "any").await.remove(0);
        let delivery = due(&store, &turn).await.remove(0);
        update(&store, &turn.webhook, change.clone()).await;
        let retry = note(Attempt::Retry(Duration::ZERO));
        let noted = store.webhook_note(&turn, &delivery, &retry).await.unwrap();
        assert_eq!(noted, expected, "{change:?}");
        store.webhook_release(&turn).await.unwrap();
    }
    assert_eq!(lease(&store, LEASE, "any").await, [], "it is disabled");
}

pub async fn installation_deliveries_stay_with_operators(db: Db) {
    let store = db.store().await;
    let new = NewWebhook {
        id: model::WebhookId::random(),
        team_id: TeamId::default(),
        with_installation: true,
        url: "https://example.com/".to_owned(),
        description: String::new(),
        kinds: vec!["host.*".to_owned(), "key.created".to_owned()],
        secret: String::new(),
        now: 1,
    };
    assert!(store.webhook_insert(&new, 2).await.unwrap());
    record(&store, EventKind::HostLost, None, "host").await;
    record(&store, EventKind::KeyCreated, Some("default"), "key").await;
    fan_out(&store).await;
    let all = store.delivery_list(visible(&new.id), None, None, 9);
    let [of_key, of_host] = all.await.unwrap().try_into().unwrap();
    let host = of_host.id.parse().unwrap();
    let limited = VisibleDeliveries {
        with_installation: false,
        ..visible(&new.id)
    };
    let listed = store.delivery_list(limited, None, None, 9).await.unwrap();
    assert_eq!(listed, [of_key]);
    assert_eq!(store.delivery_find(limited, &host).await.unwrap(), None);
    let sent = store.delivery_send_again(limited, &host).await.unwrap();
    assert_eq!(sent, None);
    let turn = lease(&store, LEASE, "1").await.remove(0);
    for delivery in due(&store, &turn).await {
        let dead = note(Attempt::Dead);
        store.webhook_note(&turn, &delivery, &dead).await.unwrap();
    }
    assert_eq!(store.delivery_send_dead_again(limited).await.unwrap(), 1);
    let sent = store.delivery_send_dead_again(visible(&new.id)).await;
    assert_eq!(sent.unwrap(), 1);
    // It leads to where a key wants that may not see them.
    let change = WebhookChange {
        url: Some("https://example.com/new".to_owned()),
        without_installation: true,
        ..WebhookChange::default()
    };
    update(&store, &turn.webhook, change).await;
    assert_eq!(payloads(&store, &new.id).await, ["key"]);
}
