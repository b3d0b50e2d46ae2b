//! Images: one owner each, seen by their team alone, and none is left of an import that fails.

use std::time::Duration;

use control::auth;
use model::{ErrorCode, Scopes, TeamId, TemplateKind, TemplateName};
use reqwest::{Method, RequestBuilder};
use store::SnapshotClaim;
use testkit::host::FakeHost;

use crate::support::{Plane, one, refused};

fn import(plane: &Plane, name: &str, archive: &'static str) -> RequestBuilder {
    let path = format!("/v1/images?name={name}");
    plane.request(Method::POST, &path).body(archive)
}

fn names(host: &FakeHost) -> Vec<String> {
    host.world().snapshots.keys().cloned().collect()
}

async fn other_team(plane: &Plane) -> client::Client {
    let team: TeamId = "others".parse().unwrap();
    let created = auth::create_team_key(&plane.store, team, Scopes::Admin, "of a test").await;
    client::Client::new(&plane.url, &created.unwrap().1.expose()).unwrap()
}

#[tokio::test]
async fn imported_image_belongs_to_team() {
    let (host, _ground, plane) = one().await;
    let answer = import(&plane, "app", "an archive").send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let image: api_types::Template = answer.json().await.unwrap();
    assert_eq!(
        (image.kind, image.format.as_deref()),
        (TemplateKind::Image, Some("oci"))
    );
    assert_eq!(image.image_config.unwrap().user, "app");
    let client = plane.client();
    let got = client.image("app").await.unwrap();
    assert_eq!(
        (got.digest, got.image_config.unwrap().user),
        (image.digest, "app".into())
    );
    let listed = client.templates().await.unwrap();
    assert!(listed.iter().all(|image| image.image_config.is_none()));
    // A base image is an image, too, and a snapshot is none.
    assert_eq!(client.image("minimal").await.unwrap().digest, None);
    assert!(client.snapshots().await.unwrap().is_empty());
    assert!(client.snapshot("app").await.unwrap_err().is_not_found());
    let others = other_team(&plane).await;
    let seen = others.templates().await.unwrap();
    assert!(
        seen.iter().all(|template| template.name == "minimal"),
        "{seen:?}"
    );
    assert!(others.image("app").await.unwrap_err().is_not_found());
    assert!(others.delete_image("app").await.unwrap_err().is_not_found());
    let create = api_types::CreateSandbox {
        template: Some("app".to_owned()),
        ..Default::default()
    };
    assert!(others.create(&create).await.unwrap_err().is_not_found());
    client.create(&create).await.unwrap();
    let removed = client.delete_snapshot("app").await.unwrap_err();
    assert!(
        removed.to_string().contains("wrenn image rm app"),
        "{removed}"
    );
    client.delete_image("app").await.unwrap();
    assert!(names(&host).is_empty());
    assert!(client.image("app").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn failed_import_frees_its_name() {
    let (host, _ground, plane) = one().await;
    let text = refused(import(&plane, "app", "bad"), 400, "invalid_request").await;
    assert!(text.contains("it is no image"), "{text}");
    let broken = futures::stream::iter([
        Ok(bytes::Bytes::from_static(b"begins")),
        Err(std::io::Error::other("and breaks")),
    ]);
    plane
        .client()
        .import_image("app", broken)
        .await
        .unwrap_err();
    assert!(names(&host).is_empty());
    // The other team could not have the name if the claim were left.
    let others = other_team(&plane).await;
    let archive = || futures::stream::iter([Ok(bytes::Bytes::from_static(b"an archive"))]);
    let imported = crate::support::eventually("the name is free", || async {
        others.import_image("app", archive()).await.ok()
    });
    assert_eq!(imported.await.name, "app");
    let taken = plane
        .client()
        .import_image("app", archive())
        .await
        .unwrap_err();
    assert_eq!(taken.code(), Some(ErrorCode::Conflict.as_str()), "{taken}");
}

#[tokio::test]
async fn base_images_are_not_deleted() {
    let (_host, _ground, plane) = one().await;
    let delete = plane.request(Method::DELETE, "/v1/images/minimal");
    let text = refused(delete, 403, "forbidden").await;
    assert!(text.contains("administrator"), "{text}");
    let taken = refused(import(&plane, "minimal", "an archive"), 409, "conflict").await;
    assert!(taken.contains("minimal already"), "{taken}");
    for name in ["UPPER", "", "a%2Fb"] {
        refused(import(&plane, name, "an archive"), 400, "invalid_request").await;
    }
    let missing = plane.request(Method::DELETE, "/v1/images/missing");
    refused(missing, 404, "not_found").await;
}

/// Two deletions of one image, between which another team takes its name.
#[tokio::test]
async fn late_deletion_spares_other_team() {
    let (host, _ground, plane) = one().await;
    import(&plane, "app", "an archive").send().await.unwrap();
    let name: TemplateName = "app".parse().unwrap();
    let lease = Duration::from_secs(60);
    assert!(
        plane
            .store
            .snapshot_lock(&name, "test", lease)
            .await
            .unwrap()
    );
    let calls = host.calls("ListTemplates");
    let client = plane.client();
    let late = tokio::spawn(async move { client.delete_image("app").await });
    crate::support::eventually("the deletion looks for the image", || async {
        (host.calls("ListTemplates") > calls).then_some(())
    })
    .await;
    // It asks for more than the deletion has left before it waits for the lock.
    plane.client().image("app").await.unwrap();
    let team = TeamId::default();
    plane
        .store
        .snapshot_release(&team, &name, "test")
        .await
        .unwrap();
    let others: TeamId = "others".parse().unwrap();
    let claimed = plane.store.snapshot_claim(&others, &name, 1).await.unwrap();
    assert_eq!(claimed, SnapshotClaim::New);
    plane.store.snapshot_unlock(&name, "test").await.unwrap();
    assert!(late.await.unwrap().unwrap_err().is_not_found());
    assert_eq!(names(&host), ["app"]);
    assert_eq!(host.calls("RemoveImage"), 0);
}

/// The inventory of a host is asked for anew: else a base image that was there before would be seen
/// by all teams.
#[tokio::test]
async fn import_and_deletion_forget_inventory() {
    let (host, _ground, plane) = one().await;
    host.world().templates.push("foo".to_owned());
    let create = api_types::CreateSandbox {
        template: Some("foo".to_owned()),
        ..Default::default()
    };
    let others = other_team(&plane).await;
    others.create(&create).await.unwrap();
    host.world().templates.retain(|name| name != "foo");
    import(&plane, "foo", "an archive").send().await.unwrap();
    assert!(others.create(&create).await.unwrap_err().is_not_found());
    plane.client().create(&create).await.unwrap();
    plane.client().delete_image("foo").await.unwrap();
    let creates = host.calls("EnsureSandbox");
    let gone = plane.client().create(&create).await.unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
    assert_eq!(host.calls("EnsureSandbox"), creates);
}

fn pull(plane: &Plane, name: &str, body: &serde_json::Value) -> RequestBuilder {
    plane
        .request(Method::POST, &format!("/v1/images/{name}/pull"))
        .json(body)
}

/// Returns the messages of a pull.
async fn pulled(answer: reqwest::Response) -> Vec<serde_json::Value> {
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    let text = answer.text().await.unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn pulled_image_belongs_to_team() {
    let (_host, _ground, plane) = one().await;
    let body = serde_json::json!({
        "reference": "alpine:3.20",
        "credentials": { "username": "ann", "password": "secret" },
    });
    let messages = pulled(pull(&plane, "alpine", &body).send().await.unwrap()).await;
    assert_eq!(messages[0]["type"], "progress");
    assert_eq!(messages[0]["phase"], "downloading");
    let last = messages.last().unwrap();
    assert_eq!(
        (&last["type"], &last["image"]["name"]),
        (&"done".into(), &"alpine".into())
    );
    assert_eq!(
        last["image"]["size_bytes"],
        "alpine:3.20".len() + "secret".len()
    );
    assert_eq!(last["image"]["image_config"]["User"], "app");
    let others = other_team(&plane).await;
    assert!(others.image("alpine").await.unwrap_err().is_not_found());
    let create = api_types::CreateSandbox {
        template: Some("alpine".to_owned()),
        ..Default::default()
    };
    plane.client().create(&create).await.unwrap();
    let pull_again = api_types::PullImage {
        reference: "alpine:3.20".to_owned(),
        ..Default::default()
    };
    let taken = others.pull_image("alpine", &pull_again).await.unwrap_err();
    assert_eq!(taken.code(), Some("conflict"), "{taken}");
}

#[tokio::test]
async fn failed_pull_frees_its_name() {
    let (host, _ground, plane) = one().await;
    let missing = serde_json::json!({ "reference": "missing" });
    let text = refused(pull(&plane, "app", &missing), 404, "not_found").await;
    assert!(text.contains("no such image"), "{text}");
    let broken = serde_json::json!({ "reference": "broken" });
    let messages = pulled(pull(&plane, "app", &broken).send().await.unwrap()).await;
    let last = messages.last().unwrap();
    assert_eq!(
        (&last["type"], &last["error"]["code"]),
        (&"error".into(), &"agent_error".into())
    );
    assert!(names(&host).is_empty());
    let others = other_team(&plane).await;
    let wanted = api_types::PullImage {
        reference: "app".to_owned(),
        ..Default::default()
    };
    let mut messages = others.pull_image("app", &wanted).await.unwrap();
    while let Some(message) = messages.next().await.unwrap() {
        assert!(
            !matches!(message, api_types::PullMessage::Error { .. }),
            "{message:?}"
        );
    }
    assert_eq!(names(&host), ["app"]);
    for wrong in [
        serde_json::json!({}),
        serde_json::json!({ "reference": "app", "credentials": { "username": "ann" } }),
        serde_json::json!({ "reference": "app", "tag": "1" }),
    ] {
        refused(pull(&plane, "other", &wrong), 400, "invalid_request").await;
    }
}

#[tokio::test]
async fn hang_up_frees_place_of_pull() {
    let (_host, _ground, plane) = one().await;
    let endless = api_types::PullImage {
        reference: "endless".to_owned(),
        ..Default::default()
    };
    let client = plane.client();
    let mut begun = Vec::new();
    for name in ["one", "two"] {
        let mut messages = client.pull_image(name, &endless).await.unwrap();
        messages.next().await.unwrap().unwrap();
        begun.push(messages);
    }
    let full = client.pull_image("three", &endless).await.unwrap_err();
    assert_eq!(full.code(), Some("resource_exhausted"), "{full}");
    drop(begun);
    let wanted = api_types::PullImage {
        reference: "app".to_owned(),
        ..Default::default()
    };
    let begun = crate::support::eventually("a place is free", || async {
        client.pull_image("three", &wanted).await.ok()
    });
    begun.await.next().await.unwrap().unwrap();
}

#[tokio::test]
async fn prune_spares_images_of_sandboxes() {
    let (host, _ground, plane) = one().await;
    let client = plane.client();
    for name in ["used", "unused", "alone"] {
        import(&plane, name, "an archive").send().await.unwrap();
    }
    let others = other_team(&plane).await;
    let archive = futures::stream::iter([Ok(bytes::Bytes::from_static(b"an archive"))]);
    others.import_image("foreign", archive).await.unwrap();
    let create = api_types::CreateSandbox {
        template: Some("used".to_owned()),
        ..Default::default()
    };
    let sandbox = client.create(&create).await.unwrap();
    client.pause(&sandbox.id).await.unwrap();
    let told = client.prune_images(true).await.unwrap();
    let told_names: Vec<&str> = told.images.iter().map(|image| &*image.name).collect();
    assert_eq!(
        (told.dry_run, &told_names[..]),
        (true, &["alone", "unused"][..])
    );
    assert_eq!(told.freed_bytes, 2 * "an archive".len() as u64);
    assert_eq!(names(&host).len(), 4);
    let done = client.prune_images(false).await.unwrap();
    assert_eq!((done.images.len(), done.failed.len()), (2, 0));
    assert_eq!(names(&host), ["foreign", "used"]);
    client.delete(&sandbox.id).await.unwrap();
    let rest = crate::support::eventually("the sandbox is gone", || async {
        let pruned = client.prune_images(false).await.unwrap();
        (!pruned.images.is_empty()).then_some(pruned)
    });
    assert_eq!(rest.await.images[0].name, "used");
    assert_eq!(names(&host), ["foreign"]);
}
