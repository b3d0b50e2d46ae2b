//! The console of a sandbox that ends by itself.

use std::time::Duration;

use model::{OnTimeout, SandboxId, SandboxSpec};

use crate::history::{Kind, runtime, start};
use crate::host::Place;
use crate::operations::spec;
use crate::world::{World, locked};

/// Written between the last read and the end, which come 100 ms later.
#[test]
fn idle_end_keeps_last_console_output() {
    crate::world::install();
    let (world, place) = (World::new(1), Place::new());
    world.enter(false);
    world.begins(0);
    let runtime = runtime(&world);
    runtime.block_on(async {
        crate::guest::spawn_guests(&world, &place);
        let manager = start(&world, &place, Kind::default()).await.unwrap();
        let id = SandboxId::random();
        let spec = SandboxSpec {
            timeout_sec: 3,
            on_timeout: OnTimeout::Kill,
            ..spec("base")
        };
        let handle = manager.ensure_sandbox(&id, spec).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        handle.activity.restart_idle_time();
        tokio::time::sleep(Duration::from_millis(2900)).await;
        let vm = world.vms().pop().unwrap();
        locked(&vm.console).extend_from_slice(b"last words\n");
        handle.wait_until_over().await;
        let (entries, _) = handle.log.entries_since(0);
        let texts: Vec<&str> = entries.iter().map(|entry| &*entry.line).collect();
        assert!(texts.contains(&"last words"), "{texts:?}");
        manager.remove(&id).await;
    });
    world.ends();
    drop(runtime);
    assert_eq!(world.verdict(), None);
}
