//! Events: what changed, in order, as history and as it happens.

use std::time::Duration;

use api_types::{CreateSnapshot, Event, StartCommand};
use client::{Client, EventQuery, EventStream};
use control::{EventSettings, auth};
use model::Scopes;
use reqwest::Method;
use testkit::host::FakeHost;

use crate::support::{Ground, PATIENCE, Plane, eventually, one, refused};

async fn all(plane: &Plane, query: EventQuery) -> Vec<Event> {
    plane.client().events(&query).await.unwrap().items
}

async fn next(stream: &mut EventStream) -> Event {
    let event = tokio::time::timeout(PATIENCE, stream.next()).await;
    event.expect("an event in time").unwrap().expect("an event")
}

fn of(kinds: &str) -> EventQuery {
    EventQuery {
        kinds: Some(kinds.to_owned()),
        ..EventQuery::default()
    }
}

#[tokio::test]
async fn every_change_is_told_with_actor() {
    let (_host, ground, plane) = one().await;
    let client = plane.client();
    let id = plane.create().await.id;
    client.pause(&id).await.unwrap();
    client.resume(&id).await.unwrap();
    let rules = api_types::NetworkRules::default();
    client.set_network(&id, &rules).await.unwrap();
    client.create_checkpoint(&id, Some("first")).await.unwrap();
    client.rollback(&id, "first").await.unwrap();
    client.delete_checkpoint(&id, "first").await.unwrap();
    let child = client.fork(&id, 1).await.unwrap().remove(0).id;
    let snapshot = CreateSnapshot {
        sandbox_id: id.clone(),
        name: Some("saved".to_owned()),
        memory: None,
        overwrite: None,
    };
    client.create_snapshot(&snapshot).await.unwrap();
    client.delete_snapshot("saved").await.unwrap();
    client.delete(&id).await.unwrap();
    let events = all(&plane, EventQuery::default()).await;
    let told: Vec<(&str, &str)> = events
        .iter()
        .filter(|event| !event.kind.starts_with("host."))
        .map(|event| (event.kind.as_str(), event.subject.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("key.created", ground.key_id.as_str()),
            ("sandbox.created", &id),
            ("sandbox.started", &id),
            ("sandbox.paused", &id),
            ("sandbox.resumed", &id),
            ("sandbox.checkpointed", &id),
            ("sandbox.rolled_back", &id),
            ("sandbox.checkpoint_deleted", &id),
            ("sandbox.created", &child),
            ("sandbox.started", &child),
            ("sandbox.forked", &id),
            ("template.created", "saved"),
            ("template.deleted", "saved"),
            ("sandbox.deleting", &id),
            ("sandbox.deleted", &id),
        ]
    );
    for event in events.iter().filter(|event| event.sandbox_id.is_some()) {
        assert_eq!(event.actor.id, ground.key_id, "{event:?}");
        assert_eq!(event.actor.address.as_deref(), Some("127.0.0.1"));
        assert!(event.request_id.is_some(), "{event:?}");
    }
    let paused = all(&plane, of("sandbox.paused")).await.remove(0);
    assert_eq!(paused.data["previous_state"], "running");
    assert!(paused.generation.unwrap() > 1, "{paused:?}");
    assert_eq!(all(&plane, of("host.*")).await[0].kind, "host.connected");
}

#[tokio::test]
async fn change_of_host_is_the_systems() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let broken = host_rpc::SandboxState::SANDBOX_STATE_ERROR;
    host.set_state(&id, broken, "kernel panic");
    let failed = eventually("the failure is an event", async || {
        all(&plane, of("sandbox.failed")).await.pop()
    })
    .await;
    assert_eq!(
        (failed.actor.id.as_str(), failed.request_id),
        ("system", None)
    );
    assert_eq!(failed.data["reason"], "kernel panic");
    host.stop();
    let lost = eventually("the loss of the host is an event", async || {
        all(&plane, of("host.lost")).await.pop()
    })
    .await;
    assert_eq!(lost.data["url"], host.url());
}

#[tokio::test]
async fn background_command_is_told_once() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let start = StartCommand {
        cmd: "sleep".to_owned(),
        args: vec!["9".to_owned()],
        ..StartCommand::default()
    };
    let command = plane.client().start_command(&id, &start).await.unwrap();
    let kill = r#"{"signal": "SIGKILL"}"#;
    let path = format!("/v1/sandboxes/{id}/commands/{}", command.id);
    let killed = plane.post(&format!("{path}/signal"), kill).send().await;
    assert!(killed.unwrap().status().is_success());
    eventually("it ends", async || {
        let seen = plane.request(Method::GET, &path).send().await.unwrap();
        let seen: api_types::Command = seen.json().await.unwrap();
        seen.ended_at.map(drop)
    })
    .await;
    plane.client().commands(&id).await.unwrap();
    let events = all(&plane, of("command.*")).await;
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["command.started", "command.ended"]);
    assert_eq!(events[0].subject, command.id);
    assert!(!events[0].data.contains_key("args"), "{events:?}");
}

#[tokio::test]
async fn unread_command_ends_are_told() {
    let (host, ground, plane) = one().await;
    let id = plane.create().await.id;
    let start = |cmd: &str, args: &[&str]| StartCommand {
        cmd: cmd.to_owned(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..StartCommand::default()
    };
    // They end at once, most of them before their start is recorded.
    let client = plane.client();
    for _ in 0..20 {
        let start = start("print", &["done"]);
        client.start_command(&id, &start).await.unwrap();
    }
    let ended = |plane| async move {
        let ended = all(plane, of("command.ended")).await;
        (ended.len() == 20).then_some(ended)
    };
    let ended = eventually("all ends are told", async || ended(&plane).await).await;
    assert_eq!(ended[0].data["exit_code"], 0);
    assert_eq!(ended[0].actor.id, "system");
    let asleep = start("sleep", &["9"]);
    let asleep = client.start_command(&id, &asleep).await.unwrap();
    // No control plane sees the end of this one.
    plane.kill();
    host.kill_command(&asleep.id);
    let plane = ground.start(&[&host]).await;
    eventually("the end in between is told", async || {
        let ended = all(&plane, of("command.ended")).await;
        ended
            .iter()
            .any(|end| end.subject == asleep.id)
            .then_some(())
    })
    .await;
    assert_eq!(all(&plane, of("command.*")).await.len(), 42);
}

#[tokio::test]
async fn drained_host_takes_no_sandboxes() {
    let [host, other] = ["host-a", "host-b"].map(FakeHost::start_as);
    let ground = Ground::new().await;
    let plane = ground.start(&[&host, &other]).await;
    let told = async |kind: &str| {
        eventually("the drain is told", async || {
            all(&plane, of(kind)).await.pop()
        })
        .await
    };
    let first = plane.create().await;
    plane.create().await;
    assert_eq!((host.sandboxes(), other.sandboxes()), (1, 1));
    host.world().is_draining = true;
    let draining = told("host.draining").await;
    assert_eq!(
        (draining.subject.as_str(), &draining.data["running"]),
        ("host-a", &1.into())
    );
    for _ in 0..3 {
        plane.create().await;
    }
    assert_eq!((host.sandboxes(), other.sandboxes()), (1, 4));
    let on_host = host.world().sandboxes.keys().next().cloned().unwrap();
    plane.client().pause(&on_host).await.unwrap();
    assert_eq!(told("host.drained").await.subject, "host-a");
    other.world().is_draining = true;
    eventually("the other is drained, too", async || {
        (all(&plane, of("host.draining")).await.len() == 2).then_some(())
    })
    .await;
    let refusal = plane
        .client()
        .create(&api_types::CreateSandbox::default())
        .await;
    let refusal = refusal.unwrap_err().to_string();
    assert!(refusal.contains("wrenn-agent undrain"), "{refusal}");
    host.world().is_draining = false;
    let created = plane.create().await;
    assert_ne!(created.id, first.id);
    assert_eq!(host.sandboxes(), 2, "it takes them before the next round");
    assert_eq!(told("host.undrained").await.subject, "host-a");
}

#[tokio::test]
async fn stream_goes_on_at_cursor() {
    let (host, ground, plane) = one().await;
    let mut live = plane
        .client()
        .follow_events(&of("sandbox.*"))
        .await
        .unwrap();
    let id = plane.create().await.id;
    let created = next(&mut live).await;
    assert_eq!(
        (created.kind.as_str(), &created.subject),
        ("sandbox.created", &id)
    );
    assert_eq!(next(&mut live).await.kind, "sandbox.started");
    plane.client().pause(&id).await.unwrap();
    let from_created = EventQuery {
        cursor: Some(created.cursor.clone()),
        ..of("sandbox.*")
    };
    let mut again = plane.client().follow_events(&from_created).await.unwrap();
    assert_eq!(next(&mut again).await.kind, "sandbox.started");
    assert_eq!(next(&mut again).await.kind, "sandbox.paused");
    plane.stop().await;
    assert!(
        again.next().await.unwrap().is_none(),
        "ends with the server"
    );
    let plane = ground.start(&[&host]).await;
    let mut again = plane.client().follow_events(&from_created).await.unwrap();
    assert_eq!(next(&mut again).await.kind, "sandbox.started");
    plane.client().delete(&id).await.unwrap();
    for kind in ["sandbox.paused", "sandbox.deleting", "sandbox.deleted"] {
        assert_eq!(next(&mut again).await.kind, kind);
    }
}

/// More events than all queues hold, while the client reads none.
#[tokio::test]
async fn slow_stream_loses_nothing() {
    const COUNT: usize = 3000;
    let (_host, _ground, plane) = one().await;
    let mut slow = plane.client().follow_events(&of("key.*")).await.unwrap();
    let mut fast = plane.client().follow_events(&of("key.*")).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..COUNT {
        let created = auth::create_key(&plane.store, &"x".repeat(100)).await;
        ids.push(created.unwrap().0.id);
    }
    for stream in [&mut slow, &mut fast] {
        for id in &ids {
            assert_eq!(next(stream).await.subject, *id);
        }
    }
}

#[tokio::test]
async fn stranger_sees_no_event() {
    let (_host, _ground, plane) = one().await;
    let team = "strangers".parse().unwrap();
    let created = auth::create_team_key(&plane.store, team, Scopes::Admin, "theirs").await;
    let (key, text) = created.unwrap();
    let stranger = Client::new(&plane.url, &text.expose()).unwrap();
    let mut live = stranger
        .follow_events(&of("sandbox.*,key.*"))
        .await
        .unwrap();
    let id = plane.create().await.id;
    let theirs = stranger.events(&EventQuery::default()).await.unwrap().items;
    let subjects: Vec<String> = theirs.into_iter().map(|event| event.subject).collect();
    assert_eq!(subjects, std::slice::from_ref(&key.id));
    let of_ours = EventQuery {
        sandbox: Some(id),
        ..EventQuery::default()
    };
    assert_eq!(stranger.events(&of_ours).await.unwrap().items, []);
    auth::revoke_key(&plane.store, &key.id).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, live.next()).await.unwrap();
    let error = ended.expect_err("the stream of a revoked key");
    assert!(error.to_string().contains("revoked"), "{error}");
}

/// A stream that was opened without a cursor, and broke before its first event.
#[tokio::test]
async fn quiet_stream_tells_its_cursor() {
    let (host, ground, plane) = one().await;
    let paused = of("sandbox.paused");
    let mut quiet = plane.client().follow_events(&paused).await.unwrap();
    let id = plane.create().await.id;
    while quiet.cursor().is_none() {
        let next = tokio::time::timeout(Duration::from_millis(50), quiet.next()).await;
        assert!(next.is_err(), "{next:?}");
    }
    let cursor = quiet.cursor().map(str::to_owned);
    plane.stop().await;
    let plane = ground.start(&[&host]).await;
    plane.client().pause(&id).await.unwrap();
    let again = EventQuery { cursor, ..paused };
    let mut again = plane.client().follow_events(&again).await.unwrap();
    assert_eq!(next(&mut again).await.subject, id);
}

#[tokio::test]
async fn two_control_planes_tell_each_others_events() {
    let host = FakeHost::start();
    let ground = Ground::new().await;
    let database = testkit::postgres::Database::create().await.unwrap();
    let store = store::Store::open(&database.url()).await.unwrap();
    store.migrate().await.unwrap();
    let (_, key) = auth::create_key(&store, "of both").await.unwrap();
    let mut planes = Vec::new();
    for _ in 0..2 {
        let store = store::Store::open(&database.url()).await.unwrap();
        planes.push(
            ground
                .start_with(&[&host], |settings| settings.store = store)
                .await,
        );
    }
    let client = |plane: &Plane| Client::new(&plane.url, &key.expose()).unwrap();
    let mut streams = Vec::new();
    for plane in &planes {
        streams.push(client(plane).follow_events(&of("sandbox.*")).await.unwrap());
    }
    let first = client(&planes[0])
        .create(&Default::default())
        .await
        .unwrap()
        .id;
    let second = client(&planes[1])
        .create(&Default::default())
        .await
        .unwrap()
        .id;
    for stream in &mut streams {
        for id in [&first, &second] {
            for kind in ["sandbox.created", "sandbox.started"] {
                let event = next(stream).await;
                assert_eq!((event.kind.as_str(), &event.subject), (kind, id));
            }
        }
    }
    drop(planes);
    store.close().await;
}

#[tokio::test]
async fn old_events_expire() {
    let (host, ground, plane) = one().await;
    plane.create().await;
    plane.stop().await;
    let events = EventSettings {
        max_rows: 2,
        ..EventSettings::default()
    };
    let plane = ground
        .start_with(&[&host], |settings| settings.events = events)
        .await;
    let rest = eventually("old ones go", async || {
        Some(all(&plane, EventQuery::default()).await).filter(|rest| rest.len() == 2)
    })
    .await;
    assert_eq!(rest[1].kind, "sandbox.started");
    for path in ["/v1/events?cursor=0", "/v1/events/stream?cursor=0"] {
        let message = refused(plane.request(Method::GET, path), 410, "expired").await;
        assert!(message.contains("CP_EVENTS_MAX_ROWS"), "{message}");
    }
}

#[tokio::test]
async fn wrong_event_queries_are_refused() {
    let (_host, _ground, plane) = one().await;
    for (query, said) in [
        ("cursor=x", "cursor"),
        ("cursor=-1", "cursor"),
        ("type=sandbox", "type"),
        ("sandbox=../x", "sandbox"),
        ("since=yesterday", "since"),
        ("until=now", "until"),
    ] {
        for path in ["/v1/events", "/v1/events/stream"] {
            let request = plane.request(Method::GET, &format!("{path}?{query}"));
            let message = refused(request, 400, "invalid_request").await;
            assert!(message.contains(said), "{query}: {message}");
        }
    }
    let page = plane
        .request(Method::GET, "/v1/events?limit=1")
        .send()
        .await
        .unwrap();
    assert!(page.headers().contains_key("x-next-cursor"));
    tokio::time::timeout(Duration::from_secs(20), page.text())
        .await
        .unwrap()
        .unwrap();
}
