//! The queue of webhooks: every event that is wanted is sent, by one sender at a time.

mod leases;
mod postgres_only;
mod receivers;

use std::time::Duration;

use model::{DeliveryState, EventKind, TeamId, WebhookId};
use serde_json::json;
use store::{
    Attempt, AttemptNote, DueDelivery, Event, EventQuery, Events, NewDelivery, NewEvent,
    NewWebhook, Noted, Store, VisibleDeliveries, WebhookBound, WebhookChange, WebhookTurn,
};

use crate::db::Db;

pub use leases::*;
pub use receivers::*;

const LEASE: Duration = Duration::from_secs(60);

async fn webhook(store: &Store, team: &str, kinds: &[&str]) -> WebhookId {
    let new = NewWebhook {
        id: WebhookId::random(),
        team_id: team.parse().unwrap(),
        with_installation: false,
        url: "https://example.com/".to_owned(),
        description: String::new(),
        kinds: kinds.iter().map(|&kind| kind.to_owned()).collect(),
        secret: "whsec_".to_owned(),
        now: 1,
    };
    assert!(store.webhook_insert(&new, 2).await.unwrap());
    new.id
}

async fn record(store: &Store, kind: EventKind, team: Option<&str>, subject: &str) {
    let event = NewEvent {
        kind,
        team_id: team.map(|team| team.parse().unwrap()),
        subject: subject.to_owned(),
        sandbox_id: None,
        generation: None,
        data: json!({}),
        now: 7,
    };
    store.event_record(&event).await.unwrap();
}

fn render(event: Event) -> Option<NewDelivery> {
    Some(NewDelivery {
        id: format!("evt-{}", event.cursor).parse().unwrap(),
        kind: event.kind,
        payload: event.subject,
        created_at: event.created_at,
        is_installation: event.team_id.is_none(),
    })
}

/// All deliveries of a webhook, as an operator sees them.
const fn visible(webhook: &WebhookId) -> VisibleDeliveries<'_> {
    VisibleDeliveries {
        webhook,
        with_installation: true,
    }
}

async fn fan_out(store: &Store) {
    while store.webhook_fan_out(2, render).await.unwrap() {}
}

/// Payloads of all deliveries, oldest first.
async fn payloads(store: &Store, webhook: &WebhookId) -> Vec<String> {
    let all = store.delivery_list(visible(webhook), None, None, 100);
    all.await
        .unwrap()
        .into_iter()
        .rev()
        .map(|delivery| delivery.payload)
        .collect()
}

/// Webhooks that wait in a lane.
async fn waiting(store: &Store, is_slow: bool, lease: Duration) -> Vec<String> {
    let waiting = store.webhook_waiting(is_slow, 10, lease).await.unwrap();
    waiting.into_iter().map(|webhook| webhook.id).collect()
}

/// Leases what waits in both lanes.
async fn lease(store: &Store, lease: Duration, token: &str) -> Vec<WebhookTurn> {
    let mut ids = waiting(store, false, lease).await;
    ids.extend(waiting(store, true, lease).await);
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    store.webhook_lease(&ids, lease, token).await.unwrap()
}

async fn due(store: &Store, turn: &WebhookTurn) -> Vec<DueDelivery> {
    store.webhook_due(turn, 100).await.unwrap()
}

fn note(attempt: Attempt) -> AttemptNote {
    AttemptNote {
        error: (attempt != Attempt::Delivered).then(|| "it failed".to_owned()),
        attempt,
        status: Some(500),
        is_slow: false,
        now: 1000,
        min_pause: Duration::ZERO,
        max_pause: Duration::ZERO,
        disable_before: 0,
        lease: LEASE,
    }
}

pub async fn deliveries_are_those_wanted(db: Db) {
    let store = db.store().await;
    let team = TeamId::default();
    record(&store, EventKind::KeyCreated, Some("default"), "before").await;
    let all = webhook(&store, "default", &[]).await;
    let keys = webhook(&store, "default", &["key.*", "sandbox.paused"]).await;
    let other = webhook(&store, "other", &["key.created"]).await;
    let full = NewWebhook {
        id: WebhookId::random(),
        team_id: team.clone(),
        with_installation: true,
        url: String::new(),
        description: String::new(),
        kinds: Vec::new(),
        secret: String::new(),
        now: 1,
    };
    assert!(
        !store.webhook_insert(&full, 2).await.unwrap(),
        "the team has two"
    );
    let operators = NewWebhook {
        team_id: "operators".parse().unwrap(),
        kinds: vec!["host.*".to_owned()],
        ..full
    };
    assert!(store.webhook_insert(&operators, 2).await.unwrap());
    record(&store, EventKind::KeyCreated, Some("default"), "a").await;
    record(&store, EventKind::SandboxPaused, Some("default"), "b").await;
    record(&store, EventKind::SandboxResumed, Some("default"), "c").await;
    record(&store, EventKind::KeyCreated, Some("other"), "d").await;
    record(&store, EventKind::HostLost, None, "e").await;
    fan_out(&store).await;
    let of_all = payloads(&store, &all).await;
    assert_eq!(of_all[of_all.len() - 3..], ["a", "b", "c"]);
    assert!(!of_all.contains(&"before".to_owned()), "{of_all:?}");
    assert_eq!(payloads(&store, &keys).await, ["a", "b"]);
    assert_eq!(payloads(&store, &other).await, ["d"]);
    assert_eq!(payloads(&store, &operators.id).await, ["e"]);
    // What happens while it is disabled is passed over.
    let set = async |enabled| {
        let change = WebhookChange {
            enabled: Some(enabled),
            ..WebhookChange::default()
        };
        store
            .webhook_update(&team, &keys, &change, 2)
            .await
            .unwrap()
            .unwrap()
    };
    assert!(!set(false).await.enabled);
    record(&store, EventKind::KeyCreated, Some("default"), "f").await;
    assert!(set(true).await.enabled);
    record(&store, EventKind::KeyCreated, Some("default"), "g").await;
    fan_out(&store).await;
    assert_eq!(payloads(&store, &keys).await, ["a", "b", "g"]);
    // A stranger has nothing of it.
    let stranger: TeamId = "stranger".parse().unwrap();
    assert_eq!(store.webhook_find(&stranger, &keys).await.unwrap(), None);
    assert_eq!(store.webhook_list(&stranger).await.unwrap(), []);
    assert!(!store.webhook_remove(&stranger, &keys, 3).await.unwrap());
    assert!(store.webhook_remove(&team, &keys, 3).await.unwrap());
    assert_eq!(payloads(&store, &keys).await, Vec::<String>::new());
    let query = EventQuery {
        kinds: EventKind::matching("webhook.*").unwrap(),
        ..EventQuery::default()
    };
    let Events::Page(events) = store.event_list(&query, None, 100).await.unwrap() else {
        panic!("expired");
    };
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(
        kinds[4..],
        ["webhook.updated", "webhook.updated", "webhook.deleted"]
    );
}

pub async fn racing_fan_outs_send_once(db: Db) {
    const EVENTS: usize = 60;
    let stores = [db.store().await, db.store().await, db.store().await];
    let id = webhook(&stores[0], "default", &["key.created"]).await;
    let racing = stores.iter().map(|store| {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 0..EVENTS / 3 {
                let subject = number.to_string();
                record(&store, EventKind::KeyCreated, Some("default"), &subject).await;
                fan_out(&store).await;
            }
        })
    });
    for race in racing.collect::<Vec<_>>() {
        race.await.unwrap();
    }
    let all = stores[0].delivery_list(visible(&id), None, None, 100);
    let all = all.await.unwrap();
    assert_eq!(all.len(), EVENTS);
    let cursor = |id: &str| id[4..].parse::<i64>().unwrap();
    assert!(
        all.is_sorted_by(|a, b| cursor(&a.id) > cursor(&b.id)),
        "in order"
    );
}

pub async fn webhook_has_one_sender(db: Db) {
    let (one, two) = (db.store().await, db.store().await);
    let id = webhook(&one, "default", &["key.created"]).await;
    for subject in ["a", "b"] {
        record(&one, EventKind::KeyCreated, Some("default"), subject).await;
    }
    assert_eq!(lease(&one, LEASE, "1").await, [], "nothing is due");
    fan_out(&one).await;
    let first = lease(&one, LEASE, "1").await.remove(0);
    assert_eq!(first.webhook.id, id);
    assert_eq!(lease(&two, LEASE, "2").await, [], "it is leased");
    let found = due(&one, &first).await;
    let payloads: Vec<&str> = found.iter().map(|it| it.payload.as_str()).collect();
    assert_eq!(payloads, ["a", "b"]);
    let delivered = note(Attempt::Delivered);
    let noted = one.webhook_note(&first, &found[0], &delivered).await;
    assert_eq!(noted.unwrap(), Noted::GoOn);
    one.webhook_release(&first).await.unwrap();
    // Of a process that died: the lease ends by itself.
    let dead = lease(&two, Duration::ZERO, "2").await.remove(0);
    let second = lease(&one, LEASE, "3").await.remove(0);
    let found = due(&one, &second).await;
    assert_eq!((found.len(), found[0].payload.as_str()), (1, "b"));
    let lost = two.webhook_note(&dead, &found[0], &delivered).await;
    assert_eq!(lost.unwrap(), Noted::LeaseLost);
    two.webhook_release(&dead).await.unwrap();
    assert_eq!(lease(&two, LEASE, "4").await, [], "another one has it");
    let retry = note(Attempt::Retry(Duration::from_secs(3600)));
    one.webhook_note(&second, &found[0], &retry).await.unwrap();
    one.webhook_release(&second).await.unwrap();
    assert_eq!(lease(&two, LEASE, "5").await, [], "not yet due");
    let wait = one.webhook_next_due().await.unwrap().unwrap();
    assert!(wait > Duration::from_secs(3500) && wait <= Duration::from_secs(3600));
    let change = WebhookChange {
        enabled: Some(true),
        ..WebhookChange::default()
    };
    let team = TeamId::default();
    one.webhook_update(&team, &id, &change, 2).await.unwrap();
    assert_eq!(
        lease(&two, LEASE, "6").await,
        [],
        "it was enabled all the time"
    );
}

pub async fn failing_webhook_is_disabled(db: Db) {
    let store = db.store().await;
    let team = TeamId::default();
    let id = webhook(&store, "default", &["key.created"]).await;
    for subject in ["a", "b", "c"] {
        record(&store, EventKind::KeyCreated, Some("default"), subject).await;
    }
    fan_out(&store).await;
    let turn = lease(&store, LEASE, "1").await.remove(0);
    let found = due(&store, &turn).await;
    let send = async |delivery: &DueDelivery, note: AttemptNote| {
        store.webhook_note(&turn, delivery, &note).await.unwrap()
    };
    let retry = || note(Attempt::Retry(Duration::ZERO));
    assert_eq!(send(&found[0], retry()).await, Noted::GoOn);
    let failing = store.webhook_find(&team, &id).await.unwrap().unwrap();
    assert_eq!((failing.enabled, failing.failing_since), (true, Some(1000)));
    send(&found[1], note(Attempt::Delivered)).await;
    let well = store.webhook_find(&team, &id).await.unwrap().unwrap();
    assert_eq!(well.failing_since, None);
    send(&found[0], retry()).await;
    let late = AttemptNote {
        disable_before: 1000,
        now: 5000,
        ..retry()
    };
    assert_eq!(send(&found[0], late).await, Noted::Disabled);
    let disabled = store.webhook_find(&team, &id).await.unwrap().unwrap();
    assert!(!disabled.enabled);
    assert!(disabled.disabled_reason.unwrap().contains("days"));
    store.webhook_release(&turn).await.unwrap();
    assert_eq!(lease(&store, LEASE, "2").await, []);
    let query = EventQuery {
        kinds: vec![EventKind::WebhookDisabled],
        ..EventQuery::default()
    };
    let Events::Page(events) = store.event_list(&query, None, 9).await.unwrap() else {
        panic!("expired");
    };
    assert_eq!((events.len(), events[0].subject.as_str()), (1, id.as_str()));
    // What waited goes on when it is enabled.
    let change = WebhookChange {
        enabled: Some(true),
        ..WebhookChange::default()
    };
    let enabled = store
        .webhook_update(&team, &id, &change, 6)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (enabled.disabled_reason, enabled.failing_since),
        (None, None)
    );
    let again = lease(&store, LEASE, "3").await.remove(0);
    assert_eq!(due(&store, &again).await.len(), 2);
    let gone = store
        .webhook_note(&again, &found[2], &note(Attempt::Gone))
        .await;
    assert_eq!(gone.unwrap(), Noted::Disabled);
}

pub async fn dead_letters_are_sent_again(db: Db) {
    let store = db.store().await;
    let id = webhook(&store, "default", &["key.created"]).await;
    for subject in ["a", "b"] {
        record(&store, EventKind::KeyCreated, Some("default"), subject).await;
    }
    fan_out(&store).await;
    let turn = lease(&store, LEASE, "1").await.remove(0);
    for delivery in due(&store, &turn).await {
        store
            .webhook_note(&turn, &delivery, &note(Attempt::Dead))
            .await
            .unwrap();
    }
    assert_eq!(due(&store, &turn).await, []);
    let backlog = store.webhook_backlog().await.unwrap();
    assert_eq!((backlog.oldest, backlog.dead), (None, 2));
    let dead = Some(DeliveryState::Dead);
    let listed = store
        .delivery_list(visible(&id), dead, None, 1)
        .await
        .unwrap();
    assert_eq!((listed.len(), listed[0].payload.as_str()), (1, "b"));
    let before = Some(listed[0].position);
    let rest = store
        .delivery_list(visible(&id), dead, before, 9)
        .await
        .unwrap();
    assert_eq!(
        (rest.len(), rest[0].attempts, rest[0].last_status),
        (1, 1, Some(500))
    );
    let again = rest[0].id.parse().unwrap();
    let sent = store
        .delivery_send_again(visible(&id), &again)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((sent.state, sent.attempts), (DeliveryState::Pending, 0));
    assert_eq!(
        store.delivery_send_dead_again(visible(&id)).await.unwrap(),
        1
    );
    assert_eq!(due(&store, &turn).await.len(), 2);
    let backlog = store.webhook_backlog().await.unwrap();
    assert_eq!((backlog.oldest, backlog.dead), (Some(7), 0));
    let unknown = "evt-0".parse().unwrap();
    assert_eq!(
        store
            .delivery_send_again(visible(&id), &unknown)
            .await
            .unwrap(),
        None
    );
}

pub async fn queue_stays_in_its_bounds(db: Db) {
    let store = db.store().await;
    let id = webhook(&store, "default", &["key.created"]).await;
    for number in 0..10 {
        record(
            &store,
            EventKind::KeyCreated,
            Some("default"),
            &number.to_string(),
        )
        .await;
    }
    fan_out(&store).await;
    let bound = WebhookBound {
        pending: 6,
        finished: 3,
        before: 0,
    };
    store.webhook_trim(bound).await.unwrap();
    let all = store.delivery_list(visible(&id), None, None, 100);
    let all = all.await.unwrap();
    let of = |state| {
        let found = all.iter().filter(|it| it.state == state);
        found.map(|it| it.payload.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(of(DeliveryState::Pending), ["9", "8", "7", "6", "5", "4"]);
    assert_eq!(of(DeliveryState::Dead), ["3", "2", "1"]);
    let told = all.last().unwrap().last_error.as_deref().unwrap();
    assert!(told.contains("more than 6"), "{told}");
    let old = WebhookBound { before: 8, ..bound };
    store.webhook_trim(old).await.unwrap();
    assert_eq!(payloads(&store, &id).await.len(), 6, "what waits stays");
}
