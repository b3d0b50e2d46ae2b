//! A disk on which one fsync does not end.

use std::sync::Arc;

use model::SandboxId;
use tokio::runtime::{Builder, Runtime};

use crate::history::{Kind, start};
use crate::host::Place;
use crate::operations::spec;
use crate::world::World;

/// A runtime whose clock is the machine's: one that is moved on stands still while a thread waits
/// for a disk.
pub fn runtime(world: &Arc<World>) -> Runtime {
    let world = Arc::clone(world);
    let mut builder = Builder::new_current_thread();
    builder
        .enable_all()
        .on_thread_start(move || world.enter(true))
        .build()
        .unwrap()
}

/// The fsync of a new sandbox's record, of a claim, and of a checkpoint's files: meanwhile every
/// other sandbox is made, listed, paused and removed as ever.
#[test]
fn slow_fsync_of_one_sandbox_delays_no_other() {
    crate::world::install();
    for point in ["create::slot-claimed", "ledger::write", "create::recorded"] {
        let (world, place) = (World::new(1), Place::new());
        world.enter(false);
        world.begins(0);
        let runtime = runtime(&world);
        runtime.block_on(async {
            crate::guest::spawn_guests(&world, &place);
            let manager = start(&world, &place, Kind::default()).await.unwrap();
            let (slow, other) = (SandboxId::random(), SandboxId::random());
            world.barrier.close(point);
            let making = {
                let (manager, slow) = (Arc::clone(&manager), slow.clone());
                tokio::spawn(
                    async move { manager.ensure_sandbox(&slow, spec("base")).await.map(drop) },
                )
            };
            let held = Arc::clone(&world);
            tokio::task::spawn_blocking(move || held.barrier.wait_until_held())
                .await
                .unwrap();
            assert!(manager.list_sandboxes().await.is_empty(), "{point}");
            manager.ensure_sandbox(&other, spec("base")).await.unwrap();
            manager
                .create_checkpoint(&other, &"c".parse().unwrap())
                .await
                .unwrap();
            manager
                .create_template(&other, &"s".parse().unwrap(), true, false)
                .await
                .unwrap();
            manager.pause_sandbox(&other).await.unwrap();
            manager
                .remove_template(&"s".parse().unwrap())
                .await
                .unwrap();
            manager.remove(&other).await;
            assert!(
                manager.find_sandbox(&other).await.is_err() && !making.is_finished(),
                "{point}"
            );
            world.barrier.open();
            making.await.unwrap().unwrap();
            manager.remove(&slow).await;
        });
        world.ends();
        drop(runtime);
        assert_eq!(world.verdict(), None);
        assert!(place.leftovers().is_empty(), "{:?}", place.leftovers());
    }
}
