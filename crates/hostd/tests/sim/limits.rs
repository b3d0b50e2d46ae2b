//! How much of a host's disk one sandbox may take with what it keeps.

use std::sync::Arc;

use hostd::sandbox::{Manager, SandboxError};
use model::SandboxId;

use crate::history::{Kind, runtime, start};
use crate::host::Place;
use crate::operations::spec;
use crate::world::World;

/// Runs `test` on a host with small limits, with two sandboxes; then nothing is left.
fn with_small_limits(test: impl AsyncFnOnce(Arc<Manager>, [SandboxId; 2])) {
    crate::world::install();
    let (world, mut place) = (World::new(1), Place::new());
    place.limits.checkpoints = 2;
    place.limits.snapshots = 2;
    world.enter(false);
    world.begins(0);
    let runtime = runtime(&world);
    runtime.block_on(async {
        crate::guest::spawn_guests(&world, &place);
        let manager = start(&world, &place, Kind::default()).await.unwrap();
        let ids = [SandboxId::random(), SandboxId::random()];
        for id in &ids {
            manager.ensure_sandbox(id, spec("base")).await.unwrap();
        }
        test(Arc::clone(&manager), ids.clone()).await;
        for id in &ids {
            manager.remove(id).await;
        }
    });
    world.ends();
    drop(runtime);
    assert_eq!(world.verdict(), None);
}

/// Checks that a refusal says how many there are, what the limit is, and what to do.
fn assert_refusal<T: std::fmt::Debug>(outcome: Result<T, SandboxError>, what: &str, setting: &str) {
    let text = outcome.unwrap_err().to_string();
    for part in [
        format!("has 2 {what}"),
        "keeps 2 of each sandbox".to_owned(),
        setting.to_owned(),
        "remove some".to_owned(),
    ] {
        assert!(text.contains(&part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn checkpoint_beyond_limit_is_refused() {
    with_small_limits(async |manager, [full, other]| {
        let make = async |id: &SandboxId, name: &str| {
            manager.create_checkpoint(id, &name.parse().unwrap()).await
        };
        // At the same time: those that are being made count, too.
        let names = ["a", "b", "c", "d"];
        let made = futures::future::join_all(names.map(|name| make(&full, name))).await;
        assert_eq!(
            made.iter().filter(|made| made.is_ok()).count(),
            2,
            "{made:?}"
        );
        assert_refusal(
            make(&full, "e").await,
            "checkpoints",
            "AGENT_MAX_CHECKPOINTS",
        );
        make(&other, "a").await.unwrap();
        let kept = manager.list_checkpoints(&full).await.unwrap();
        assert_eq!(kept.len(), 2);
        let name = kept[0].name.clone();
        manager.remove_checkpoint(&full, &name).await.unwrap();
        make(&full, "e").await.unwrap();
    });
}

#[test]
fn snapshot_beyond_limit_is_refused() {
    with_small_limits(async |manager, [full, other]| {
        let make = async |id: &SandboxId, name: &str| {
            manager
                .create_template(id, &name.parse().unwrap(), false, false)
                .await
        };
        make(&full, "a").await.unwrap();
        make(&full, "b").await.unwrap();
        assert_refusal(make(&full, "c").await, "snapshots", "AGENT_MAX_SNAPSHOTS");
        make(&other, "c").await.unwrap();
        manager
            .remove_template(&"a".parse().unwrap())
            .await
            .unwrap();
        make(&full, "d").await.unwrap();
        for name in ["b", "c", "d"] {
            manager
                .remove_template(&name.parse().unwrap())
                .await
                .unwrap();
        }
    });
}

#[test]
fn draining_host_makes_no_sandboxes() {
    with_small_limits(async |manager, [id, _]| {
        let drain = &manager.host_drain();
        drain.request().unwrap();
        let new = SandboxId::random();
        let refusal = manager
            .ensure_sandbox(&new, spec("base"))
            .await
            .unwrap_err();
        assert!(matches!(refusal, SandboxError::Draining), "{refusal}");
        let children = [SandboxId::random()];
        let refusal = manager.fork_sandbox(&id, &children).await.unwrap_err();
        assert!(matches!(refusal, SandboxError::Draining), "{refusal}");
        // Those that are here go on.
        manager.ensure_sandbox(&id, spec("base")).await.unwrap();
        manager.pause_sandbox(&id).await.unwrap();
        manager.resume_sandbox(&id).await.unwrap();
        drain.withdraw().unwrap();
        manager.ensure_sandbox(&new, spec("base")).await.unwrap();
        manager.remove(&new).await;
    });
}
