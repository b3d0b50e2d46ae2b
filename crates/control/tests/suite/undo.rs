//! Automatic checkpoints, and going back in their history.

use api_types::{AutoCheckpoint, CreateSandbox, UndoSandbox};
use client::EventQuery;
use reqwest::Method;

use crate::support::{eventually, one, refused};

const POLICY: AutoCheckpoint = AutoCheckpoint {
    before_each_command: true,
    every_sec: None,
    keep: 3,
    max_bytes: Some(1 << 30),
};

#[tokio::test]
async fn policy_of_create_can_be_changed() {
    let (host, _ground, plane) = one().await;
    let client = plane.client();
    let spec = CreateSandbox {
        auto_checkpoint: Some(POLICY),
        ..CreateSandbox::default()
    };
    let id = client.create(&spec).await.unwrap().id;
    let policy = async || {
        let policy = client.history(&id).await.unwrap().auto_checkpoint;
        assert_eq!(client.get(&id).await.unwrap().auto_checkpoint, policy);
        policy
    };
    assert_eq!(policy().await, Some(POLICY));
    let other = AutoCheckpoint {
        every_sec: Some(60),
        ..POLICY
    };
    client.set_auto_checkpoint(&id, Some(&other)).await.unwrap();
    assert_eq!(policy().await, Some(other));
    client.set_auto_checkpoint(&id, None).await.unwrap();
    assert_eq!(policy().await, None);
    // As if a control plane had died after the host's answer.
    host.stop();
    let changed = host.world().sandboxes.get_mut(&id).map(|sandbox| {
        let policy = host_rpc::spec::policy_to_message(POLICY.into());
        sandbox.spec.auto_checkpoint = policy.into();
    });
    assert!(changed.is_some());
    host.restart();
    eventually("the row follows", async || {
        let sandbox = client.get(&id).await.unwrap();
        (sandbox.auto_checkpoint == Some(POLICY)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn policy_out_of_bounds_is_refused() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let path = format!("/v1/sandboxes/{id}/auto-checkpoint");
    for (body, part) in [
        ("{}", "before_each_command or every_sec"),
        (r#"{"every_sec": 0}"#, "every_sec from 1 to 86400"),
        (r#"{"every_sec": 1, "keep": 51}"#, "keep from 1 to 50"),
        (r#"{"often": true}"#, "often"),
    ] {
        let put = plane.request(Method::PUT, &path);
        let put = put.header("content-type", "application/json").body(body);
        let message = refused(put, 400, "invalid_request").await;
        assert!(message.contains(part), "{message}");
    }
    let body = r#"{"auto_checkpoint": {}}"#;
    let message = refused(plane.post("/v1/sandboxes", body), 400, "invalid_request").await;
    assert!(message.contains("auto_checkpoint"), "{message}");
}

#[tokio::test]
async fn undo_goes_to_step_or_name() {
    let (_host, _ground, plane) = one().await;
    let client = plane.client();
    let id = plane.create().await.id;
    for name in ["auto-1", "mine", "auto-2"] {
        client.create_checkpoint(&id, Some(name)).await.unwrap();
    }
    let steps = client.history(&id).await.unwrap().steps;
    let names: Vec<&str> = steps.iter().map(|step| &*step.name).collect();
    assert_eq!(names, ["auto-2", "auto-1"]);
    let undone = client.undo(&id, &UndoSandbox::default()).await.unwrap();
    assert_eq!(undone.checkpoint, "auto-2");
    assert_eq!(undone.sandbox.id, id);
    client.rollback(&id, &undone.saved_as).await.unwrap();
    let named = UndoSandbox {
        checkpoint: Some("mine".to_owned()),
        steps: None,
    };
    assert_eq!(client.undo(&id, &named).await.unwrap().checkpoint, "mine");
    let far = UndoSandbox {
        steps: Some(3),
        checkpoint: None,
    };
    assert!(client.undo(&id, &far).await.unwrap_err().is_not_found());
    let path = format!("/v1/sandboxes/{id}/undo");
    let both = r#"{"steps": 1, "checkpoint": "mine"}"#;
    refused(plane.post(&path, both), 400, "invalid_request").await;
    refused(plane.post(&path, r#"{"steps": 0}"#), 400, "invalid_request").await;
    let query = EventQuery {
        kinds: Some("sandbox.rolled_back".to_owned()),
        ..EventQuery::default()
    };
    let events = client.events(&query).await.unwrap().items;
    let gone_back_to: Vec<_> = events.iter().map(|it| &it.data["checkpoint"]).collect();
    assert_eq!(gone_back_to, ["auto-2", &*undone.saved_as, "mine"]);
}
