//! Creates and forks that come twice.

use crate::support::{Plane, one, refused};

async fn create(plane: &Plane, key: &str, body: &str) -> (u16, String) {
    let answer = plane.post("/v1/sandboxes", body).header("idempotency-key", key).send().await.unwrap();
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
    let request = plane.post("/v1/sandboxes", r#"{"vcpus": 2}"#).header("idempotency-key", "once");
    assert!(refused(request, 422, "idempotency_mismatch").await.contains("Idempotency-Key"));
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
    assert!(all.iter().all(|one| *one == all[0] && one.0 == 201), "{all:?}");
    assert_eq!(host.world().sandboxes.len(), 1);
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
        let request = plane.post("/v1/sandboxes", "{}").header("idempotency-key", key);
        assert!(refused(request, 400, "invalid_request").await.contains("255"), "{key:?}");
    }
}

async fn fork(plane: &Plane, source: &str, key: &str, count: u32) -> (u16, Vec<String>) {
    let path = format!("/v1/sandboxes/{source}/fork");
    let request = plane.post(&path, format!(r#"{{"count": {count}}}"#)).header("idempotency-key", key);
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let body: serde_json::Value = answer.json().await.unwrap();
    let id = |child: &serde_json::Value| child["id"].as_str().unwrap().to_owned();
    (status, body.as_array().map(|children| children.iter().map(id).collect()).unwrap_or_default())
}

#[tokio::test]
async fn the_same_fork_twice_makes_its_children_once() {
    let (host, _ground, plane) = one().await;
    let source = plane.create().await.id;
    let first = fork(&plane, &source, "once", 3).await;
    assert_eq!((first.0, first.1.len()), (201, 3));
    assert_eq!(fork(&plane, &source, "once", 3).await, first);
    let path = format!("/v1/sandboxes/{source}/fork");
    let request = plane.post(&path, r#"{"count": 2}"#).header("idempotency-key", "once");
    assert!(refused(request, 422, "idempotency_mismatch").await.contains("Idempotency-Key"));
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
    assert!(all.iter().all(|one| *one == all[0] && one.0 == 201 && one.1.len() == 3), "{all:?}");
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
