//! Comparison of the files of a sandbox at two moments.

use api_types::{DiffMessage, FileDiff, InodeKind};
use client::DiffQuery;
use control::auth;
use model::TeamId;
use reqwest::Method;
use testkit::host::FakeHost;

use crate::support::{Plane, one, refused};

/// Runs a comparison, and returns the names of both moments, the changes, and why there are no
/// more.
async fn diff(
    plane: &Plane,
    id: &str,
    query: &DiffQuery,
) -> (String, Option<String>, Vec<FileDiff>, Option<String>) {
    let mut messages = plane.client().diff(id, query).await.unwrap();
    let Some(DiffMessage::Start { from, to, .. }) = messages.next().await.unwrap() else {
        panic!("a start");
    };
    let mut changes = Vec::new();
    loop {
        match messages.next().await.unwrap() {
            Some(DiffMessage::Change(change)) => changes.push(*change),
            Some(DiffMessage::End { incomplete, .. }) => return (from, to, changes, incomplete),
            other => panic!("{other:?}"),
        }
    }
}

fn write(host: &FakeHost, id: &str, path: &str, content: &str) {
    let mut world = host.world();
    let files = &mut world.sandboxes.get_mut(id).unwrap().content.files;
    files.insert(path.to_owned(), content.into());
}

#[tokio::test]
async fn diff_streams_changes_and_end() {
    let (host, _ground, plane) = one().await;
    let client = plane.client();
    let id = plane.create().await.id;
    write(&host, &id, "/home/a", "one");
    client.create_checkpoint(&id, Some("first")).await.unwrap();
    write(&host, &id, "/home/a", "two");
    write(&host, &id, "/home/b", "new");
    client.create_checkpoint(&id, Some("second")).await.unwrap();
    write(&host, &id, "/srv/c", "late");
    let (from, to, changes, incomplete) = diff(&plane, &id, &DiffQuery::default()).await;
    assert_eq!((from.as_str(), to, incomplete), ("second", None, None));
    assert_eq!(changes.len(), 1);
    assert_eq!(
        (changes[0].path.as_str(), &changes[0].before),
        ("/srv/c", &None)
    );
    let between = DiffQuery {
        from: Some("first".to_owned()),
        to: Some("second".to_owned()),
        patches: true,
        ..DiffQuery::default()
    };
    let (from, to, changes, _) = diff(&plane, &id, &between).await;
    assert_eq!((from.as_str(), to.as_deref()), ("first", Some("second")));
    let paths: Vec<&str> = changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(paths, ["/home/a", "/home/b"]);
    assert!(changes[0].content_changed && changes[0].patch.is_some());
    let after = changes[0].after.as_ref().unwrap();
    assert_eq!(
        (after.kind, after.size, after.mode),
        (InodeKind::File, 3, 0o644)
    );
    let few = DiffQuery {
        limit: Some(1),
        ..between
    };
    let (_, _, changes, incomplete) = diff(&plane, &id, &few).await;
    assert!(changes.len() == 1 && incomplete.unwrap().contains("more than 1"));
}

#[tokio::test]
async fn diff_keeps_paused_sandbox_paused() {
    let (_host, _ground, plane) = one().await;
    let client = plane.client();
    let id = plane.create().await.id;
    client.create_checkpoint(&id, None).await.unwrap();
    client.pause(&id).await.unwrap();
    diff(&plane, &id, &DiffQuery::default()).await;
    let status = client.get(&id).await.unwrap().status;
    assert_eq!(status, api_types::SandboxStatus::Paused);
}

/// A running guest stands still while its disk is copied.
#[tokio::test]
async fn reading_key_stops_no_guest() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    for name in ["one", "two"] {
        let created = plane.client().create_checkpoint(&id, Some(name)).await;
        created.unwrap();
    }
    let reads = "sandboxes:read".parse().unwrap();
    let team = TeamId::default();
    let key = auth::create_team_key(&plane.store, team, reads, "reads").await;
    let key = key.unwrap().1.expose();
    let get = |query: &str| {
        let path = format!("/v1/sandboxes/{id}/diff{query}");
        plane.bare(Method::GET, &path).header("x-api-key", &key)
    };
    let message = refused(get(""), 403, "forbidden").await;
    assert!(message.contains("sandboxes:write"), "{message}");
    refused(get("?from=one"), 403, "forbidden").await;
    let between = get("?from=one&to=two").send().await.unwrap();
    assert_eq!(between.status(), 200);
    plane.client().pause(&id).await.unwrap();
    assert_eq!(get("").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn bad_diffs_are_refused() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let get = |query: &str| plane.request(Method::GET, &format!("/v1/sandboxes/{id}/diff{query}"));
    let message = refused(get(""), 409, "invalid_state").await;
    assert!(message.contains("no checkpoint"), "{message}");
    plane
        .client()
        .create_checkpoint(&id, Some("first"))
        .await
        .unwrap();
    for (query, status, code) in [
        ("?from=second", 404, "not_found"),
        ("?path=/no/such", 404, "not_found"),
        ("?from=-", 400, "invalid_request"),
        ("?limit=0", 400, "invalid_request"),
        ("?limit=100001", 400, "invalid_request"),
        ("?timeout_sec=301", 400, "invalid_request"),
        ("?path=", 400, "invalid_request"),
        ("?path=%00", 400, "invalid_request"),
        ("?text=true", 400, "invalid_request"),
    ] {
        refused(get(query), status, code).await;
    }
}
