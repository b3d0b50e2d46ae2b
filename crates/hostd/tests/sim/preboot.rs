//! Entries of the preboot cache that are damaged.

use std::collections::BTreeSet;
use std::fs;

use model::SandboxId;

use crate::history::{Kind, runtime, start};
use crate::host::Place;
use crate::operations::spec;
use crate::world::World;

#[test]
fn preboot_entry_without_file_costs_boot() {
    crate::world::install();
    let (world, place) = (World::new(1), Place::new());
    world.enter(false);
    world.begins(0);
    let runtime = runtime(&world);
    runtime.block_on(async {
        crate::guest::spawn_guests(&world, &place);
        let kind = Kind::with_preboot_cache();
        let manager = start(&world, &place, kind).await.unwrap();
        let create = async || {
            let id = SandboxId::random();
            manager.ensure_sandbox(&id, spec("base")).await.map(|_| id)
        };
        let mut ids = vec![create().await.unwrap()];
        let names = || -> BTreeSet<_> { place.preboot_files().into_iter().collect() };
        let whole = names();
        assert!(whole.len() >= 5, "{whole:?}");
        for file in &whole {
            fs::remove_file(file).unwrap();
            let created = create().await;
            ids.push(created.unwrap_or_else(|error| panic!("without {file:?}: {error}")));
            assert_eq!(names(), whole, "without {file:?} there is no new entry");
        }
        for id in &ids {
            manager.remove(id).await;
        }
    });
    world.ends();
    drop(runtime);
    assert_eq!(world.verdict(), None);
    assert!(place.leftovers().is_empty(), "{:?}", place.leftovers());
}
