//! Creates and forks that come twice.

use std::time::Duration;

use host_rpc::SandboxState;
use testkit::host::{Cut, FakeHost};

use crate::support::{Ground, Plane, eventually, one, refused};

async fn create(plane: &Plane, key: &str, body: &str) -> (u16, String) {
    let answer = plane
        .post("/v1/sandboxes", body)
        .header("idempotency-key", key)
        .send()
        .await
        .unwrap();
    let status = answer.status().as_u16();
    let body: serde_json::Value = answer.json().await.unwrap();
    (status, body["id"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn the_same_create_twice_makes_one_sandbox() {
    let (host, _ground, plane) = one().await;
    let first = create(&plane, "once", r#"{"vcpus": 1}"#).await;
    assert_eq!(first.0, 201);
    // The spelling of the body does not matter, its meaning does.
    assert_eq!(create(&plane, "once", "{ }").await, first);
    let request = plane
        .post("/v1/sandboxes", r#"{"vcpus": 2}"#)
        .header("idempotency-key", "once");
    assert!(
        refused(request, 422, "idempotency_mismatch")
            .await
            .contains("Idempotency-Key")
    );
    assert_ne!(create(&plane, "twice", "{}").await.1, first.1);
    assert_eq!(host.world().sandboxes.len(), 2);
    // The key is remembered as long as the sandbox is there.
    plane.client().delete(&first.1).await.unwrap();
    assert_ne!(create(&plane, "once", "{}").await.1, first.1);
}

#[tokio::test]
async fn the_same_create_at_once_makes_one_sandbox() {
    let (host, _ground, plane) = one().await;
    let all = futures::future::join_all((0..8).map(|_| create(&plane, "at once", "{}"))).await;
    assert!(
        all.iter().all(|one| *one == all[0] && one.0 == 201),
        "{all:?}"
    );
    assert_eq!(host.world().sandboxes.len(), 1);
}

#[tokio::test]
async fn the_same_create_at_once_makes_one_sandbox_on_one_host() {
    let a = FakeHost::start_as("host-a");
    let b = FakeHost::start_as("host-b");
    let ground = Ground::new().await;
    let plane = ground.start(&[&a, &b]).await;
    for key in 0..10 {
        let key = format!("at once {key}");
        let all = futures::future::join_all((0..4).map(|_| create(&plane, &key, "{}"))).await;
        assert!(
            all.iter().all(|one| *one == all[0] && one.0 == 201),
            "{all:?}"
        );
    }
    assert_eq!(a.world().sandboxes.len() + b.world().sandboxes.len(), 10);
}

/// Somebody else may have been told of it.
#[tokio::test]
async fn a_request_that_fails_takes_nothing_from_the_same_one() {
    let (host, _ground, plane) = one().await;
    let source = plane.create().await.id;
    for key in 0..5 {
        let key = format!("key {key}");
        // The first one takes its time and then does not hear the answer.
        for call in ["EnsureSandbox", "ForkSandbox"] {
            host.slow_next(call, Duration::from_millis(50));
            host.cut_next(call, Cut::After);
        }
        let all = futures::future::join_all((0..3).map(|_| create(&plane, &key, "{}"))).await;
        let forks = futures::future::join_all((0..3).map(|_| fork(&plane, &source, &key, 2))).await;
        let told = all
            .into_iter()
            .map(|(status, id)| (status, vec![id]))
            .chain(forks);
        for id in told
            .filter(|(status, _)| *status == 201)
            .flat_map(|(_, ids)| ids)
        {
            plane.client().get(&id).await.unwrap();
            assert!(host.world().sandboxes.contains_key(&id));
        }
    }
}

#[tokio::test]
async fn a_create_that_failed_while_nobody_listened_is_told_and_can_be_tried_again() {
    let (host, ground, plane) = one().await;
    let gate = host.hold_next("Boot");
    let request = plane
        .post("/v1/sandboxes", "{}")
        .header("idempotency-key", "again");
    tokio::spawn(async move { request.send().await });
    gate.wait_until_reached().await;
    plane.kill();
    let id = host.world().sandboxes.keys().next().unwrap().clone();
    host.set_state(&id, SandboxState::SANDBOX_STATE_ERROR, "bad luck");
    let plane = ground.start(&[&host]).await;
    let request = plane
        .post("/v1/sandboxes", "{}")
        .header("idempotency-key", "again");
    assert!(
        refused(request, 502, "agent_error")
            .await
            .contains("bad luck")
    );
    assert!(
        plane.client().list_all().await.unwrap().is_empty() && host.world().sandboxes.is_empty()
    );
    assert_eq!(create(&plane, "again", "{}").await.0, 201);
}

/// Of one that ran somebody may have been told.
#[tokio::test]
async fn a_sandbox_that_ended_is_still_what_its_key_made() {
    let (host, _ground, plane) = one().await;
    let made = create(&plane, "once", "{}").await;
    host.set_state(&made.1, SandboxState::SANDBOX_STATE_ERROR, "kernel panic");
    eventually("the end", || async {
        (plane.client().get(&made.1).await.unwrap().status == api_types::SandboxStatus::Error)
            .then_some(())
    })
    .await;
    assert_eq!(create(&plane, "once", "{}").await, made);
}

#[tokio::test]
async fn a_create_that_failed_can_be_tried_again() {
    let (host, _ground, plane) = one().await;
    host.fail_next("Boot", connectrpc::ConnectError::internal("bad luck"));
    assert_eq!(create(&plane, "again", "{}").await.0, 502);
    assert_eq!(create(&plane, "again", "{}").await.0, 201);
}

#[tokio::test]
async fn bad_keys_are_refused() {
    let (_host, _ground, plane) = one().await;
    for key in ["", "\t", &"k".repeat(256)] {
        let request = plane
            .post("/v1/sandboxes", "{}")
            .header("idempotency-key", key);
        assert!(
            refused(request, 400, "invalid_request")
                .await
                .contains("255"),
            "{key:?}"
        );
    }
}

async fn fork(plane: &Plane, source: &str, key: &str, count: u32) -> (u16, Vec<String>) {
    let path = format!("/v1/sandboxes/{source}/fork");
    let request = plane
        .post(&path, format!(r#"{{"count": {count}}}"#))
        .header("idempotency-key", key);
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let body: serde_json::Value = answer.json().await.unwrap();
    let id = |child: &serde_json::Value| child["id"].as_str().unwrap().to_owned();
    (
        status,
        body.as_array()
            .map(|children| children.iter().map(id).collect())
            .unwrap_or_default(),
    )
}

#[tokio::test]
async fn the_same_fork_twice_makes_its_children_once() {
    let (host, _ground, plane) = one().await;
    let source = plane.create().await.id;
    let first = fork(&plane, &source, "once", 3).await;
    assert_eq!((first.0, first.1.len()), (201, 3));
    assert_eq!(fork(&plane, &source, "once", 3).await, first);
    let path = format!("/v1/sandboxes/{source}/fork");
    let request = plane
        .post(&path, r#"{"count": 2}"#)
        .header("idempotency-key", "once");
    assert!(
        refused(request, 422, "idempotency_mismatch")
            .await
            .contains("Idempotency-Key")
    );
    // A create is no fork, whatever its key.
    assert_eq!(create(&plane, "once", "{}").await.0, 201);
    // The children are there even when their source is gone.
    plane.client().delete(&source).await.unwrap();
    assert_eq!(fork(&plane, &source, "once", 3).await, first);
    assert_eq!(host.world().sandboxes.len(), 4);
}

#[tokio::test]
async fn the_same_fork_at_once_makes_its_children_once() {
    let (host, _ground, plane) = one().await;
    let source = plane.create().await.id;
    let all = futures::future::join_all((0..6).map(|_| fork(&plane, &source, "at once", 3))).await;
    assert!(
        all.iter()
            .all(|one| *one == all[0] && one.0 == 201 && one.1.len() == 3),
        "{all:?}"
    );
    assert_eq!(host.world().sandboxes.len(), 4);
}

#[tokio::test]
async fn a_fork_that_failed_can_be_tried_again() {
    let (host, _ground, plane) = one().await;
    let source = plane.create().await.id;
    host.fail_next("Children", connectrpc::ConnectError::internal("bad luck"));
    assert_eq!(fork(&plane, &source, "again", 2).await.0, 502);
    assert_eq!(fork(&plane, &source, "again", 2).await.0, 201);
    assert_eq!(host.world().sandboxes.len(), 3);
}

/// The rows are an earlier request's, which nobody heard of.
#[tokio::test]
async fn a_fork_whose_process_died_and_that_fails_when_tried_again_leaves_nothing() {
    for is_source_gone in [false, true] {
        let (host, ground, plane) = one().await;
        let source = plane.create().await.id;
        let gate = host.hold_next("ForkSandbox");
        let path = format!("/v1/sandboxes/{source}/fork");
        let request = plane
            .post(&path, r#"{"count": 2}"#)
            .header("idempotency-key", "again");
        tokio::spawn(async move { request.send().await });
        gate.wait_until_reached().await;
        plane.kill();
        let plane = ground.start(&[&host]).await;
        assert_eq!(plane.store.sandbox_list_all().await.unwrap().len(), 3);
        if is_source_gone {
            plane.client().delete(&source).await.unwrap();
            assert_eq!(fork(&plane, &source, "again", 2).await.0, 404);
            assert_eq!(
                (
                    plane.store.sandbox_list_all().await.unwrap().len(),
                    host.world().sandboxes.len()
                ),
                (0, 0)
            );
            continue;
        }
        host.fail_next(
            "ForkSandbox",
            connectrpc::ConnectError::internal("bad luck"),
        );
        assert_eq!(fork(&plane, &source, "again", 2).await.0, 502);
        assert_eq!(
            (
                plane.store.sandbox_list_all().await.unwrap().len(),
                host.world().sandboxes.len()
            ),
            (1, 1)
        );
        assert_eq!(fork(&plane, &source, "again", 2).await.0, 201);
    }
}

/// As the first one would have been told, had it waited.
#[tokio::test]
async fn refusal_is_answered_again_after_restart() {
    let (host, ground, plane) = one().await;
    let gate = host.hold_next("Boot");
    let create = |plane: &Plane| {
        let request = plane.post("/v1/sandboxes", "{}");
        request.header("idempotency-key", "again")
    };
    let first = create(&plane);
    tokio::spawn(async move { first.send().await });
    gate.wait_until_reached().await;
    plane.kill();
    let id = host.world().sandboxes.keys().next().unwrap().clone();
    {
        let mut world = host.world();
        let sandbox = world.sandboxes.get_mut(&id).unwrap();
        sandbox.is_refused = true;
        sandbox.stop_reason = host_rpc::StopReason::STOP_REASON_START_FAILED;
    }
    host.set_state(&id, SandboxState::SANDBOX_STATE_ERROR, "its guest is old");
    let plane = ground.start(&[&host]).await;
    let message = refused(create(&plane), 409, "invalid_state").await;
    assert!(message.contains("its guest is old"), "{message}");
}

/// Its children run, so they are what was asked for.
#[tokio::test]
async fn a_fork_whose_answer_is_lost_is_made_once_its_children_run() {
    let (host, _ground, plane) = one().await;
    let source = plane.create().await.id;
    for key in ["one", "two", "three"] {
        host.cut_next("ForkSandbox", Cut::After);
        let (status, children) = fork(&plane, &source, key, 2).await;
        // The reports may come too late.
        let made = if status == 201 { 2 } else { 0 };
        assert_eq!(
            (children.len(), host.world().sandboxes.len()),
            (made, 1 + made),
            "{status}"
        );
        for child in &children {
            plane.client().delete(child).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_fork_whose_children_are_not_all_there_any_more_makes_no_others() {
    let (host, _ground, plane) = one().await;
    let source = plane.create().await.id;
    let (_, made) = fork(&plane, &source, "once", 3).await;
    plane.client().delete(&made[1]).await.unwrap();
    host.fail_next("Children", connectrpc::ConnectError::internal("bad luck"));
    let path = format!("/v1/sandboxes/{source}/fork");
    let request = plane
        .post(&path, r#"{"count": 3}"#)
        .header("idempotency-key", "once");
    assert!(refused(request, 409, "conflict").await.contains("new key"));
    assert_eq!(plane.client().list_all().await.unwrap().len(), 3);
    // The key is remembered as long as any of them is there.
    for id in [&made[0], &made[2]] {
        plane.client().delete(id).await.unwrap();
    }
    host.clear_script();
    assert_eq!(fork(&plane, &source, "once", 3).await.0, 201);
}
