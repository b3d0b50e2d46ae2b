//! An agent starts over what one of the version before has left: sandboxes that run, a paused one, a
//! checkpoint and a template. `records/` has the files of that version, as it wrote them on
//! 2026-11-28; those of an agent of today are brought to their form: fields that they lack go, and
//! files get the names of then.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use hostd::sandbox::Manager;
use hostd::sandbox::state::Phase;
use model::SandboxId;
use serde_json::Value;

use crate::history::{Kind, runtime, start};
use crate::host::Place;
use crate::operations::spec;
use crate::vm::SimVm;
use crate::world::World;

const SANDBOX: &str = include_str!("records/sandbox.json");
/// Of a snapshot; its name today is that of a template's description then.
const INSTANT: &str = include_str!("records/instant.json");
const TEMPLATE: &str = include_str!("records/snapshot.json");

/// Removes the fields that `earlier` lacks.
fn keep_fields(value: &mut Value, earlier: &Value) {
    let (Value::Object(fields), Value::Object(kept)) = (value, earlier) else {
        return;
    };
    fields.retain(|name, _| kept.contains_key(name));
    for (name, field) in fields {
        keep_fields(field, &kept[name]);
    }
}

/// Writes a record in the form of `earlier`, under the name that it had.
fn rewrite(path: &Path, earlier: &str, name: &str) {
    let mut record: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    keep_fields(&mut record, &serde_json::from_str(earlier).unwrap());
    fs::remove_file(path).unwrap();
    fs::write(path.with_file_name(name), record.to_string()).unwrap();
}

/// Brings all records below a directory to their earlier form, and returns their number.
fn rewrite_all(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let below: usize = entries
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| rewrite_all(&entry.path()))
        .sum();
    let mut own = 0;
    // The description of a template comes last: it takes the name that the snapshot's had.
    for (name, earlier, former) in [
        ("sandbox.json", SANDBOX, "sandbox.json"),
        ("snapshot.json", INSTANT, "instant.json"),
        ("template.json", TEMPLATE, "snapshot.json"),
    ] {
        if dir.join(name).exists() {
            rewrite(&dir.join(name), earlier, former);
            own += 1;
        }
    }
    below + own
}

/// Sandboxes that an agent of the version before has left.
struct Left {
    running: SandboxId,
    paused: SandboxId,
    /// The VM that runs: another one is another boot.
    vm: Arc<SimVm>,
}

fn vm_of(world: &World, id: &SandboxId) -> Arc<SimVm> {
    let mut vms = world.vms();
    vms.retain(|vm| vm.lives() && vm.sandbox == id.as_str());
    vms.pop().unwrap()
}

async fn token(manager: &Manager, id: &SandboxId) -> String {
    let handle = manager.find_sandbox(id).await.unwrap();
    let record = handle.record.borrow();
    record.token.clone()
}

async fn write(world: &World, manager: &Manager, id: &SandboxId, value: u64) {
    let token = token(manager, id).await;
    assert!(vm_of(world, id).write(&token, value).await);
}

async fn read(world: &World, manager: &Manager, id: &SandboxId) -> Option<u64> {
    let token = token(manager, id).await;
    vm_of(world, id).read(&token).await
}

async fn leave_sandboxes(world: &Arc<World>, place: &Place) -> Left {
    let manager = start(world, place, Kind::default()).await.unwrap();
    let [running, paused] = [SandboxId::random(), SandboxId::random()];
    for (id, value) in [(&running, 7), (&paused, 8)] {
        manager.ensure_sandbox(id, spec("base")).await.unwrap();
        write(world, &manager, id, value).await;
    }
    let name = "mine".parse().unwrap();
    manager.create_checkpoint(&running, &name).await.unwrap();
    let name = "saved".parse().unwrap();
    let template = manager.create_template(&running, &name, true, false).await;
    template.unwrap();
    write(world, &manager, &running, 9).await;
    manager.pause_sandbox(&paused).await.unwrap();
    let vm = vm_of(world, &running);
    Left {
        running,
        paused,
        vm,
    }
}

/// Uses everything that is left, as its owners do after the upgrade.
async fn use_sandboxes(world: &Arc<World>, place: &Place, left: &Left) {
    let manager = start(world, place, Kind::default()).await.unwrap();
    let handle = manager.find_sandbox(&left.running).await.unwrap();
    assert_eq!(handle.record.borrow().phase, Phase::Running);
    // A pause is answered when the state is saved, so the agent before may have died while it
    // released the VM: this one goes on with that.
    let mut record = manager.find_sandbox(&left.paused).await.unwrap().record;
    let paused = record.wait_for(|record| matches!(record.phase, Phase::Paused { .. }));
    paused.await.unwrap();
    assert!(Arc::ptr_eq(&vm_of(world, &left.running), &left.vm));
    assert_eq!(read(world, &manager, &left.running).await, Some(9));
    write(world, &manager, &left.running, 10).await;

    let children = [SandboxId::random(), SandboxId::random()];
    let forked = manager.fork_sandbox(&left.running, &children).await;
    forked.unwrap();
    assert_eq!(read(world, &manager, &children[0]).await, Some(10));
    manager.pause_sandbox(&left.running).await.unwrap();
    manager.resume_sandbox(&left.running).await.unwrap();
    assert_eq!(read(world, &manager, &left.running).await, Some(10));
    let name = "mine".parse().unwrap();
    let rolled_back = manager.rollback_sandbox(&left.running, &name).await;
    rolled_back.unwrap();
    assert_eq!(read(world, &manager, &left.running).await, Some(7));
    let name = "later".parse().unwrap();
    let template = manager.create_template(&left.running, &name, true, false);
    template.await.unwrap();

    manager.resume_sandbox(&left.paused).await.unwrap();
    assert_eq!(read(world, &manager, &left.paused).await, Some(8));
    let from_template = SandboxId::random();
    let created = manager.ensure_sandbox(&from_template, spec("saved")).await;
    created.unwrap();
    assert_eq!(read(world, &manager, &from_template).await, Some(7));
    for handle in manager.list_sandboxes().await {
        manager.remove(&handle.id).await;
    }
}

#[test]
fn sandboxes_of_earlier_version_live_on() {
    crate::world::install();
    let (world, place) = (World::new(1), Place::new());
    world.enter(false);
    world.begins(0);
    let first = runtime(&world);
    let left = first.block_on(async {
        crate::guest::spawn_guests(&world, &place);
        leave_sandboxes(&world, &place).await
    });
    world.ends();
    drop(first);
    // Two sandboxes, a saved state, a checkpoint, and a template with its snapshot.
    assert_eq!(rewrite_all(place.root()), 6);
    world.begins(0);
    let second = runtime(&world);
    second.block_on(async {
        crate::guest::spawn_guests(&world, &place);
        use_sandboxes(&world, &place, &left).await;
    });
    world.ends();
    drop(second);
    assert_eq!(world.verdict(), None);
}
