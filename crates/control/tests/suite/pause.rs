//! Pause and resume, by hand and by themselves.

use api_types::{CreateSandbox, ExecRequest, OnTimeout, PathRequest, SandboxStatus};
use connectrpc::ConnectError;
use host_rpc::SandboxState;
use reqwest::Method;
use testkit::host::FakeHost;

use crate::support::{Plane, eventually, one, refused, wait_until_host_is_away};

fn print(text: &str) -> ExecRequest {
    ExecRequest {
        cmd: "print".into(),
        args: vec![text.into()],
        ..ExecRequest::default()
    }
}

async fn status(plane: &Plane, id: &str) -> SandboxStatus {
    plane.client().get(id).await.unwrap().status
}

fn state(host: &FakeHost, id: &str) -> SandboxState {
    host.world().sandboxes[id].state
}

#[tokio::test]
async fn a_paused_sandbox_goes_on_when_it_is_told_to() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let client = plane.client();
    for _ in 0..2 {
        assert_eq!(
            client.pause(&id).await.unwrap().status,
            SandboxStatus::Paused
        );
        assert_eq!(state(&host, &id), SandboxState::SANDBOX_STATE_PAUSED);
    }
    for _ in 0..2 {
        let sandbox = client.resume(&id).await.unwrap();
        assert_eq!(
            (sandbox.id.as_str(), sandbox.status),
            (id.as_str(), SandboxStatus::Running)
        );
    }
    assert_eq!(
        client.exec(&id, &print("alive")).await.unwrap().stdout,
        "alive"
    );
    let (one, two) = tokio::join!(client.pause(&id), client.pause(&id));
    assert!(
        one.unwrap().status == SandboxStatus::Paused
            && two.unwrap().status == SandboxStatus::Paused
    );
}

#[tokio::test]
async fn programs_and_files_wake_it_where_it_lets_them() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let client = plane.client();
    client.pause(&id).await.unwrap();
    assert_eq!(
        client.exec(&id, &print("awake")).await.unwrap().stdout,
        "awake"
    );
    eventually("running", || async {
        (status(&plane, &id).await == SandboxStatus::Running).then_some(())
    })
    .await;
    client.pause(&id).await.unwrap();
    client
        .stat(
            &id,
            &PathRequest {
                path: "/".into(),
                user: None,
            },
        )
        .await
        .unwrap();
    assert_eq!(state(&host, &id), SandboxState::SANDBOX_STATE_RUNNING);

    let spec = CreateSandbox {
        auto_resume: Some(false),
        on_timeout: Some(OnTimeout::Kill),
        ..Default::default()
    };
    let sandbox = client.create(&spec).await.unwrap();
    assert_eq!(
        (sandbox.auto_resume, sandbox.on_timeout),
        (false, OnTimeout::Kill)
    );
    let told = host.world().sandboxes[&sandbox.id].spec.clone();
    assert!(!told.auto_resume && told.on_timeout == host_rpc::OnTimeout::ON_TIMEOUT_KILL);
    client.pause(&sandbox.id).await.unwrap();
    let path = format!("/v1/sandboxes/{}/exec", sandbox.id);
    let message = refused(
        plane.post(&path, r#"{"cmd": "print"}"#),
        409,
        "invalid_state",
    )
    .await;
    assert!(
        message.contains(&format!("wrenn resume {}", sandbox.id)),
        "{message}"
    );
    assert_eq!(
        state(&host, &sandbox.id),
        SandboxState::SANDBOX_STATE_PAUSED
    );
}

#[tokio::test]
async fn a_pause_that_fails_leaves_it_running() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let path = format!("/v1/sandboxes/{id}/pause");
    host.fail_next(
        "Save",
        ConnectError::resource_exhausted("the disk of the host is full; free some space"),
    );
    let message = refused(
        plane.request(Method::POST, &path),
        507,
        "insufficient_storage",
    )
    .await;
    assert!(
        message.contains("the disk of the host is full"),
        "{message}"
    );
    assert_eq!(status(&plane, &id).await, SandboxStatus::Running);
    host.stop();
    wait_until_host_is_away(&plane).await;
    refused(plane.request(Method::POST, &path), 503, "host_unavailable").await;
}

#[tokio::test]
async fn a_resume_that_fails_leaves_it_paused() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    plane.client().pause(&id).await.unwrap();
    host.fail_next(
        "ResumeSandbox",
        ConnectError::internal("the guest did not answer"),
    );
    let path = format!("/v1/sandboxes/{id}/resume");
    refused(plane.request(Method::POST, &path), 502, "agent_error").await;
    assert_eq!(status(&plane, &id).await, SandboxStatus::Paused);
    plane.client().resume(&id).await.unwrap();
}

#[tokio::test]
async fn what_has_ended_can_be_neither_paused_nor_resumed() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    host.set_state(
        &id,
        SandboxState::SANDBOX_STATE_STOPPED,
        "the guest powered off",
    );
    eventually("the end", || async {
        (status(&plane, &id).await == SandboxStatus::Stopped).then_some(())
    })
    .await;
    for deed in ["pause", "resume", "fork", "checkpoints"] {
        let request = plane.request(Method::POST, &format!("/v1/sandboxes/{id}/{deed}"));
        let message = refused(request, 409, "invalid_state").await;
        assert!(
            message.contains("stopped") && message.contains("powered off"),
            "{deed}: {message}"
        );
        let nobody = plane.request(
            Method::POST,
            &format!("/v1/sandboxes/sb-00000000000000000000/{deed}"),
        );
        refused(nobody, 404, "not_found").await;
    }
}

#[tokio::test]
async fn a_delete_outranks_a_pause_and_ends_a_paused_one() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let gate = host.hold_next("Save");
    let request = plane.request(Method::POST, &format!("/v1/sandboxes/{id}/pause"));
    let pause = tokio::spawn(refused(request, 404, "not_found"));
    gate.wait_until_reached().await;
    plane.client().delete(&id).await.unwrap();
    gate.open();
    pause.await.unwrap();
    let id = plane.create().await.id;
    plane.client().pause(&id).await.unwrap();
    plane.client().delete(&id).await.unwrap();
    assert!(host.world().sandboxes.is_empty());
    assert_eq!(plane.store.sandbox_list_all().await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_pause_goes_on_without_its_client_and_without_us() {
    let (host, ground, plane) = one().await;
    let id = plane.create().await.id;
    let gate = host.hold_next("Save");
    let request = plane.request(Method::POST, &format!("/v1/sandboxes/{id}/pause"));
    let pause = tokio::spawn(async move { request.send().await });
    gate.wait_until_reached().await;
    pause.abort();
    plane.kill();
    gate.open();
    let plane = ground.start(&[&host]).await;
    eventually("paused", || async {
        (status(&plane, &id).await == SandboxStatus::Paused).then_some(())
    })
    .await;
}

#[tokio::test]
async fn paused_rows_are_left_in_peace_while_their_host_has_them() {
    let (host, ground, plane) = one().await;
    let kept = plane.create().await.id;
    let lost = plane.create().await.id;
    plane.client().pause(&kept).await.unwrap();
    plane.client().pause(&lost).await.unwrap();
    plane.stop().await;
    host.forget(&lost);
    let plane = ground.start(&[&host]).await;
    eventually("the loss", || async {
        (status(&plane, &lost).await == SandboxStatus::Error).then_some(())
    })
    .await;
    assert!(
        plane
            .client()
            .get(&lost)
            .await
            .unwrap()
            .reason
            .unwrap()
            .contains("no longer knows it")
    );
    assert_eq!(status(&plane, &kept).await, SandboxStatus::Paused);
    plane.client().resume(&kept).await.unwrap();
}
