//! Checkpoints, and going back to them.

use api_types::SandboxStatus;
use connectrpc::ConnectError;
use reqwest::Method;

use crate::support::{one, refused};

#[tokio::test]
async fn a_sandbox_goes_back_under_the_same_id() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let client = plane.client();
    let write = |text: &str| {
        let text = text.as_bytes().to_vec();
        host.world()
            .sandboxes
            .get_mut(&id)
            .unwrap()
            .content
            .files
            .insert("/tmp/a".into(), text);
    };
    let read = || host.world().sandboxes[&id].content.files["/tmp/a"].clone();
    write("before");
    let made = client.create_checkpoint(&id, Some("first")).await.unwrap();
    assert!(
        made.name == "first" && made.size_bytes > 0 && made.created_at.ends_with('Z'),
        "{made:?}"
    );
    write("after");
    let second = client.create_checkpoint(&id, None).await.unwrap().name;
    assert!(
        second.starts_with("checkpoint-") && second.len() == 19,
        "{second}"
    );
    let names: Vec<String> = client
        .checkpoints(&id)
        .await
        .unwrap()
        .into_iter()
        .map(|one| one.name)
        .collect();
    assert_eq!(names, ["first".to_owned(), second]);

    let sandbox = client.rollback(&id, "first").await.unwrap();
    assert_eq!(
        (sandbox.id.as_str(), sandbox.status, read().as_slice()),
        (id.as_str(), SandboxStatus::Running, &b"before"[..])
    );
    client.pause(&id).await.unwrap();
    write("while paused");
    assert_eq!(
        client.rollback(&id, "first").await.unwrap().status,
        SandboxStatus::Paused
    );
    assert_eq!(read(), b"before");

    client.delete_checkpoint(&id, "first").await.unwrap();
    assert_eq!(client.checkpoints(&id).await.unwrap().len(), 1);
    assert!(
        client
            .delete_checkpoint(&id, "first")
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert!(
        client
            .rollback(&id, "first")
            .await
            .unwrap_err()
            .is_not_found()
    );
}

#[tokio::test]
async fn refusals_say_what_is_wrong() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let path = format!("/v1/sandboxes/{id}/checkpoints");
    for (body, said) in [
        (r#"{"name": "../x"}"#, "a-z"),
        (r#"{"name": ""}"#, "a-z"),
        (r#"{"nmae": "x"}"#, "nmae"),
    ] {
        assert!(
            refused(plane.post(&path, body), 400, "invalid_request")
                .await
                .contains(said),
            "{body}"
        );
    }
    plane
        .client()
        .create_checkpoint(&id, Some("first"))
        .await
        .unwrap();
    let message = refused(plane.post(&path, r#"{"name": "first"}"#), 409, "conflict").await;
    assert!(message.contains("first"), "{message}");
    for name in ["none", "A", "%2E%2E"] {
        refused(
            plane.request(Method::DELETE, &format!("{path}/{name}")),
            404,
            "not_found",
        )
        .await;
        refused(
            plane.request(Method::POST, &format!("{path}/{name}/rollback")),
            404,
            "not_found",
        )
        .await;
    }
    host.fail_next(
        "RollbackSandbox",
        ConnectError::internal("the guest did not answer"),
    );
    let rollback = plane.request(Method::POST, &format!("{path}/first/rollback"));
    refused(rollback, 502, "agent_error").await;
    host.fail_next(
        "CreateCheckpoint",
        ConnectError::resource_exhausted("the disk of the host is full"),
    );
    refused(plane.post(&path, "{}"), 507, "insufficient_storage").await;
    assert_eq!(plane.client().checkpoints(&id).await.unwrap().len(), 1);
    host.stop();
    refused(plane.request(Method::GET, &path), 503, "host_unavailable").await;
}

#[tokio::test]
async fn database_lost_after_rollback_is_ambiguous() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let path = format!("/v1/sandboxes/{id}/checkpoints");
    let created = plane.post(&path, r#"{"name": "first"}"#).send().await;
    assert_eq!(created.unwrap().status(), 201);
    let gate = host.hold_next("RollbackSandbox");
    let request = plane.request(Method::POST, &format!("{path}/first/rollback"));
    let rollback = tokio::spawn(refused(request, 502, "agent_error"));
    gate.wait_until_reached().await;
    plane.store.close().await;
    gate.open();
    let message = rollback.await.unwrap();
    assert!(message.contains("rollback is done"), "{message}");
}
