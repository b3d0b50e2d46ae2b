//! Hosts that creates are placed on.

use std::collections::BTreeSet;

use futures::future::join_all;
use testkit::host::FakeHost;

use crate::support::Ground;

#[tokio::test]
async fn creates_at_once_spread_over_hosts() {
    let hosts = ["host-a", "host-b", "host-c"].map(FakeHost::start_as);
    let ground = Ground::new().await;
    let plane = ground.start(&hosts.each_ref()).await;
    // None has booted before all of them are placed.
    let gates: Vec<_> = hosts
        .iter()
        .flat_map(|host| [host.hold_next("Boot"), host.hold_next("Boot")])
        .collect();
    let creates = (0..6).map(|_| {
        let client = plane.client();
        tokio::spawn(async move { client.create(&Default::default()).await.unwrap() })
    });
    let creates: Vec<_> = creates.collect();
    for gate in &gates {
        gate.wait_until_reached().await;
    }
    drop(gates);
    let ids: BTreeSet<String> = join_all(creates)
        .await
        .into_iter()
        .map(|sandbox| sandbox.unwrap().id)
        .collect();
    assert_eq!(ids.len(), 6);
    for host in &hosts {
        assert_eq!(host.world().sandboxes.len(), 2, "{}", host.url());
    }
}

#[tokio::test]
async fn failed_creates_free_their_places() {
    let failing = FakeHost::start_as("host-a");
    let other = FakeHost::start_as("host-b");
    let ground = Ground::new().await;
    let plane = ground.start(&[&failing, &other]).await;
    for _ in 0..4 {
        failing.fail_next(
            "EnsureSandbox",
            connectrpc::ConnectError::internal("broken"),
        );
        let created = plane.client().create(&Default::default()).await;
        assert!(created.is_err(), "{created:?}");
    }
    for _ in 0..4 {
        plane.create().await;
    }
    assert_eq!(failing.world().sandboxes.len(), 2);
    assert_eq!(other.world().sandboxes.len(), 2);
}

#[tokio::test]
async fn host_that_hangs_is_passed_over() {
    let silent = FakeHost::start_as("host-a");
    let other = FakeHost::start_as("host-b");
    let ground = Ground::new().await;
    let plane = ground.start(&[&silent, &other]).await;
    // Rounds of reconciliation ask, too.
    let gates: Vec<_> = (0..16).map(|_| silent.hold_next("GetHost")).collect();
    let sandbox = plane.create().await;
    gates[0].wait_until_reached().await;
    assert!(other.world().sandboxes.contains_key(&sandbox.id));
}
