//! Checkpoints that are cut off by the end of an agent, and those of one name at the same time.

use hostd::sandbox::SandboxError;
use model::SandboxId;

use crate::history::{Kind, runtime, start};
use crate::host::Place;
use crate::operations::spec;
use crate::world::World;

/// Lets one agent die at the step of that number while it makes a checkpoint, and the next one
/// clear up. Returns true if the checkpoint was made before.
fn cut_off_at(step: u64) -> bool {
    let (world, place) = (World::new(step), Place::new());
    world.enter(false);
    world.begins(0);
    let id = SandboxId::random();
    let first = runtime(&world);
    let is_made = first.block_on(async {
        crate::guest::spawn_guests(&world, &place);
        let manager = start(&world, &place, Kind::default()).await.unwrap();
        manager.ensure_sandbox(&id, spec("base")).await.unwrap();
        world.begins(step);
        let id = id.clone();
        let making = tokio::spawn(async move {
            manager
                .create_checkpoint(&id, &"c".parse().unwrap())
                .await
                .is_ok()
        });
        tokio::select! {
            biased;
            () = world.died.notified() => false,
            made = making => !world.is_dead() && made.unwrap_or(false),
        }
    });
    world.ends();
    drop(first);
    world.begins(0);
    let second = runtime(&world);
    second.block_on(async {
        crate::guest::spawn_guests(&world, &place);
        let manager = start(&world, &place, Kind::default()).await.unwrap();
        // Whether it was made or not, the name is one that can be used.
        let left = manager.list_checkpoints(&id).await.unwrap().len();
        assert!(left == 1 || !is_made, "step {step}");
        if left == 0 {
            manager
                .create_checkpoint(&id, &"c".parse().unwrap())
                .await
                .unwrap();
        }
        assert_eq!(place.checkpoint_entries(&id), ["c"], "step {step}");
        manager.remove(&id).await;
    });
    world.ends();
    drop(second);
    assert_eq!(world.verdict(), None);
    is_made
}

#[test]
fn cut_off_checkpoint_leaves_nothing() {
    crate::world::install();
    assert!(
        (1..)
            .find(|step| cut_off_at(*step))
            .is_some_and(|steps| steps > 3)
    );
}

#[test]
fn one_of_two_checkpoints_of_a_name_is_made() {
    crate::world::install();
    let (world, place) = (World::new(1), Place::new());
    world.enter(false);
    world.begins(0);
    let runtime = runtime(&world);
    runtime.block_on(async {
        crate::guest::spawn_guests(&world, &place);
        let manager = start(&world, &place, Kind::default()).await.unwrap();
        let id = SandboxId::random();
        manager.ensure_sandbox(&id, spec("base")).await.unwrap();
        let name = "c".parse().unwrap();
        let calls = (0..4).map(|_| manager.create_checkpoint(&id, &name));
        let outcomes = futures::future::join_all(calls).await;
        let refused = |outcome: &&Result<_, SandboxError>| {
            matches!(outcome, Err(SandboxError::NameTaken { .. }))
        };
        assert_eq!(
            outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
            1,
            "{outcomes:?}"
        );
        assert_eq!(outcomes.iter().filter(refused).count(), 3, "{outcomes:?}");
        assert_eq!(place.checkpoint_entries(&id), ["c"]);
        manager.rollback_sandbox(&id, &name).await.unwrap();
        // Half a checkpoint is none, and does not keep its name from another one.
        place.break_checkpoint(&id, "c");
        assert!(manager.list_checkpoints(&id).await.unwrap().is_empty());
        manager.create_checkpoint(&id, &name).await.unwrap();
        manager.remove(&id).await;
    });
    world.ends();
    drop(runtime);
    assert_eq!(world.verdict(), None);
}
