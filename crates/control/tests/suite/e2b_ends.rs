//! Ends of sandboxes with the clients of E2B: what was answered holds, whatever ends, pauses or resumes
//! the sandbox at that moment.

use connectrpc::ConnectError;
use model::{EndPolicy, SandboxAttributes, SandboxState};
use reqwest::Method;
use serde_json::{Value, json};
use store::Sandbox;
use testkit::host::Cut;

use crate::e2b::{create, post, seconds_left, send};
use crate::support::{Plane, eventually, one};

async fn get_state(plane: &Plane, id: &str) -> Value {
    let path = format!("/sandboxes/{id}");
    let (status, body) = send(plane, Method::GET, &path, Value::Null).await;
    match status {
        200 => body["state"].clone(),
        status => json!(status),
    }
}

async fn row(plane: &Plane, id: &str) -> Sandbox {
    let id = id.parse().unwrap();
    let row = plane.store.sandbox_get_any_team(&id).await;
    row.unwrap().expect("a row")
}

/// Makes the end of a sandbox one that came long ago, as if time had passed.
async fn let_end_come(plane: &Plane, id: &str) {
    let before = row(plane, id).await;
    let attributes = SandboxAttributes {
        ends_at: Some(1),
        ..before.attributes.clone()
    };
    let updated = plane
        .store
        .sandbox_update(&before, &before.spec, &attributes, 2);
    updated.await.unwrap().expect("no other change");
}

/// Waits until the control plane has looked for ends, by one that it finds.
async fn wait_for_look(plane: &Plane) {
    let (canary, _) = create(plane, json!({})).await;
    let_end_come(plane, &canary).await;
    eventually("the end of another sandbox", async || {
        (get_state(plane, &canary).await == 404).then_some(())
    })
    .await;
}

#[tokio::test]
async fn end_during_pause_loses_nothing() {
    let (host, _ground, plane) = one().await;
    for auto_pause in [false, true] {
        let (id, _) = create(&plane, json!({"autoPause": auto_pause})).await;
        let gate = host.hold_next("Save");
        let pausing = post(&plane, &id, "pause", json!({}));
        let during = async {
            gate.wait_until_reached().await;
            let_end_come(&plane, &id).await;
            wait_for_look(&plane).await;
            assert_eq!(get_state(&plane, &id).await, "running");
            gate.open();
        };
        let (paused, ()) = tokio::join!(pausing, during);
        assert_eq!(paused.0, 204);
        wait_for_look(&plane).await;
        assert_eq!(get_state(&plane, &id).await, "paused");
        let row = row(&plane, &id).await;
        assert_eq!((row.attributes.ends_at, row.pausing_until), (None, None));
        assert_eq!(
            post(&plane, &id, "connect", json!({"timeout": 60})).await.0,
            201
        );
        assert!((50..=60).contains(&seconds_left(&plane, &id).await));
    }
}

#[tokio::test]
async fn pause_of_ended_sandbox_is_refused() {
    let (host, _ground, plane) = one().await;
    // An end of `/v1` comes whatever the sandbox does.
    let id = plane.create().await.id;
    let gate = host.hold_next("Save");
    let pausing = post(&plane, &id, "pause", json!({}));
    let during = async {
        gate.wait_until_reached().await;
        let_end_come(&plane, &id).await;
        wait_for_look(&plane).await;
        assert_eq!(get_state(&plane, &id).await, 404);
        gate.open();
    };
    let (paused, ()) = tokio::join!(pausing, during);
    assert_eq!(paused.0, 404, "{}", paused.1);
}

#[tokio::test]
async fn renewal_is_refused_until_broken_pause_is_decided() {
    let (host, _ground, plane) = one().await;
    let (id, _) = create(&plane, json!({"autoPause": true})).await;
    host.cut_next("PauseSandbox", Cut::Before);
    assert_eq!(
        post(&plane, &id, "timeout", json!({"timeout": 0})).await.0,
        204
    );
    eventually("the claim", async || row(&plane, &id).await.pausing_until).await;
    eventually("the pause", async || {
        let renewed = post(&plane, &id, "timeout", json!({"timeout": 600})).await;
        assert!([404, 409].contains(&renewed.0), "{renewed:?}");
        (get_state(&plane, &id).await == "paused").then_some(())
    })
    .await;
}

#[tokio::test]
async fn broken_pause_of_user_is_finished() {
    let (host, _ground, plane) = one().await;
    let (id, _) = create(&plane, json!({})).await;
    host.cut_next("PauseSandbox", Cut::Before);
    assert_eq!(post(&plane, &id, "pause", json!({})).await.0, 500);
    assert_eq!(
        post(&plane, &id, "timeout", json!({"timeout": 0})).await.0,
        409
    );
    eventually("the pause", async || {
        (get_state(&plane, &id).await == "paused").then_some(())
    })
    .await;
}

#[tokio::test]
async fn refused_pause_gives_end_back() {
    let (host, _ground, plane) = one().await;
    let (id, _) = create(&plane, json!({"timeout": 600})).await;
    host.fail_next("Save", ConnectError::resource_exhausted("its disk is full"));
    assert_eq!(post(&plane, &id, "pause", json!({})).await.0, 507);
    assert_eq!(row(&plane, &id).await.pausing_until, None);
    assert!(seconds_left(&plane, &id).await > 500);
    assert_eq!(
        post(&plane, &id, "timeout", json!({"timeout": 60})).await.0,
        204
    );
    assert!((50..=60).contains(&seconds_left(&plane, &id).await));
}

#[tokio::test]
async fn racing_connects_both_hold() {
    let (host, _ground, plane) = one().await;
    let (id, _) = create(&plane, json!({"timeout": 300})).await;
    assert_eq!(post(&plane, &id, "pause", json!({})).await.0, 204);
    let gate = host.hold_next("ResumeSandbox");
    let long = post(&plane, &id, "connect", json!({"timeout": 600}));
    let short = async {
        gate.wait_until_reached().await;
        let answer = post(&plane, &id, "connect", json!({"timeout": 60})).await;
        assert!((50..=60).contains(&seconds_left(&plane, &id).await));
        gate.open();
        answer
    };
    let (long, short) = tokio::join!(long, short);
    assert_eq!((long.0, short.0), (201, 201));
    assert!(seconds_left(&plane, &id).await > 590);
}

#[tokio::test]
async fn connect_without_time_ends_at_once() {
    let (_host, _ground, plane) = one().await;
    let (id, _) = create(&plane, json!({"autoPause": true})).await;
    assert_eq!(post(&plane, &id, "pause", json!({})).await.0, 204);
    assert_eq!(
        post(&plane, &id, "connect", json!({"timeout": 0})).await.0,
        201
    );
    eventually("the pause", async || {
        (get_state(&plane, &id).await == "paused").then_some(())
    })
    .await;
}

#[tokio::test]
async fn timeout_leaves_idle_policy_alone() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let before = plane.client().get(&id).await.unwrap();
    // Connecting gives no end to what has none.
    assert_eq!(
        post(&plane, &id, "connect", json!({"timeout": 60})).await.0,
        200
    );
    assert_eq!(row(&plane, &id).await.attributes.ends_at, None);
    assert_eq!(
        post(&plane, &id, "timeout", json!({"timeout": 600}))
            .await
            .0,
        204
    );
    assert!(seconds_left(&plane, &id).await > 590);
    // It is of this run, and goes with it.
    assert_eq!(post(&plane, &id, "pause", json!({})).await.0, 204);
    assert_eq!(row(&plane, &id).await.attributes.ends_at, None);
    assert_eq!(
        post(&plane, &id, "connect", json!({"timeout": 60})).await.0,
        201
    );
    let attributes = row(&plane, &id).await.attributes;
    assert_eq!((attributes.ends_at, attributes.run_ms), (None, None));
    // What comes at the end is what idleness does.
    assert_eq!(
        post(&plane, &id, "timeout", json!({"timeout": 0})).await.0,
        204
    );
    eventually("the pause", async || {
        (get_state(&plane, &id).await == "paused").then_some(())
    })
    .await;
    plane.client().resume(&id).await.unwrap();
    let after = plane.client().get(&id).await.unwrap();
    assert_eq!(
        (
            after.timeout_sec,
            after.on_timeout,
            after.auto_resume,
            after.ends_at
        ),
        (
            before.timeout_sec,
            before.on_timeout,
            before.auto_resume,
            None
        )
    );
}

#[tokio::test]
async fn timeout_ends_what_is_killed_when_idle() {
    let (_host, _ground, plane) = one().await;
    let new = json!({"on_timeout": "kill"});
    let (_, made) = send(&plane, Method::POST, "/v1/sandboxes", new).await;
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!(
        post(&plane, &id, "timeout", json!({"timeout": 0})).await.0,
        204
    );
    eventually("the end", async || {
        (get_state(&plane, &id).await == 404).then_some(())
    })
    .await;
}

#[tokio::test]
async fn end_of_v1_is_moved_and_stays() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let change = json!({"ends_at": "2999-01-01T00:00:00Z"});
    let path = format!("/v1/sandboxes/{id}");
    assert_eq!(send(&plane, Method::PATCH, &path, change).await.0, 200);
    assert_eq!(
        post(&plane, &id, "timeout", json!({"timeout": 600}))
            .await
            .0,
        204
    );
    assert_eq!(post(&plane, &id, "pause", json!({})).await.0, 204);
    assert!(seconds_left(&plane, &id).await > 590);
    let row = row(&plane, &id).await;
    assert_eq!(
        (row.state, row.attributes.end_policy),
        (SandboxState::Paused, EndPolicy::Stop)
    );
}
