//! Names of snapshots: one request at a time, one owner, and no snapshot without one.

use std::time::Duration;

use api_types::CreateSnapshot;
use connectrpc::ConnectError;
use control::auth;
use model::{Scopes, TeamId, TemplateName};
use reqwest::{Method, RequestBuilder};
use testkit::host::{Cut, FakeHost};

use crate::support::{Ground, Plane, one, refused};

const NAME: &str = "ready";

fn name() -> TemplateName {
    NAME.parse().unwrap()
}

async fn create_snapshot(plane: &Plane, sandbox: &str) {
    let body = CreateSnapshot {
        sandbox_id: sandbox.to_owned(),
        name: Some(NAME.to_owned()),
        memory: None,
        overwrite: Some(true),
    };
    plane.client().create_snapshot(&body).await.unwrap();
}

fn create_request(plane: &Plane, sandbox: &str) -> RequestBuilder {
    let body = format!(r#"{{"sandbox_id": "{sandbox}", "name": "{NAME}", "overwrite": true}}"#);
    plane.post("/v1/snapshots", body)
}

fn delete_request(plane: &Plane) -> RequestBuilder {
    plane.request(Method::DELETE, &format!("/v1/snapshots/{NAME}"))
}

/// Sends a request from a task of its own. Its status.
fn spawn_request(request: RequestBuilder) -> tokio::task::JoinHandle<u16> {
    tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
}

/// A running sandbox of another team, and the team's key.
async fn of_other_team(plane: &Plane, scopes: Scopes, team: &str) -> (String, String) {
    let team: TeamId = team.parse().unwrap();
    let created = auth::create_team_key(&plane.store, team, scopes, "of a test").await;
    let key = created.unwrap().1.expose();
    let client = client::Client::new(&plane.url, &key).unwrap();
    let sandbox = client.create(&Default::default()).await.unwrap().id;
    (sandbox, key)
}

fn create_as(plane: &Plane, key: &str, sandbox: &str) -> RequestBuilder {
    let body = format!(r#"{{"sandbox_id": "{sandbox}", "name": "{NAME}", "overwrite": true}}"#);
    let request = plane.bare(Method::POST, "/v1/snapshots");
    let request = request.header("content-type", "application/json");
    request.header("x-api-key", key).body(body)
}

/// Checks that there is a snapshot with its owner, or neither.
async fn assert_owned(host: &FakeHost, plane: &Plane, is_there: bool) {
    assert_eq!(host.world().snapshots.contains_key(NAME), is_there);
    let owner = plane.store.snapshot_owner(&name()).await.unwrap();
    assert_eq!(owner, is_there.then(TeamId::default));
}

#[tokio::test]
async fn deletion_waits_for_create_of_name() {
    let (host, _ground, plane) = one().await;
    let sandbox = plane.create().await.id;
    let gate = host.hold_next("CreateSnapshot");
    let create = spawn_request(create_request(&plane, &sandbox));
    gate.wait_until_reached().await;
    let delete = spawn_request(delete_request(&plane));
    // Another name is not held up.
    refused(
        plane.request(Method::DELETE, "/v1/snapshots/other"),
        404,
        "not_found",
    )
    .await;
    gate.open();
    assert_eq!((create.await.unwrap(), delete.await.unwrap()), (201, 204));
    assert_owned(&host, &plane, false).await;
}

#[tokio::test]
async fn create_waits_for_deletion_of_name() {
    let (host, _ground, plane) = one().await;
    let sandbox = plane.create().await.id;
    create_snapshot(&plane, &sandbox).await;
    let gate = host.hold_next("RemoveSnapshot");
    let delete = spawn_request(delete_request(&plane));
    gate.wait_until_reached().await;
    let create = spawn_request(create_request(&plane, &sandbox));
    let again = spawn_request(delete_request(&plane));
    gate.open();
    assert_eq!((delete.await.unwrap(), create.await.unwrap()), (204, 201));
    // Before or after the create.
    let is_there = match again.await.unwrap() {
        404 => true,
        204 => false,
        status => panic!("{status}"),
    };
    assert_owned(&host, &plane, is_there).await;
}

#[tokio::test]
async fn refused_create_releases_name() {
    let (host, _ground, plane) = one().await;
    let sandbox = plane.create().await.id;
    host.fail_next("CreateSnapshot", ConnectError::internal("broken"));
    refused(create_request(&plane, &sandbox), 502, "agent_error").await;
    assert_owned(&host, &plane, false).await;
    let (other_sandbox, key) = of_other_team(&plane, Scopes::Admin, "other").await;
    let created = create_as(&plane, &key, &other_sandbox).send().await;
    assert_eq!(created.unwrap().status(), 201);
    // A name that was there before stays with its team.
    host.fail_next("CreateSnapshot", ConnectError::internal("broken"));
    refused(create_as(&plane, &key, &other_sandbox), 502, "agent_error").await;
    refused(create_request(&plane, &sandbox), 409, "conflict").await;
}

#[tokio::test]
async fn lost_answer_keeps_name() {
    let (host, _ground, plane) = one().await;
    let sandbox = plane.create().await.id;
    for cut in [Cut::Before, Cut::After] {
        host.cut_next("CreateSnapshot", cut);
        refused(create_request(&plane, &sandbox), 502, "agent_error").await;
        let owner = plane.store.snapshot_owner(&name()).await.unwrap();
        assert_eq!(owner, Some(TeamId::default()));
    }
    assert_owned(&host, &plane, true).await;
}

#[tokio::test]
async fn snapshot_without_owner_is_operators_only() {
    let (host, _ground, plane) = one().await;
    let sandbox = plane.create().await.id;
    create_snapshot(&plane, &sandbox).await;
    let lease = Duration::from_secs(60);
    let store = &plane.store;
    assert!(store.snapshot_lock(&name(), "test", lease).await.unwrap());
    let team = TeamId::default();
    assert!(
        store
            .snapshot_release(&team, &name(), "test")
            .await
            .unwrap()
    );
    store.snapshot_unlock(&name(), "test").await.unwrap();

    let limited: Scopes = "sandboxes:write snapshots:write".parse().unwrap();
    for (team, scopes) in [("other", Scopes::Admin), ("default", limited)] {
        let (sandbox, key) = of_other_team(&plane, scopes, team).await;
        refused(create_as(&plane, &key, &sandbox), 409, "conflict").await;
        let path = format!("/v1/snapshots/{NAME}");
        for method in [Method::GET, Method::DELETE] {
            let request = plane.bare(method, &path).header("x-api-key", &key);
            refused(request, 404, "not_found").await;
        }
        let from_it = plane.bare(Method::POST, "/v1/sandboxes");
        let from_it = from_it.header("content-type", "application/json");
        let from_it = from_it.header("x-api-key", &key);
        let message = refused(from_it.body(r#"{"template": "ready"}"#), 404, "not_found").await;
        assert!(message.ends_with("there is minimal"), "{message}");
    }
    plane.client().snapshot(NAME).await.unwrap();
    create_snapshot(&plane, &sandbox).await;
    assert_owned(&host, &plane, true).await;
}

#[tokio::test]
async fn name_locked_for_long_is_refused() {
    let (_host, _ground, plane) = one().await;
    let lease = Duration::from_secs(60);
    let name = name();
    let locked = plane.store.snapshot_lock(&name, "of another plane", lease);
    assert!(locked.await.unwrap());
    let message = refused(delete_request(&plane), 409, "conflict").await;
    assert!(message.contains("try again"), "{message}");
}

#[tokio::test]
async fn locked_name_of_others_is_hidden() {
    let (host, _ground, plane) = one().await;
    let sandbox = plane.create().await.id;
    create_snapshot(&plane, &sandbox).await;
    let (other_sandbox, key) = of_other_team(&plane, Scopes::Admin, "other").await;
    // No request of another team waits for the lock, so that none can hold it.
    let gate = host.hold_next("RemoveSnapshot");
    let delete = spawn_request(delete_request(&plane));
    gate.wait_until_reached().await;
    let message = refused(create_as(&plane, &key, &other_sandbox), 409, "conflict").await;
    assert!(message.contains("choose another name"), "{message}");
    let path = format!("/v1/snapshots/{NAME}");
    let request = plane.bare(Method::DELETE, &path).header("x-api-key", &key);
    refused(request, 404, "not_found").await;
    gate.open();
    assert_eq!(delete.await.unwrap(), 204);
}

#[tokio::test]
async fn lost_answer_keeps_lock_for_lease() {
    let (host, _ground, plane) = one().await;
    let sandbox = plane.create().await.id;
    host.cut_next("CreateSnapshot", Cut::After);
    refused(create_request(&plane, &sandbox), 502, "agent_error").await;
    let lease = Duration::from_secs(60);
    let store = &plane.store;
    assert!(!store.snapshot_lock(&name(), "test", lease).await.unwrap());
    // The next request waits for the end of the lease.
    create_snapshot(&plane, &sandbox).await;
    host.cut_next("RemoveSnapshot", Cut::After);
    refused(delete_request(&plane), 502, "agent_error").await;
    assert!(!store.snapshot_lock(&name(), "test", lease).await.unwrap());
}

#[tokio::test]
async fn deletion_beside_silent_host_keeps_name() {
    let host = FakeHost::start_as("host-a");
    let silent = FakeHost::start_as("host-b");
    let ground = Ground::new().await;
    let plane = ground.start(&[&host, &silent]).await;
    let sandbox = plane.create().await.id;
    create_snapshot(&plane, &sandbox).await;
    // The other host may have a snapshot of that name, too. Rounds of reconciliation ask it, too.
    for _ in 0..16 {
        silent.fail_next("ListTemplates", ConnectError::unavailable("busy"));
    }
    let deleted = delete_request(&plane).send().await.unwrap();
    assert_eq!(deleted.status(), 204);
    let owner = plane.store.snapshot_owner(&name()).await.unwrap();
    assert_eq!(owner, Some(TeamId::default()));
}
