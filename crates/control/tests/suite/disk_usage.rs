//! Space on disk, as teams and operators see it.

use api_types::CreateSnapshot;
use control::auth;
use model::{Scopes, TeamId};
use reqwest::Method;

use crate::support::{one, refused};

#[tokio::test]
async fn usage_counts_checkpoints_pauses_and_snapshots() {
    let (_host, _ground, plane) = one().await;
    let client = plane.client();
    let id = plane.create().await.id;
    let other = plane.create().await.id;
    for name in ["a", "b"] {
        client.create_checkpoint(&id, Some(name)).await.unwrap();
    }
    client.pause(&other).await.unwrap();
    let snapshot = CreateSnapshot {
        sandbox_id: id.clone(),
        name: Some("saved".to_owned()),
        memory: None,
        overwrite: None,
    };
    client.create_snapshot(&snapshot).await.unwrap();
    let usage = client.disk_usage().await.unwrap();
    let counts = [
        usage.sandboxes,
        usage.paused,
        usage.checkpoints,
        usage.snapshots,
    ];
    assert_eq!(counts.map(|space| space.count), [2, 1, 2, 1]);
    let sizes = usage.checkpoints.sizes;
    assert_eq!(sizes.size_bytes, sizes.exclusive_bytes + sizes.shared_bytes);
    assert!(
        sizes.exclusive_bytes > 0 && sizes.shared_bytes > 0,
        "{sizes:?}"
    );
    // Of an operator.
    assert_eq!(usage.images.unwrap().count, 1);
    let one = client.sandbox_disk_usage(&id).await.unwrap();
    assert_eq!(one.checkpoints.count, 2);
    assert!(usage.by_sandbox.contains(&one));
    let listed = client.checkpoints(&id).await.unwrap();
    let first = &listed[0];
    assert_eq!(first.size_bytes, first.exclusive_bytes + first.shared_bytes);
    assert!(first.exclusive_bytes < first.size_bytes);
}

#[tokio::test]
async fn usage_of_team_has_nothing_else() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let team: TeamId = "strangers".parse().unwrap();
    let made = auth::create_team_key(&plane.store, team, Scopes::Admin, "of a test").await;
    let stranger = client::Client::new(&plane.url, &made.unwrap().1.expose()).unwrap();
    let usage = stranger.disk_usage().await.unwrap();
    assert_eq!(usage.sandboxes.count, 0);
    assert_eq!((usage.images, usage.preboot_cache), (None, None));
    assert!(usage.by_sandbox.is_empty());
    assert!(
        stranger
            .sandbox_disk_usage(&id)
            .await
            .unwrap_err()
            .is_not_found()
    );
}

#[tokio::test]
async fn usage_without_host_is_refused() {
    let (host, _ground, plane) = one().await;
    plane.create().await;
    host.fail_next(
        "GetDiskUsage",
        connectrpc::ConnectError::internal("bad luck"),
    );
    refused(
        plane.request(Method::GET, "/v1/disk-usage"),
        502,
        "agent_error",
    )
    .await;
}
