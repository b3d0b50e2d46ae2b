//! Names, labels, filters, changes and ends of sandboxes.

use std::collections::BTreeMap;

use api_types::{CreateSandbox, IfExists, OnTimeout, Sandbox, SandboxStatus, StopReason};
use host_rpc::SandboxState;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::host::FakeHost;
use time::format_description::well_known::Rfc3339;

use crate::support::{Ground, Plane, eventually, one, refused};

fn named(name: &str) -> CreateSandbox {
    CreateSandbox {
        name: Some(name.to_owned()),
        ..CreateSandbox::default()
    }
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn soon(ms: i64) -> String {
    let time = time::OffsetDateTime::now_utc() + time::Duration::milliseconds(ms);
    time.format(&Rfc3339).unwrap()
}

async fn patch(plane: &Plane, id: &str, body: Value) -> reqwest::Response {
    let request = plane.request(Method::PATCH, &format!("/v1/sandboxes/{id}"));
    request.json(&body).send().await.unwrap()
}

async fn patched(plane: &Plane, id: &str, body: Value) -> Sandbox {
    let answer = patch(plane, id, body).await;
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

async fn listed(plane: &Plane, query: &str) -> Vec<String> {
    let request = plane.request(Method::GET, &format!("/v1/sandboxes?{query}"));
    let listed: Vec<Sandbox> = request.send().await.unwrap().json().await.unwrap();
    listed.into_iter().map(|sandbox| sandbox.id).collect()
}

async fn wait_for_status(plane: &Plane, id: &str, status: SandboxStatus) -> Sandbox {
    eventually("the status", || async {
        let sandbox = plane.client().get(id).await.unwrap();
        (sandbox.status == status).then_some(sandbox)
    })
    .await
}

#[tokio::test]
async fn name_stands_for_id_while_living() {
    let (host, _ground, plane) = one().await;
    let client = plane.client();
    let made = client.create(&named("web-1")).await.unwrap();
    assert_eq!(made.name.as_deref(), Some("web-1"));
    assert_eq!(client.get("web-1").await.unwrap().id, made.id);
    assert_eq!(client.pause("web-1").await.unwrap().id, made.id);
    assert_eq!(client.resume("web-1").await.unwrap().name, made.name);
    let taken = plane.post("/v1/sandboxes", r#"{"name": "web-1"}"#);
    let message = refused(taken, 409, "conflict").await;
    assert!(
        message.contains(&made.id) && message.contains("if_exists"),
        "{message}"
    );
    for name in ["none", "Web", "sb-none"] {
        let path = format!("/v1/sandboxes/{name}");
        refused(plane.request(Method::GET, &path), 404, "not_found").await;
    }
    for name in ["sb-x", "A", "a.b", ""] {
        let body = json!({ "name": name }).to_string();
        refused(plane.post("/v1/sandboxes", body), 400, "invalid_request").await;
    }

    host.set_state(&made.id, SandboxState::SANDBOX_STATE_ERROR, "broken");
    wait_for_status(&plane, &made.id, SandboxStatus::Error).await;
    let path = "/v1/sandboxes/web-1";
    let message = refused(plane.request(Method::DELETE, path), 404, "not_found").await;
    assert!(message.contains("found by its id"), "{message}");
    let other = client.create(&named("web-1")).await.unwrap();
    client.delete("web-1").await.unwrap();
    assert!(client.get(&other.id).await.is_err());
    assert_eq!(client.get(&made.id).await.unwrap().name, made.name);
}

#[tokio::test]
async fn filters_pages_and_counts_agree() {
    let (host, _ground, plane) = one().await;
    host.world().templates.push("other".to_owned());
    let client = plane.client();
    let mut ids = Vec::new();
    for n in 0..5 {
        let env = if n % 2 == 0 { "prod" } else { "test" };
        let spec = CreateSandbox {
            labels: labels(&[("env", env), ("n", &n.to_string())]),
            template: (n == 3).then(|| "other".to_owned()),
            ..named(&format!("web-{n}"))
        };
        ids.insert(0, client.create(&spec).await.unwrap().id);
    }
    client.pause(&ids[0]).await.unwrap();
    for (query, expected) in [
        ("label=env%3Dprod", vec![0, 2, 4]),
        ("label=env", vec![0, 1, 2, 3, 4]),
        ("label=env%3Dtest&label=n%3D1", vec![3]),
        ("label=env%3Dnone", vec![]),
        ("status=paused", vec![0]),
        (
            "status=paused&status=running&label=env%3Dprod",
            vec![0, 2, 4],
        ),
        ("template=other", vec![1]),
        ("name_prefix=web-4", vec![0]),
        ("name_prefix=web-&status=running", vec![1, 2, 3, 4]),
    ] {
        let expected: Vec<String> = expected
            .into_iter()
            .map(|n: usize| ids[n].clone())
            .collect();
        assert_eq!(listed(&plane, query).await, expected, "{query}");
        let count = plane.request(Method::GET, &format!("/v1/sandboxes/count?{query}"));
        let count: Value = count.send().await.unwrap().json().await.unwrap();
        assert_eq!(count["count"], expected.len(), "{query}");
    }
    let first = plane.request(Method::GET, "/v1/sandboxes?label=env%3Dprod&limit=2");
    let first = first.send().await.unwrap();
    let next = first.headers()["x-next-cursor"]
        .to_str()
        .unwrap()
        .to_owned();
    let rest = listed(&plane, &format!("label=env%3Dprod&limit=2&cursor={next}")).await;
    assert_eq!(rest, [ids[4].clone()]);
    let wrong = plane.request(Method::GET, "/v1/sandboxes/count?limit=3");
    refused(wrong, 400, "invalid_request").await;
}

#[tokio::test]
async fn changes_hold_for_host_that_returns() {
    let (host, ground, plane) = one().await;
    let made = plane.create().await;
    let body = json!({
        "name": "web", "labels": {"env": "prod", "old": "1"}, "timeout_sec": 77, "on_timeout": "kill",
        "auto_resume": false,
    });
    let changed = patched(&plane, &made.id, body).await;
    let idle = (changed.timeout_sec, changed.on_timeout, changed.auto_resume);
    assert_eq!(idle, (77, OnTimeout::Kill, false));
    let on_host = |id: &str| host.world().sandboxes[id].spec.timeout_sec;
    assert_eq!(on_host(&made.id), 77, "the host was told before the answer");

    // Paused, and with a host that does not answer, it is changed as well.
    plane.client().pause(&made.id).await.unwrap();
    let away = connectrpc::ConnectError::unavailable("away");
    host.fail_next("UpdateSandbox", away);
    let body = json!({"labels": {"old": null, "new": "2"}, "timeout_sec": 99});
    let changed = patched(&plane, "web", body).await;
    assert_eq!(changed.labels, labels(&[("env", "prod"), ("new", "2")]));
    assert_eq!((changed.timeout_sec, changed.auto_resume), (99, false));
    plane.kill();
    let plane = ground.start(&[&host]).await;
    let learned = || async { (on_host(&made.id) == 99).then_some(()) };
    eventually("the host to learn of it", learned).await;
    let found = plane.client().get("web").await.unwrap();
    assert_eq!(found.labels, changed.labels);

    let other = plane.create().await;
    let taken = patch(&plane, &other.id, json!({"name": "web"})).await;
    assert_eq!(taken.status(), 409);
    let unnamed = patched(&plane, "web", json!({"name": null})).await;
    assert_eq!(unnamed.name, None);
    let renamed = patched(&plane, &other.id, json!({"name": "web"})).await;
    assert_eq!(renamed.labels, labels(&[]));
    for wrong in [
        json!({"timeout_sec": 0}),
        json!({"labels": {"a b": "1"}}),
        json!({"ends_at": "tomorrow"}),
        json!({"ends_at": "2020-01-01T00:00:00Z"}),
        json!({"vcpus": 2}),
    ] {
        let answer = patch(&plane, &other.id, wrong.clone()).await;
        assert_eq!(answer.status(), 400, "{wrong}");
    }
}

#[tokio::test]
async fn forks_copy_labels_not_name() {
    let (_host, _ground, plane) = one().await;
    let spec = CreateSandbox {
        labels: labels(&[("env", "prod")]),
        ..named("web")
    };
    plane.client().create(&spec).await.unwrap();
    let children = plane.client().fork("web", 2).await.unwrap();
    for child in children {
        assert_eq!((&child.labels, child.name), (&spec.labels, None));
    }
}

#[tokio::test]
async fn end_stops_sandbox_in_every_state() {
    let (host, _ground, plane) = one().await;
    let client = plane.client();
    let spec = CreateSandbox {
        ends_at: Some(soon(3_600_000)),
        ..CreateSandbox::default()
    };
    let running = client.create(&spec).await.unwrap();
    let paused = client.create(&spec).await.unwrap();
    client.pause(&paused.id).await.unwrap();
    for id in [&running.id, &paused.id] {
        patched(&plane, id, json!({"ends_at": soon(300)})).await;
    }
    for id in [&running.id, &paused.id] {
        let ended = wait_for_status(&plane, id, SandboxStatus::Stopped).await;
        assert_eq!(ended.stop_reason, Some(StopReason::EndTime));
        eventually("its host ends it", || async {
            let state = host.world().sandboxes[id].state;
            (state == SandboxState::SANDBOX_STATE_STOPPED).then_some(())
        })
        .await;
        let late = patch(&plane, id, json!({"ends_at": soon(1000)})).await;
        assert_eq!(late.status(), 409);
    }
}

#[tokio::test]
async fn end_that_came_while_down_holds() {
    let (host, ground, plane) = one().await;
    let made = plane.create().await;
    let end = soon(300);
    patched(&plane, &made.id, json!({ "ends_at": end })).await;
    plane.kill();
    let away = connectrpc::ConnectError::unavailable("away");
    host.fail_next("StopSandbox", away);
    eventually("the end to come", || async {
        (soon(0) > end).then_some(())
    })
    .await;
    let state = host.world().sandboxes[&made.id].state;
    assert_eq!(state, SandboxState::SANDBOX_STATE_RUNNING);
    let plane = ground.start(&[&host]).await;
    let ended = wait_for_status(&plane, &made.id, SandboxStatus::Stopped).await;
    assert_eq!(ended.stop_reason, Some(StopReason::EndTime));
    // The host did not answer at first, and is told again.
    eventually("its host ends it", || async {
        let reason = host.world().sandboxes[&made.id].stop_reason;
        (reason == host_rpc::StopReason::STOP_REASON_END_TIME).then_some(())
    })
    .await;
}

#[tokio::test]
async fn creates_of_one_name_meet() {
    let host = FakeHost::start();
    let ground = Ground::new().await;
    let planes = [ground.start(&[&host]).await, ground.start(&[&host]).await];
    let spec = CreateSandbox {
        if_exists: Some(IfExists::Return),
        ..named("web")
    };
    let creates = (0..8).map(|n| {
        let client = planes[n % 2].client();
        let spec = spec.clone();
        async move { client.create(&spec).await.unwrap().id }
    });
    let mut ids = futures::future::join_all(creates).await;
    ids.dedup();
    assert_eq!(ids.len(), 1, "one sandbox for all");
    assert_eq!(host.world().sandboxes.len(), 1);

    let ask = |more: &str| {
        let body = format!(r#"{{"name": "web", "if_exists": "return", "vcpus": {more}}}"#);
        planes[0].post("/v1/sandboxes", body)
    };
    assert_eq!(ask("1").send().await.unwrap().status(), 200);
    let message = refused(ask("2"), 409, "conflict").await;
    assert!(message.contains("other vcpus"), "{message}");
    let nameless = planes[0].post("/v1/sandboxes", r#"{"if_exists": "return"}"#);
    refused(nameless, 400, "invalid_request").await;

    planes[1].client().delete("web").await.unwrap();
    let new = planes[0].client().create(&spec).await.unwrap();
    assert_ne!(new.id, ids[0]);
}
