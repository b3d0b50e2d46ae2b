//! Sandboxes from templates with memory.

use hostd::keep_alive::KeepAliveLimit;
use model::{SandboxId, SandboxSpec, SupervisedCommand};

use crate::history::{Kind, runtime, start};
use crate::host::Place;
use crate::operations::spec;
use crate::world::World;

fn with_start_command(template: &str, cmd: &str) -> SandboxSpec {
    SandboxSpec {
        start_command: Some(SupervisedCommand {
            cmd: cmd.to_owned(),
            ..SupervisedCommand::default()
        }),
        ..spec(template)
    }
}

#[test]
fn template_keeps_limit_of_source() {
    crate::world::install();
    let (world, place) = (World::new(1), Place::new());
    world.enter(false);
    world.begins(0);
    let runtime = runtime(&world);
    runtime.block_on(async {
        crate::guest::spawn_guests(&world, &place);
        let manager = start(&world, &place, Kind::default()).await.unwrap();
        let create = async |spec| {
            manager
                .ensure_sandbox(&SandboxId::random(), spec)
                .await
                .unwrap()
        };
        let source = create(with_start_command("base", "one")).await;
        let name = "made".parse().unwrap();
        let made = manager
            .create_template(&source.id, &name, true, false)
            .await;
        made.unwrap();
        // The same start command goes on where it was, and another one takes its place.
        let same = create(with_start_command("made", "one")).await;
        let other = create(with_start_command("made", "two")).await;
        for (handle, starts, cmd) in [(&same, 1, "one"), (&other, 2, "two")] {
            let limit = handle.record.borrow().keep_alive;
            assert_eq!(limit, KeepAliveLimit::Nothing);
            let mut vms = world.vms().into_iter();
            let vm = vms.find(|vm| vm.sandbox == handle.id.as_str()).unwrap();
            let memory = vm.state.borrow().memory.clone();
            assert_eq!(
                (memory.starts, memory.start_command.as_deref()),
                (starts, Some(cmd))
            );
        }
        for handle in [same, other, source] {
            manager.remove(&handle.id).await;
        }
        manager.remove_template(&name).await.unwrap();
    });
    world.ends();
    drop(runtime);
    assert_eq!(world.verdict(), None);
}

#[test]
fn ended_start_command_runs_in_new_sandboxes() {
    crate::world::install();
    let (world, place) = (World::new(1), Place::new());
    world.enter(false);
    world.begins(0);
    let runtime = runtime(&world);
    runtime.block_on(async {
        crate::guest::spawn_guests(&world, &place);
        let manager = start(&world, &place, Kind::default()).await.unwrap();
        let find_vm = |handle: &hostd::sandbox::Handle| {
            let mut vms = world.vms().into_iter();
            vms.find(|vm| vm.sandbox == handle.id.as_str()).unwrap()
        };
        let create = async |template| {
            let spec = with_start_command(template, "one");
            let created = manager.ensure_sandbox(&SandboxId::random(), spec).await;
            created.unwrap()
        };
        let source = create("base").await;
        find_vm(&source)
            .state
            .send_modify(|state| state.memory.is_start_command_ended = true);
        let name = "made".parse().unwrap();
        let made = manager.create_template(&source.id, &name, true, false);
        made.await.unwrap();
        let new = create("made").await;
        let children = [SandboxId::random()];
        let child = manager.fork_sandbox(&source.id, &children).await.unwrap();
        manager.pause_sandbox(&source.id).await.unwrap();
        let resumed = manager.resume_sandbox(&source.id).await.unwrap();
        // Asked for just now; the others go on as they were.
        for (handle, starts) in [(&new, 2), (&child[0], 1), (&resumed, 1)] {
            let memory = find_vm(handle).state.borrow().memory.clone();
            assert_eq!(
                (memory.starts, memory.is_start_command_ended),
                (starts, starts == 1)
            );
        }
        for handle in [&new, &child[0], &resumed] {
            manager.remove(&handle.id).await;
        }
        manager.remove_template(&name).await.unwrap();
    });
    world.ends();
    drop(runtime);
    assert_eq!(world.verdict(), None);
}
