//! A sandbox that stands still since the host's disk is full.

use hostd::sandbox::SandboxError;
use model::SandboxId;

use crate::history::{Kind, runtime, start};
use crate::host::Place;
use crate::operations::spec;
use crate::world::World;

#[test]
fn calls_to_a_sandbox_that_stands_still_are_refused_until_it_goes_on() {
    crate::world::install();
    let (world, place) = (World::new(1), Place::new());
    world.enter(false);
    world.begins(0);
    let runtime = runtime(&world);
    runtime.block_on(async {
        crate::guest::spawn_guests(&world, &place);
        let manager = start(&world, &place, Kind::default()).await.unwrap();
        let id = SandboxId::random();
        let handle = manager.ensure_sandbox(&id, spec("base")).await.unwrap();
        handle.stalled.set(Some("no room"));
        let refused = manager.find_running(&id).await.unwrap_err();
        assert!(
            matches!(&refused, SandboxError::Stalled(why) if why == "no room"),
            "{refused}"
        );
        // Whoever was refused does not count as somebody who uses it.
        assert!(!handle.activity.is_in_use());
        handle.stalled.set(None);
        drop(manager.find_running(&id).await.unwrap());
        handle.stalled.set(Some("no room"));
        manager.remove(&id).await;
    });
    world.ends();
    drop(runtime);
    assert_eq!(world.verdict(), None);
    assert!(place.leftovers().is_empty(), "{:?}", place.leftovers());
}
