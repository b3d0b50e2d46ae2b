//! Rows and hosts come to agree, whatever was lost in between.

use api_types::{Health, SandboxStatus};
use host_rpc::SandboxState;
use model::{SandboxId, SandboxSpec};
use reqwest::Method;
use sha2::{Digest, Sha256};
use store::{Idempotency, Inserted, NewSandbox};
use testkit::host::FakeHost;

use crate::support::{Ground, Plane, eventually, one};

async fn status(plane: &Plane, id: &str) -> SandboxStatus {
    plane.client().get(id).await.unwrap().status
}

#[tokio::test]
async fn a_control_plane_killed_in_the_middle_of_a_create_finds_the_sandbox_again() {
    let (host, ground, plane) = one().await;
    let gate = host.hold_next("Boot");
    let request = plane.post("/v1/sandboxes", "{}");
    let create = tokio::spawn(async move { request.send().await });
    gate.wait_until_reached().await;
    plane.kill();
    assert!(create.await.unwrap().is_err());
    let plane = ground.start(&[&host]).await;
    assert_eq!(
        plane.client().list_all().await.unwrap()[0].status,
        SandboxStatus::Pending
    );
    gate.open();
    let id = eventually("the sandbox running", || async {
        let all = plane.client().list_all().await.unwrap();
        all.into_iter()
            .find(|sandbox| sandbox.status == SandboxStatus::Running)
    })
    .await
    .id;
    let request = api_types::ExecRequest {
        cmd: "print".into(),
        args: vec!["alive".into()],
        ..Default::default()
    };
    assert_eq!(
        plane.client().exec(&id, &request).await.unwrap().stdout,
        "alive"
    );
}

#[tokio::test]
async fn what_a_host_made_while_nobody_looked_is_known_after_a_restart() {
    let (host, ground, plane) = one().await;
    let gate = host.hold_next("Boot");
    let request = plane.post("/v1/sandboxes", "{}");
    tokio::spawn(async move { request.send().await });
    gate.wait_until_reached().await;
    plane.kill();
    gate.open();
    eventually("the boot", || async {
        host.world()
            .sandboxes
            .values()
            .all(|sandbox| sandbox.state == SandboxState::SANDBOX_STATE_RUNNING)
            .then_some(())
    })
    .await;
    let plane = ground.start(&[&host]).await;
    assert_eq!(
        plane.client().list_all().await.unwrap()[0].status,
        SandboxStatus::Running
    );
}

/// A row as a control plane leaves it that dies before it has asked a host.
async fn abandoned(ground: &Ground, age_ms: i64) -> SandboxId {
    abandoned_with(ground, age_ms, None).await
}

async fn abandoned_with(ground: &Ground, age_ms: i64, key: Option<&str>) -> SandboxId {
    let spec = SandboxSpec::builder().build();
    let now = stdx::time::now_ms() - age_ms;
    let fingerprint = Sha256::digest(serde_json::to_vec(&spec).unwrap()).into();
    let idempotency = key.map(|key| Idempotency {
        key: key.to_owned(),
        fingerprint,
    });
    let new = NewSandbox {
        id: SandboxId::random(),
        team_id: model::TeamId::default(),
        spec,
        attributes: model::SandboxAttributes::default(),
        key_id: ground.key_id.clone(),
        idempotency,
        now,
    };
    let store = ground.store().await;
    assert!(matches!(
        store.sandbox_insert(&new).await.unwrap(),
        Inserted::New(_)
    ));
    store.close().await;
    new.id
}

#[tokio::test]
async fn rows_that_no_host_was_asked_for_go_away() {
    let host = FakeHost::start();
    let ground = Ground::new().await;
    let old = abandoned(&ground, 31_000).await;
    let young = abandoned(&ground, 0).await;
    let plane = ground.start(&[&host]).await;
    eventually("the old row gone", || async {
        plane
            .store
            .sandbox_get_any_team(&old)
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    // Another control plane may be at work on it.
    assert_eq!(status(&plane, young.as_str()).await, SandboxStatus::Pending);
    // But a user need not wait.
    plane.client().delete(young.as_str()).await.unwrap();
    assert_eq!(plane.store.sandbox_list_all().await.unwrap().len(), 0);
}

/// A sandbox whose row is gone.
async fn deleted(ground: &Ground) -> SandboxId {
    let id = abandoned(ground, 0).await;
    let store = ground.store().await;
    let now = stdx::time::now_ms();
    assert!(store.sandbox_remove(&id, now).await.unwrap());
    store.close().await;
    id
}

fn add(host: &FakeHost, id: &SandboxId) {
    let running = SandboxState::SANDBOX_STATE_RUNNING;
    let spec = host_rpc::SandboxSpec::default();
    host.world().add(id.as_str(), running, spec);
}

/// Between the look at the rows and what is done about them.
#[tokio::test]
async fn create_finished_during_reconcile_is_kept() {
    let a = FakeHost::start_as("host-a");
    let b = FakeHost::start_as("host-b");
    b.world().is_full = true;
    let ground = Ground::new().await;
    add(&b, &deleted(&ground).await);
    let old = abandoned_with(&ground, 31_000, Some("again")).await;
    let gates = [a.hold_next("ListSandboxes"), b.hold_next("ListSandboxes")];
    let plane = ground.start(&[&a, &b]).await;
    for gate in &gates {
        gate.wait_until_reached().await;
    }
    let again = plane
        .post("/v1/sandboxes", "{}")
        .header("idempotency-key", "again")
        .send()
        .await
        .unwrap();
    assert_eq!(again.status(), 201);
    assert_eq!(
        again.json::<api_types::Sandbox>().await.unwrap().id,
        old.as_str()
    );
    gates.iter().for_each(testkit::host::Gate::open);
    // The last thing that is done for that host.
    eventually("the deleted one gone", || async {
        b.world().sandboxes.is_empty().then_some(())
    })
    .await;
    assert_eq!(status(&plane, old.as_str()).await, SandboxStatus::Running);
}

#[tokio::test]
async fn a_double_on_another_host_goes_and_the_sandbox_stays() {
    let a = FakeHost::start_as("host-a");
    let b = FakeHost::start_as("host-b");
    b.world().is_full = true;
    let ground = Ground::new().await;
    let plane = ground.start(&[&a, &b]).await;
    let id = plane.create().await.id;
    plane.stop().await;
    // Older than what the row has.
    b.world().add(
        &id,
        SandboxState::SANDBOX_STATE_RUNNING,
        host_rpc::SandboxSpec::default(),
    );
    b.world().sandboxes.get_mut(&id).unwrap().generation = 2;
    let plane = ground.start(&[&a, &b]).await;
    eventually("the double gone", || async {
        b.world().sandboxes.is_empty().then_some(())
    })
    .await;
    // Reports come in order: when this one is heard of, so is the removal.
    b.world().is_full = false;
    a.world().is_full = true;
    let other = plane.create().await.id;
    b.set_state(&other, SandboxState::SANDBOX_STATE_STOPPED, "idle");
    eventually("the report", || async {
        (status(&plane, &other).await == SandboxStatus::Stopped).then_some(())
    })
    .await;
    assert_eq!(status(&plane, &id).await, SandboxStatus::Running);
}

#[tokio::test]
async fn half_made_sandboxes_that_a_host_gives_up_go_away() {
    let (host, _ground, plane) = one().await;
    let gate = host.hold_next("Boot");
    let request = plane.post("/v1/sandboxes", "{}");
    let create = tokio::spawn(async move { request.send().await.unwrap().status().as_u16() });
    gate.wait_until_reached().await;
    let id = plane.client().list_all().await.unwrap()[0].id.clone();
    host.stop();
    host.forget(&id);
    assert_eq!(create.await.unwrap(), 502);
    host.restart();
    eventually("the row gone", || async {
        (plane.store.sandbox_list_all().await.unwrap().is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_host_that_restarts_tells_what_it_lost() {
    let (host, _ground, plane) = one().await;
    let kept = plane.create().await.id;
    let lost = plane.create().await.id;
    let stopped = plane.create().await.id;
    host.set_state(&stopped, SandboxState::SANDBOX_STATE_STOPPED, "idle");
    eventually("the report", || async {
        (status(&plane, &stopped).await == SandboxStatus::Stopped).then_some(())
    })
    .await;
    host.stop();
    host.forget(&lost);
    host.forget(&stopped);
    host.restart();
    let sandbox = eventually("the loss", || async {
        Some(plane.client().get(&lost).await.unwrap())
            .filter(|sandbox| sandbox.status == SandboxStatus::Error)
    })
    .await;
    assert!(sandbox.reason.unwrap().contains("no longer knows it"));
    assert_eq!(status(&plane, &kept).await, SandboxStatus::Running);
    assert_eq!(
        plane
            .client()
            .get(&stopped)
            .await
            .unwrap()
            .reason
            .as_deref(),
        Some("idle"),
        "an end stays an end"
    );
    for id in [kept, lost, stopped] {
        plane.client().delete(&id).await.unwrap();
    }
}

#[tokio::test]
async fn a_loss_that_is_reported_is_an_error_at_once() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    host.lose(&id);
    eventually("the loss", || async {
        (status(&plane, &id).await == SandboxStatus::Error).then_some(())
    })
    .await;
    plane.client().delete(&id).await.unwrap();
}

#[tokio::test]
async fn deleted_sandbox_is_removed_from_late_host() {
    let host = FakeHost::start();
    let ground = Ground::new().await;
    let deleted = deleted(&ground).await;
    // That of another database. It comes first in a round.
    let foreign: SandboxId = "sb-00000000000000000000".parse().unwrap();
    add(&host, &deleted);
    add(&host, &foreign);
    let plane = ground.start(&[&host]).await;
    let ours = plane.create().await.id;
    eventually("the deleted one gone", || async {
        (!host.world().sandboxes.contains_key(deleted.as_str())).then_some(())
    })
    .await;
    assert_eq!(status(&plane, &ours).await, SandboxStatus::Running);
    assert!(host.world().sandboxes.contains_key(foreign.as_str()));
}

#[tokio::test]
async fn lost_sandbox_returns_with_its_host() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    host.stop();
    let gone = host.world().sandboxes.remove(&id).unwrap();
    host.restart();
    eventually("the loss", || async {
        (status(&plane, &id).await == SandboxStatus::Error).then_some(())
    })
    .await;
    // As an agent that was started over another directory, and now over the right one.
    host.stop();
    host.world().sandboxes.insert(id.clone(), gone);
    host.restart();
    let sandbox = eventually("the return", || async {
        let sandbox = plane.client().get(&id).await.unwrap();
        (sandbox.status == SandboxStatus::Running).then_some(sandbox)
    })
    .await;
    assert_eq!((sandbox.reason, sandbox.stop_reason), (None, None));
    plane.client().pause(&id).await.unwrap();
    assert_eq!(status(&plane, &id).await, SandboxStatus::Paused);
}

#[tokio::test]
async fn sandboxes_of_a_host_that_left_for_good_are_errors() {
    let (old, ground, plane) = one().await;
    let id = plane.create().await.id;
    plane.stop().await;
    drop(old);
    let new = FakeHost::start_as("host-b");
    let plane = ground.start(&[&new]).await;
    eventually("the error", || async {
        (status(&plane, &id).await == SandboxStatus::Error).then_some(())
    })
    .await;
    let gone = plane
        .request(Method::DELETE, &format!("/v1/sandboxes/{id}"))
        .send()
        .await
        .unwrap()
        .status()
        .as_u16();
    assert!(gone == 204 || gone == 503, "{gone}");
    eventually("the row gone", || async {
        (plane.store.sandbox_list_all().await.unwrap().is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn health_says_when_the_host_is_away() {
    let (host, _ground, plane) = one().await;
    let health = || async {
        plane
            .bare(Method::GET, "/health")
            .send()
            .await
            .unwrap()
            .json::<Health>()
            .await
            .unwrap()
    };
    assert_eq!(health().await.status, "ok");
    host.stop();
    eventually("degraded", || async {
        (health().await.status == "degraded").then_some(())
    })
    .await;
    host.restart();
    eventually("ok again", || async {
        (health().await.status == "ok").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_control_plane_ends_in_good_order_with_streams_open() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let mut logs = plane.client().logs(&id, true).await.unwrap();
    assert!(logs.next().await.unwrap().is_some());
    let client = plane.client();
    let (_input, mut output) = client
        .exec_stream(
            &id,
            client::ExecStart {
                cmd: "sleep".into(),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    assert!(output.next().await.unwrap().is_some());
    plane.stop().await;
    let error = output.next().await.unwrap_err();
    assert_eq!(error.code(), Some("host_unavailable"), "{error}");
    assert!(
        host.world().sandboxes.contains_key(&id),
        "sandboxes go on running"
    );
}

/// Rules about as many names as a sandbox may have, of about 250 bytes each.
fn largest_rules() -> host_rpc::NetworkRules {
    let label = "x".repeat(60);
    let name = |number: usize| format!("{number}.{label}.{label}.{label}.{label}.test");
    let names = || (0..model::NetworkSpec::MAX_ENTRIES).map(name).collect();
    host_rpc::NetworkRules {
        allow_out: names(),
        deny_out: names(),
        ..Default::default()
    }
}

/// The largest spec that a sandbox may have: about 250 KiB.
pub fn largest_spec() -> host_rpc::SandboxSpec {
    let text = "x".repeat(60 << 10);
    host_rpc::SandboxSpec {
        template: "minimal".to_owned(),
        vcpus: 1,
        memory_mb: 512,
        timeout_sec: 300,
        envs: [("A".to_owned(), text.clone())].into_iter().collect(),
        network: largest_rules().into(),
        start_command: Some(host_rpc::SupervisedCommand {
            cmd: "true".to_owned(),
            args: vec![text],
            ..Default::default()
        })
        .into(),
        ..Default::default()
    }
}

/// One answer of a host has at most 4 MiB, with or without what is left out of reports.
#[tokio::test]
async fn large_specs_keep_host_reconciled() {
    const COUNT: usize = 64;
    let host = FakeHost::start();
    let ground = Ground::new().await;
    let deleted = deleted(&ground).await;
    add(&host, &deleted);
    for _ in 0..COUNT {
        let id = SandboxId::random();
        let running = SandboxState::SANDBOX_STATE_RUNNING;
        host.world().add(id.as_str(), running, largest_spec());
    }
    let plane = ground.start(&[&host]).await;
    eventually("the deleted one gone", || async {
        (!host.world().sandboxes.contains_key(deleted.as_str())).then_some(())
    })
    .await;
    plane.create().await;

    let token = control::Token::Given(testkit::host::TOKEN.to_owned());
    let url = host.url();
    let hosts = control::hosts::Hosts::new(vec![control::HostAddr { url, token }]);
    let orphans = control::orphans::list_orphans(&plane.store, &hosts.all()[0]).await;
    let orphans = orphans.unwrap();
    assert_eq!(orphans.len(), COUNT);
    for orphan in orphans {
        let spec = orphan.record.spec.unwrap();
        assert_eq!(spec.envs["A"].len(), 60 << 10);
        assert_eq!(spec.start_command.unwrap().args[0].len(), 60 << 10);
    }
}

#[tokio::test]
async fn failed_list_is_no_lost_host() {
    let host = FakeHost::start();
    let ground = Ground::new().await;
    let deleted = deleted(&ground).await;
    add(&host, &deleted);
    for _ in 0..3 {
        let error = connectrpc::ConnectError::resource_exhausted("too many");
        host.fail_next("ListSandboxes", error);
    }
    let plane = ground.start(&[&host]).await;
    eventually("the deleted one gone", || async {
        (!host.world().sandboxes.contains_key(deleted.as_str())).then_some(())
    })
    .await;
    assert_eq!(host.calls("WatchSandboxes"), 1);
    plane.create().await;
}
