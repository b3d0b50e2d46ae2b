//! Creates: what becomes of them, whatever happens in between.

use api_types::{CreateSandbox, SandboxStatus};
use client::Error;
use connectrpc::ConnectError;
use testkit::host::FakeHost;

use crate::support::{Ground, eventually, one, refused, wait_until_host_is_away};

#[tokio::test]
async fn a_sandbox_comes_runs_and_goes() {
    let (host, _ground, plane) = one().await;
    let client = plane.client();
    let envs = [("A".to_owned(), "b=c".to_owned())].into();
    let spec = CreateSandbox {
        vcpus: Some(2),
        memory_mb: Some(256),
        timeout_sec: Some(60),
        envs,
        ..Default::default()
    };
    let sandbox = client.create(&spec).await.unwrap();
    assert_eq!(
        (sandbox.status, sandbox.template.as_str()),
        (SandboxStatus::Running, "minimal")
    );
    assert_eq!(
        (sandbox.vcpus, sandbox.memory_mb, sandbox.timeout_sec),
        (2, 256, 60)
    );
    assert_eq!(
        (sandbox.guest_ip.as_deref(), sandbox.host_ip.as_deref()),
        (Some("169.254.0.21"), Some("10.11.0.1"))
    );
    assert!(
        sandbox.started_at.is_some() && sandbox.created_at.ends_with('Z'),
        "{sandbox:?}"
    );
    assert_eq!(host.world().sandboxes[&sandbox.id].spec.envs["A"], "b=c");
    assert_eq!(client.get(&sandbox.id).await.unwrap().id, sandbox.id);

    client.delete(&sandbox.id).await.unwrap();
    assert!(client.get(&sandbox.id).await.unwrap_err().is_not_found());
    assert!(client.delete(&sandbox.id).await.unwrap_err().is_not_found());
    assert!(client.list_all().await.unwrap().is_empty());
    assert!(host.world().sandboxes.is_empty());
    assert_eq!(plane.store.sandbox_list_all().await.unwrap().len(), 0);
}

#[tokio::test]
async fn defaults_are_the_originals_and_zero_means_the_default_time() {
    let (_host, _ground, plane) = one().await;
    let answer = plane
        .post("/v1/sandboxes", r#"{"timeout_sec": 0, "vcpus": null}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    let sandbox: api_types::Sandbox = answer.json().await.unwrap();
    assert_eq!(
        (sandbox.vcpus, sandbox.memory_mb, sandbox.timeout_sec),
        (1, 512, 300)
    );
}

#[tokio::test]
async fn a_create_that_fails_leaves_nothing() {
    let (host, _ground, plane) = one().await;
    let client = plane.client();
    let any = CreateSandbox::default();
    let create = || client.create(&any);

    let spec = CreateSandbox {
        template: Some("no-such-template".into()),
        ..Default::default()
    };
    let error = client.create(&spec).await.unwrap_err();
    assert!(
        error.is_not_found() && error.to_string().contains("no-such-template"),
        "{error}"
    );
    assert!(
        error.to_string().contains("minimal"),
        "it says what there is: {error}"
    );

    host.fail_next("Boot", ConnectError::internal("the guest did not answer"));
    let error = create().await.unwrap_err();
    assert_eq!(error.code(), Some("agent_error"));
    assert!(
        error.to_string().contains("the guest did not answer"),
        "{error}"
    );

    host.fail_next("EnsureSandbox", ConnectError::internal("out of slots"));
    assert_eq!(create().await.unwrap_err().code(), Some("agent_error"));

    host.world().is_full = true;
    let error = create().await.unwrap_err();
    assert_eq!(error.code(), Some("host_unavailable"));
    assert!(error.to_string().contains("full"), "{error}");

    host.stop();
    wait_until_host_is_away(&plane).await;
    let error = create().await.unwrap_err();
    assert!(matches!(error, Error::Api { status: 503, .. }), "{error:?}");
    assert!(error.to_string().contains("wrenn-agent"), "{error}");

    host.restart();
    eventually("nothing left", || async {
        (plane.store.sandbox_list_all().await.unwrap().is_empty()
            && host.world().sandboxes.is_empty())
        .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_cut_a_create_in_half() {
    let (host, _ground, plane) = one().await;
    let gate = host.hold_next("Boot");
    let request = plane.post("/v1/sandboxes", "{}");
    let create = tokio::spawn(async move { request.send().await });
    gate.wait_until_reached().await;
    create.abort();
    assert!(create.await.unwrap_err().is_cancelled());
    gate.open();
    let sandbox = eventually("the sandbox running", || async {
        plane
            .client()
            .list_all()
            .await
            .unwrap()
            .into_iter()
            .find(|sandbox| sandbox.status == SandboxStatus::Running)
    })
    .await;
    plane.client().delete(&sandbox.id).await.unwrap();
}

#[tokio::test]
async fn a_delete_outranks_a_create() {
    let (host, _ground, plane) = one().await;
    // Before the host has heard of it, and while it boots.
    for place in ["EnsureSandbox", "Boot"] {
        let gate = host.hold_next(place);
        let request = plane.post("/v1/sandboxes", "{}");
        let create = tokio::spawn(refused(request, 409, "conflict"));
        gate.wait_until_reached().await;
        let id = plane.client().list_all().await.unwrap()[0].id.clone();
        plane.client().delete(&id).await.unwrap();
        assert!(plane.client().get(&id).await.unwrap_err().is_not_found());
        gate.open();
        if place == "EnsureSandbox" {
            assert!(create.await.unwrap().contains("deleted"));
        } else {
            // The host says that it does not know it any more.
            let _ = create.await;
        }
        eventually("nothing left", || async {
            host.world().sandboxes.is_empty().then_some(())
        })
        .await;
        assert_eq!(plane.store.sandbox_list_all().await.unwrap().len(), 0);
    }
}

#[tokio::test]
async fn the_next_host_takes_what_the_first_has_no_room_for() {
    let full = FakeHost::start_as("host-a");
    let free = FakeHost::start_as("host-b");
    full.world().is_full = true;
    let ground = Ground::new().await;
    let plane = ground.start(&[&full, &free]).await;
    let sandbox = plane.create().await;
    assert!(free.world().sandboxes.contains_key(&sandbox.id));
    // A host that is away is no obstacle.
    full.stop();
    let second = plane.create().await;
    assert_eq!(free.world().sandboxes.len(), 2);
    plane.client().delete(&second.id).await.unwrap();
    assert_eq!(
        plane.client().get(&sandbox.id).await.unwrap().status,
        SandboxStatus::Running
    );
}

#[tokio::test]
async fn create_asks_host_once() {
    let (host, _ground, plane) = one().await;
    plane.create().await;
    let before = [host.calls("GetHost"), host.calls("ListTemplates")];
    for _ in 0..5 {
        plane.create().await;
    }
    let after = [host.calls("GetHost"), host.calls("ListTemplates")];
    // A round of reconciliation, which reads both, can fall between.
    assert!(
        after[0] <= before[0] + 1 && after[1] <= before[1] + 1,
        "{before:?} {after:?}"
    );
    assert_eq!(host.calls("EnsureSandbox"), 6);
}

#[tokio::test]
async fn create_finds_template_installed_since() {
    let (host, _ground, plane) = one().await;
    plane.create().await;
    host.world().templates.push("fresh".to_owned());
    let create = CreateSandbox {
        template: Some("fresh".to_owned()),
        ..Default::default()
    };
    let sandbox = plane.client().create(&create).await.unwrap();
    assert_eq!(sandbox.template, "fresh");
}
