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
