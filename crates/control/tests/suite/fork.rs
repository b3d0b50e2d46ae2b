//! Forks: all children, or none.

use api_types::{CreateSandbox, SandboxStatus};
use connectrpc::ConnectError;
use reqwest::Method;

use crate::support::{eventually, one, refused};

#[tokio::test]
async fn children_begin_with_what_their_source_has() {
    let (host, _ground, plane) = one().await;
    let client = plane.client();
    let spec = CreateSandbox {
        vcpus: Some(2),
        memory_mb: Some(256),
        auto_resume: Some(false),
        ..Default::default()
    };
    let id = client.create(&spec).await.unwrap().id;
    let written = |id: &str| {
        host.world().sandboxes[id]
            .content
            .files
            .get("/tmp/a")
            .cloned()
    };
    host.world()
        .sandboxes
        .get_mut(&id)
        .unwrap()
        .content
        .files
        .insert("/tmp/a".into(), b"source".to_vec());
    let children = client.fork(&id, 3).await.unwrap();
    assert_eq!(children.len(), 3);
    for child in &children {
        assert_eq!(
            (child.status, child.vcpus, child.auto_resume),
            (SandboxStatus::Running, 2, false)
        );
        assert_eq!(written(&child.id).unwrap(), b"source");
        host.world()
            .sandboxes
            .get_mut(&child.id)
            .unwrap()
            .content
            .files
            .insert("/tmp/a".into(), b"child".to_vec());
    }
    assert_eq!(written(&id).unwrap(), b"source");
    // Without a body it is one; and a paused sandbox stays paused.
    client.pause(&id).await.unwrap();
    let answer = plane
        .request(Method::POST, &format!("/v1/capsules/{id}/fork"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(
        answer
            .json::<Vec<api_types::Sandbox>>()
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(client.get(&id).await.unwrap().status, SandboxStatus::Paused);
    client.delete(&id).await.unwrap();
    assert_eq!(client.list_all().await.unwrap().len(), 4);
}

#[tokio::test]
async fn wrong_counts_are_refused() {
    let (host, _ground, plane) = one().await;
    let path = format!("/v1/sandboxes/{}/fork", plane.create().await.id);
    for (body, said) in [
        (r#"{"count": 0}"#, "32"),
        (r#"{"count": 33}"#, "32"),
        (r#"{"count": -1}"#, "count"),
        (r#"{"number": 2}"#, "number"),
        ("[2]", "object"),
    ] {
        assert!(
            refused(plane.post(&path, body), 400, "invalid_request")
                .await
                .contains(said),
            "{body}"
        );
    }
    assert_eq!(host.world().sandboxes.len(), 1);
}

#[tokio::test]
async fn a_fork_that_fails_leaves_nothing() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let path = format!("/v1/sandboxes/{id}/fork");
    for place in ["ForkSandbox", "Children"] {
        host.fail_next(
            place,
            ConnectError::internal("the second child did not answer"),
        );
        let message = refused(plane.post(&path, r#"{"count": 3}"#), 502, "agent_error").await;
        assert!(message.contains("second child"), "{message}");
        assert_eq!(plane.store.sandbox_list_all().await.unwrap().len(), 1);
    }
    host.world().is_full = true;
    refused(
        plane.post(&path, r#"{"count": 3}"#),
        503,
        "host_unavailable",
    )
    .await;
    assert_eq!(
        (
            plane.store.sandbox_list_all().await.unwrap().len(),
            host.world().sandboxes.len()
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn a_host_that_dies_in_the_middle_leaves_nothing() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let gate = host.hold_next("Children");
    let request = plane.post(&format!("/v1/sandboxes/{id}/fork"), r#"{"count": 2}"#);
    let fork = tokio::spawn(refused(request, 502, "agent_error"));
    gate.wait_until_reached().await;
    host.stop();
    fork.await.unwrap();
    host.restart();
    eventually("no child", || async {
        (plane.store.sandbox_list_all().await.unwrap().len() == 1
            && host.world().sandboxes.len() == 1)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_child_that_is_deleted_meanwhile_takes_the_others_with_it() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let gate = host.hold_next("Children");
    let path = format!("/v1/sandboxes/{id}/fork");
    let request = plane.post(&path, r#"{"count": 3}"#);
    let fork = tokio::spawn(async move { request.send().await.unwrap().status().as_u16() });
    gate.wait_until_reached().await;
    let all = plane.client().list_all().await.unwrap();
    let child = all.iter().find(|sandbox| sandbox.id != id).unwrap();
    assert_eq!(child.status, SandboxStatus::Pending);
    plane.client().delete(&child.id).await.unwrap();
    gate.open();
    assert!(fork.await.unwrap() >= 400);
    assert_eq!(
        (
            plane.store.sandbox_list_all().await.unwrap().len(),
            host.world().sandboxes.len()
        ),
        (1, 1)
    );
}

/// As with a create: what the host makes is known, all of it.
#[tokio::test]
async fn a_control_plane_killed_in_the_middle_finds_all_children_or_none() {
    for is_made in [true, false] {
        let (host, ground, plane) = one().await;
        let id = plane.create().await.id;
        let gate = host.hold_next("Children");
        let request = plane.post(&format!("/v1/sandboxes/{id}/fork"), r#"{"count": 3}"#);
        let fork = tokio::spawn(async move { request.send().await });
        gate.wait_until_reached().await;
        plane.kill();
        assert!(fork.await.unwrap().is_err());
        let plane = ground.start(&[&host]).await;
        assert_eq!(plane.client().list_all().await.unwrap().len(), 4);
        if !is_made {
            // The host dies as well, and removes what was half made when it starts.
            host.stop();
            host.world().sandboxes.retain(|other, _| *other == id);
            host.restart();
        }
        gate.open();
        let left = if is_made { 4 } else { 1 };
        eventually("all or none", || async {
            let all = plane.client().list_all().await.unwrap();
            (all.len() == left
                && all
                    .iter()
                    .all(|sandbox| sandbox.status == SandboxStatus::Running))
            .then_some(())
        })
        .await;
    }
}

/// All of them are in one answer of the host.
#[tokio::test]
async fn children_with_large_specs_are_made() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let spec = crate::reconcile::largest_spec();
    let entries = spec.network.allow_out.len();
    host.world().sandboxes.get_mut(&id).unwrap().spec = spec;
    let children = plane.client().fork(&id, 32).await.unwrap();
    assert_eq!(children.len(), 32);
    for child in children {
        assert_eq!(child.network.allow_out.len(), entries);
    }
}
