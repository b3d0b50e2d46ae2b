//! The outbox: every change is an event, none is missed by a reader that goes on from its cursor.

use std::collections::BTreeSet;

use model::{EventKind, SandboxState, TeamId};
use serde_json::json;
use store::{Actor, Event, EventQuery, Events, EventsBound, HostDrain, NewEvent, NewKey, Store};

use crate::db::{Db, insert, report};

async fn page(store: &Store, query: &EventQuery, after: Option<i64>) -> Vec<Event> {
    match store.event_list(query, after, 1000).await.unwrap() {
        Events::Page(events) => events,
        other => panic!("{other:?}"),
    }
}

async fn kinds(store: &Store) -> Vec<String> {
    let all = page(store, &EventQuery::default(), None).await;
    all.into_iter().map(|event| event.kind).collect()
}

fn key(number: u32) -> NewKey {
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&number.to_be_bytes());
    NewKey {
        id: format!("key-{number}"),
        team_id: TeamId::default(),
        scopes: model::Scopes::Admin,
        name: "name".to_owned(),
        hash,
        now: i64::from(number),
    }
}

pub async fn changes_of_sandbox_are_events(db: Db) {
    let store = db.store().await;
    let id = insert(&store, 1).await.id;
    let user = store.acting_for(Actor {
        id: "key-1".to_owned(),
        address: Some("192.0.2.1".to_owned()),
        request_id: Some("request".to_owned()),
    });
    let states = [
        SandboxState::Running,
        SandboxState::Paused,
        SandboxState::Running,
        // As before: no event.
        SandboxState::Running,
        SandboxState::Error,
    ];
    for (generation, state) in (2..).zip(states) {
        let mut report = report(&id, generation, state);
        report.network = None;
        user.sandbox_apply_report(&report, 2).await.unwrap();
        // Stale: no event.
        user.sandbox_apply_report(&report, 3).await.unwrap();
    }
    for _ in 0..2 {
        let team = TeamId::default();
        store.sandbox_mark_deleting(&team, &id, 4).await.unwrap();
        store.sandbox_remove(&id, 5).await.unwrap();
    }
    assert_eq!(
        kinds(&store).await,
        [
            "sandbox.created",
            "sandbox.started",
            "sandbox.paused",
            "sandbox.resumed",
            "sandbox.failed",
            "sandbox.deleting",
            "sandbox.deleted",
        ]
    );
    let query = EventQuery {
        team: Some(TeamId::default()),
        kinds: vec![EventKind::SandboxFailed, EventKind::SandboxCreated],
        sandbox: Some(id.clone()),
        since: Some(2),
        ..EventQuery::default()
    };
    let [failed] = page(&store, &query, Some(0)).await.try_into().unwrap();
    assert!(query.matches(&failed));
    assert_eq!((failed.generation, failed.created_at), (Some(6), 2));
    assert_eq!(failed.actor.address.as_deref(), Some("192.0.2.1"));
    assert_eq!(failed.data["previous_state"], "running");
    assert_eq!(failed.data["reason"], "reason 6");
    let other = EventQuery {
        team: Some("other".parse().unwrap()),
        with_installation: true,
        ..EventQuery::default()
    };
    assert_eq!(page(&store, &other, None).await, []);
    assert!(!other.matches(&failed));
}

pub async fn refused_change_leaves_no_event(db: Db) {
    let store = db.store().await;
    store.key_insert(&key(1)).await.unwrap();
    store.key_insert(&key(1)).await.unwrap_err();
    assert!(store.key_remove("key-1", 2).await.unwrap());
    assert!(!store.key_remove("key-1", 2).await.unwrap());
    assert_eq!(kinds(&store).await, ["key.created", "key.deleted"]);
}

/// With numbers of a plain sequence, a reader passes those of transactions that commit late.
pub async fn reader_misses_no_late_commit(db: Db) {
    const WRITERS: u32 = 8;
    const EACH: u32 = 40;
    let store = db.store().await;
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 0..EACH {
                let key = key(writer * EACH + number);
                store.key_insert(&key).await.unwrap();
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut seen = Vec::new();
    loop {
        let is_last = writers.iter().all(|writer| writer.is_finished());
        let after = seen.last().map(|event: &Event| event.cursor);
        seen.extend(page(&store, &EventQuery::default(), after).await);
        if is_last {
            break;
        }
    }
    assert!(seen.is_sorted_by(|a, b| a.cursor < b.cursor));
    let subjects: BTreeSet<String> = seen.into_iter().map(|event| event.subject).collect();
    assert_eq!(subjects.len(), (WRITERS * EACH) as usize);
}

pub async fn trimmed_history_is_told(db: Db) {
    let store = db.store().await;
    for number in 1..=10 {
        store.key_insert(&key(number)).await.unwrap();
    }
    let all = page(&store, &EventQuery::default(), None).await;
    let trim = async |before, rows| {
        store
            .event_trim(EventsBound { before, rows })
            .await
            .unwrap()
    };
    assert_eq!(trim(0, 100).await, 0);
    assert_eq!(kinds(&store).await.len(), 10);
    assert_eq!(trim(4, 100).await, 3);
    assert_eq!(page(&store, &EventQuery::default(), None).await, all[3..]);
    trim(4, 2).await;
    let cursor = all[7].cursor;
    let query = EventQuery::default();
    assert_eq!(page(&store, &query, Some(cursor)).await, all[8..]);
    let expired = store.event_list(&query, Some(cursor - 1), 9).await.unwrap();
    assert_eq!(expired, Events::Expired);
    assert_eq!(store.event_last().await.unwrap(), all[9].cursor);
    trim(100, 0).await;
    assert_eq!(page(&store, &query, None).await, []);
    assert_eq!(store.event_last().await.unwrap(), all[9].cursor);
    store.key_insert(&key(11)).await.unwrap();
    let [next] = page(&store, &query, Some(all[9].cursor))
        .await
        .try_into()
        .unwrap();
    assert!(next.cursor > all[9].cursor);
}

/// By a clock that was set back and forth.
pub async fn trimmed_history_has_no_holes(db: Db) {
    let store = db.store().await;
    for (number, now) in [(1, 10), (2, 1), (3, 10), (4, 1)] {
        let key = NewKey { now, ..key(number) };
        store.key_insert(&key).await.unwrap();
    }
    let query = EventQuery::default();
    let all = page(&store, &query, None).await;
    let bound = |before| EventsBound { before, rows: 100 };
    assert_eq!(store.event_trim(bound(5)).await.unwrap(), 0);
    assert_eq!(page(&store, &query, Some(all[0].cursor)).await, all[1..]);
    store.event_trim(bound(11)).await.unwrap();
    assert_eq!(page(&store, &query, None).await, []);
}

/// Rules of a network can be large, and readers hold many events.
pub async fn large_data_of_event_is_truncated(db: Db) {
    let store = db.store().await;
    let event = NewEvent {
        kind: EventKind::SandboxNetworkChanged,
        team_id: None,
        subject: "sandbox".to_owned(),
        sandbox_id: None,
        generation: None,
        data: json!({ "network": "x".repeat(100_000), "state": "running" }),
        now: 1,
    };
    store.event_record(&event).await.unwrap();
    let [told] = page(&store, &EventQuery::default(), None)
        .await
        .try_into()
        .unwrap();
    assert_eq!(told.data, json!({ "state": "running", "truncated": true }));
}

pub async fn hosts_and_commands_are_told_once(db: Db) {
    let store = db.store().await;
    let row = insert(&store, 1).await;
    let (team, id) = (&row.team_id, &row.id);
    // It was never connected.
    store
        .host_record("http://a", None, false, Some("refused"), 1)
        .await
        .unwrap();
    for connected in [true, true, false, false, true] {
        let host = connected.then_some("host-a");
        store
            .host_record("http://a", host, connected, None, 1)
            .await
            .unwrap();
    }
    for drain in [HostDrain::None, HostDrain::Drained, HostDrain::Drained] {
        for url in ["http://a", "http://unknown"] {
            let recorded = store.host_drain_record(url, drain, 0, 1).await;
            recorded.unwrap();
        }
    }
    for _ in 0..2 {
        store
            .command_started(team, id, "c-1", json!({}), 1)
            .await
            .unwrap();
    }
    for _ in 0..2 {
        store
            .command_ended(team, id, "c-1", json!({}), 1)
            .await
            .unwrap();
        store
            .command_ended(team, id, "unknown", json!({}), 1)
            .await
            .unwrap();
    }
    assert_eq!(
        kinds(&store).await[1..],
        [
            "host.connected",
            "host.lost",
            "host.connected",
            "host.drained",
            "command.started",
            "command.ended"
        ]
    );
    let ours = EventQuery {
        team: Some(team.clone()),
        ..EventQuery::default()
    };
    assert_eq!(page(&store, &ours, None).await.len(), 3);
    let operator = EventQuery {
        with_installation: true,
        ..ours
    };
    assert_eq!(page(&store, &operator, None).await.len(), 7);
}
