//! Snapshots: templates that are made of sandboxes.

use api_types::{CreateSandbox, CreateSnapshot, SandboxStatus, Template, TemplateKind};
use connectrpc::ConnectError;
use reqwest::Method;
use testkit::host::FakeHost;

use crate::support::{Ground, Plane, one, refused, wait_until_host_is_away};

fn snapshot(id: &str, name: &str) -> CreateSnapshot {
    CreateSnapshot {
        sandbox_id: id.to_owned(),
        name: Some(name.to_owned()),
        memory: None,
        overwrite: None,
    }
}

fn from(template: &str) -> CreateSandbox {
    CreateSandbox {
        template: Some(template.to_owned()),
        ..CreateSandbox::default()
    }
}

/// A sandbox with 2 vCPUs and 256 MiB, and its snapshot `ready`.
async fn ready(host: &FakeHost, plane: &Plane) -> (String, Template) {
    let spec = CreateSandbox {
        vcpus: Some(2),
        memory_mb: Some(256),
        ..Default::default()
    };
    let id = plane.client().create(&spec).await.unwrap().id;
    host.world()
        .sandboxes
        .get_mut(&id)
        .unwrap()
        .content
        .files
        .insert("/tmp/a".into(), b"kept".to_vec());
    let made = plane
        .client()
        .create_snapshot(&snapshot(&id, "ready"))
        .await
        .unwrap();
    (id, made)
}

#[tokio::test]
async fn sandboxes_go_on_from_a_snapshot_with_its_sizes() {
    let (host, _ground, plane) = one().await;
    let client = plane.client();
    let (id, made) = ready(&host, &plane).await;
    assert_eq!(
        (made.kind, made.vcpus, made.memory_mb, made.disk_mb),
        (TemplateKind::Snapshot, Some(2), Some(256), Some(4096))
    );
    assert_eq!(made.source_sandbox_id.as_deref(), Some(id.as_str()));
    assert_eq!(
        client.get(&id).await.unwrap().status,
        SandboxStatus::Running
    );
    let sizes = [
        CreateSandbox {
            vcpus: Some(2),
            ..from("ready")
        },
        CreateSandbox {
            disk_mb: Some(4096),
            ..from("ready")
        },
    ];
    for spec in sizes.into_iter().chain([from("ready")]) {
        let sandbox = client.create(&spec).await.unwrap();
        assert_eq!(
            (sandbox.vcpus, sandbox.memory_mb, sandbox.disk_mb),
            (2, 256, Some(4096))
        );
        assert_eq!(
            host.world().sandboxes[&sandbox.id].content.files["/tmp/a"],
            b"kept"
        );
    }
    let count = plane.store.sandbox_list_all().await.unwrap().len();
    for (body, said) in [
        (r#"{"template": "ready", "vcpus": 1}"#, "vcpus must be 2"),
        (
            r#"{"template": "ready", "memory_mb": 512}"#,
            "memory_mb must be 256",
        ),
        (
            r#"{"template": "ready", "disk_mb": 8192}"#,
            "disk_mb must be 4096",
        ),
    ] {
        let message = refused(plane.post("/v1/sandboxes", body), 400, "invalid_request").await;
        assert!(
            message.contains(said) && message.contains("memory: false"),
            "{message}"
        );
    }
    assert_eq!(plane.store.sandbox_list_all().await.unwrap().len(), count);
}

#[tokio::test]
async fn from_an_image_they_boot_in_any_size() {
    let (host, _ground, plane) = one().await;
    let client = plane.client();
    let (id, _) = ready(&host, &plane).await;
    client.pause(&id).await.unwrap();
    let made = client
        .create_snapshot(&CreateSnapshot {
            memory: Some(false),
            ..snapshot(&id, "image")
        })
        .await
        .unwrap();
    assert_eq!((made.kind, made.vcpus), (TemplateKind::Image, None));
    assert_eq!(client.get(&id).await.unwrap().status, SandboxStatus::Paused);
    let sandbox = client.create(&from("image")).await.unwrap();
    assert_eq!((sandbox.vcpus, sandbox.memory_mb), (1, 512));
    let sandbox = client
        .create(&CreateSandbox {
            vcpus: Some(4),
            ..from("image")
        })
        .await
        .unwrap();
    assert_eq!(sandbox.vcpus, 4);
}

#[tokio::test]
async fn the_same_create_from_a_snapshot_makes_one_sandbox() {
    let (host, _ground, plane) = one().await;
    ready(&host, &plane).await;
    let create = || {
        plane
            .post("/v1/sandboxes", r#"{"template": "ready"}"#)
            .header("idempotency-key", "once")
            .send()
    };
    let ids: Vec<api_types::Sandbox> = vec![
        create().await.unwrap().json().await.unwrap(),
        create().await.unwrap().json().await.unwrap(),
    ];
    assert_eq!(ids[0].id, ids[1].id);
    // The answer is remembered, also where the template is not.
    host.world().snapshots.clear();
    assert_eq!(create().await.unwrap().status(), 201);
}

#[tokio::test]
async fn they_are_listed_looked_at_and_removed() {
    let (host, _ground, plane) = one().await;
    let client = plane.client();
    let (id, _) = ready(&host, &plane).await;
    client
        .create_snapshot(&CreateSnapshot {
            memory: Some(false),
            ..snapshot(&id, "image")
        })
        .await
        .unwrap();
    let names = |all: Vec<Template>| {
        all.into_iter()
            .map(|template| template.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(client.snapshots().await.unwrap()), ["image", "ready"]);
    assert_eq!(
        names(client.templates().await.unwrap()),
        ["image", "minimal", "ready"]
    );
    for (kind, name) in [
        ("snapshot", "ready"),
        ("image", "image"),
        ("base", "minimal"),
    ] {
        let list = plane
            .request(Method::GET, &format!("/v1/snapshots?type={kind}"))
            .send()
            .await
            .unwrap();
        assert_eq!(names(list.json().await.unwrap()), [name]);
    }
    refused(
        plane.request(Method::GET, "/v1/snapshots?type=other"),
        400,
        "invalid_request",
    )
    .await;
    assert_eq!(client.snapshot("ready").await.unwrap().vcpus, Some(2));
    client.delete_snapshot("ready").await.unwrap();
    for name in ["ready", "never", "minimal", "..", "A"] {
        for method in [Method::GET, Method::DELETE] {
            let path = format!("/v1/snapshots/{}", name.replace('.', "%2E"));
            refused(plane.request(method, &path), 404, "not_found").await;
        }
    }
    assert_eq!(
        names(client.templates().await.unwrap()),
        ["image", "minimal"]
    );
}

/// Nobody takes one for lost whose host is only away.
#[tokio::test]
async fn one_on_a_host_that_is_away_is_not_denied() {
    let one = FakeHost::start();
    let two = FakeHost::start_as("host-two");
    let ground = Ground::new().await;
    let plane = ground.start(&[&one, &two]).await;
    let source = plane.create().await.id;
    plane
        .client()
        .create_snapshot(&snapshot(&source, "ready"))
        .await
        .unwrap();
    let holder = if one.world().snapshots.is_empty() {
        &two
    } else {
        &one
    };
    holder.stop();
    wait_until_host_is_away(&plane).await;
    let create = r#"{"template": "ready"}"#;
    for request in [
        plane.request(Method::GET, "/v1/snapshots/ready"),
        plane.request(Method::DELETE, "/v1/snapshots/ready"),
        plane.post("/v1/sandboxes", create),
    ] {
        let message = refused(request, 503, "host_unavailable").await;
        assert!(
            message.contains("cannot be reached") && message.contains("of the others: there is no"),
            "{message}"
        );
    }
    holder.restart();
    plane.client().snapshot("ready").await.unwrap();
}

#[tokio::test]
async fn one_that_is_in_use_stays() {
    let (host, _ground, plane) = one().await;
    let client = plane.client();
    let (id, _) = ready(&host, &plane).await;
    let user = client.create(&from("ready")).await.unwrap().id;
    let delete = || plane.request(Method::DELETE, "/v1/snapshots/ready");
    assert!(refused(delete(), 409, "conflict").await.contains(&user));
    let body = format!(r#"{{"sandbox_id": "{id}", "name": "ready"}}"#);
    let message = refused(
        plane.post("/v1/snapshots?overwrite=true", body),
        409,
        "conflict",
    )
    .await;
    assert!(message.contains(&user), "{message}");
    client.delete(&user).await.unwrap();
    client.delete_snapshot("ready").await.unwrap();
}

#[tokio::test]
async fn names_are_taken_until_they_are_overwritten() {
    let (host, _ground, plane) = one().await;
    let client = plane.client();
    let (id, _) = ready(&host, &plane).await;
    let body =
        |name: &str, more: &str| format!(r#"{{"sandbox_id": "{id}", "name": "{name}"{more}}}"#);
    refused(
        plane.post("/v1/snapshots", body("ready", "")),
        409,
        "conflict",
    )
    .await;
    let explicit = plane.post(
        "/v1/snapshots?overwrite=true",
        body("ready", r#", "overwrite": false"#),
    );
    refused(explicit, 409, "conflict").await;
    for request in [
        plane.post(
            "/v1/snapshots",
            body("ready", r#", "overwrite": true, "memory": false"#),
        ),
        plane.post(
            "/v1/snapshots?overwrite=true",
            body("ready", r#", "memory": false"#),
        ),
    ] {
        assert_eq!(request.send().await.unwrap().status(), 201);
        assert_eq!(
            client.snapshot("ready").await.unwrap().kind,
            TemplateKind::Image
        );
    }
    // A base image never.
    refused(
        plane.post("/v1/snapshots?overwrite=true", body("minimal", "")),
        409,
        "conflict",
    )
    .await;
    let unnamed = plane
        .post("/v1/snapshots", format!(r#"{{"sandbox_id": "{id}"}}"#))
        .send()
        .await
        .unwrap();
    let name = unnamed.json::<Template>().await.unwrap().name;
    assert!(name.starts_with("template-") && name.len() == 17, "{name}");
}

#[tokio::test]
async fn refusals_say_what_is_wrong_and_leave_nothing() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    for (body, said) in [
        (r#"{"name": "x"}"#.to_owned(), "sandbox_id"),
        (
            r#"{"sandbox_id": "sb-1", "name": "x"}"#.to_owned(),
            "sandbox id",
        ),
        (
            format!(r#"{{"sandbox_id": "{id}", "name": "../x"}}"#),
            "a-z",
        ),
        (format!(r#"{{"sandbox_id": "{id}", "name": ""}}"#), "a-z"),
        (
            format!(r#"{{"sandbox_id": "{id}", "name": "x", "memroy": false}}"#),
            "memroy",
        ),
    ] {
        let message = refused(
            plane.post("/v1/snapshots", body.clone()),
            400,
            "invalid_request",
        )
        .await;
        assert!(message.contains(said), "{body}: {message}");
    }
    let nobody = r#"{"sandbox_id": "sb-00000000000000000000", "name": "x"}"#;
    refused(plane.post("/v1/snapshots", nobody), 404, "not_found").await;
    host.fail_next(
        "CreateSnapshot",
        ConnectError::resource_exhausted("the disk of the host is full"),
    );
    let body = format!(r#"{{"sandbox_id": "{id}", "name": "x"}}"#);
    refused(
        plane.post("/v1/snapshots", body),
        507,
        "insufficient_storage",
    )
    .await;
    assert!(plane.client().snapshots().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_name_is_one_template_on_all_hosts() {
    let a = FakeHost::start_as("host-a");
    let b = FakeHost::start_as("host-b");
    let ground = Ground::new().await;
    let plane = ground.start(&[&a, &b]).await;
    let one = plane.create().await.id;
    let two = plane.create().await.id;
    plane
        .client()
        .create_snapshot(&snapshot(&one, "ready"))
        .await
        .unwrap();
    let body = format!(r#"{{"sandbox_id": "{two}", "name": "ready"}}"#);
    assert!(
        refused(plane.post("/v1/snapshots", body), 409, "conflict")
            .await
            .contains("another host")
    );
    // Only one host has it, and that one takes what is made from it.
    let holder = if a.world().snapshots.is_empty() {
        &b
    } else {
        &a
    };
    for _ in 0..3 {
        let id = plane.client().create(&from("ready")).await.unwrap().id;
        assert!(holder.world().sandboxes.contains_key(&id));
    }
}
