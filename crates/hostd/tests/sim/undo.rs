//! Automatic checkpoints, and undos of simulated guests.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hostd::sandbox::manager::undo::UndoTarget;
use hostd::sandbox::{Handle, Manager, SandboxError};
use model::{AutoCheckpoint, SandboxId, SandboxSpec};

use crate::history::{Kind, runtime, start};
use crate::host::Place;
use crate::operations::spec;
use crate::vm::SimVm;
use crate::world::World;

const BEFORE_COMMANDS: AutoCheckpoint = AutoCheckpoint {
    before_each_command: true,
    every_sec: None,
    keep: 3,
    max_bytes: None,
};

/// Host with one sandbox.
struct Scene {
    world: Arc<World>,
    manager: Arc<Manager>,
    handle: Handle,
    id: SandboxId,
}

impl Scene {
    fn vm(&self) -> Arc<SimVm> {
        let mut vms = self.world.vms();
        vms.retain(|vm| vm.lives());
        vms.pop().unwrap()
    }

    fn token(&self) -> String {
        self.handle.record.borrow().token.clone()
    }

    /// Sets the guest's value by a command.
    async fn command(&self, value: u64) {
        let _counted = self.manager.checkpoint_before_command(&self.handle).await;
        assert!(self.vm().write(&self.token(), value).await);
    }

    async fn value(&self) -> u64 {
        self.vm().read(&self.token()).await.unwrap()
    }

    async fn names(&self) -> Vec<String> {
        let found = self.manager.list_checkpoints(&self.id).await.unwrap();
        found.iter().map(|found| found.name.to_string()).collect()
    }
}

/// Runs `test` with a sandbox of that policy, on a host that keeps so many checkpoints of each.
fn with_policy(policy: AutoCheckpoint, checkpoints: usize, test: impl AsyncFnOnce(&Scene)) {
    crate::world::install();
    let (world, mut place) = (World::new(1), Place::new());
    place.limits.checkpoints = checkpoints;
    world.enter(false);
    world.begins(0);
    let runtime = runtime(&world);
    runtime.block_on(async {
        crate::guest::spawn_guests(&world, &place);
        let manager = start(&world, &place, Kind::default()).await.unwrap();
        let id = SandboxId::random();
        let spec = SandboxSpec {
            auto_checkpoint: Some(policy),
            ..spec("base")
        };
        let handle = manager.ensure_sandbox(&id, spec).await.unwrap();
        let scene = Scene {
            world: Arc::clone(&world),
            manager,
            handle,
            id,
        };
        test(&scene).await;
        scene.manager.remove(&scene.id).await;
    });
    world.ends();
    drop(runtime);
    assert_eq!(world.verdict(), None);
}

#[test]
fn undo_goes_back_and_is_undone() {
    with_policy(BEFORE_COMMANDS, 100, async |scene| {
        let mine = "mine".parse().unwrap();
        let made = scene.manager.create_checkpoint(&scene.id, &mine).await;
        made.unwrap();
        for value in 1..=5 {
            scene.command(value).await;
        }
        // The oldest have gone, but not that of the user.
        assert_eq!(scene.names().await.len(), 4);
        let undo = async |target| scene.manager.undo_sandbox(&scene.id, target).await;
        let first = undo(UndoTarget::Steps(1)).await.unwrap();
        assert_eq!(scene.value().await, 4);
        undo(UndoTarget::Steps(1)).await.unwrap();
        assert_eq!(scene.value().await, 3);
        let saved = UndoTarget::Checkpoint(first.saved_as);
        undo(saved).await.unwrap();
        assert_eq!(scene.value().await, 5);
        undo(UndoTarget::Checkpoint(mine)).await.unwrap();
        assert_eq!(scene.value().await, 0);
        assert!(scene.names().await.contains(&"mine".to_owned()));
        let far = undo(UndoTarget::Steps(9)).await.unwrap_err();
        assert!(
            matches!(far, SandboxError::NoHistory { asked: 9, .. }),
            "{far}"
        );
    });
}

#[test]
fn commands_together_share_one_checkpoint() {
    with_policy(BEFORE_COMMANDS, 100, async |scene| {
        let before = |_| scene.manager.checkpoint_before_command(&scene.handle);
        let counted = join_all((0..5).map(before)).await;
        assert_eq!(scene.names().await.len(), 1);
        drop(counted);
        scene.command(1).await;
        assert_eq!(scene.names().await.len(), 2);
    });
}

#[test]
fn failed_automatic_checkpoint_fails_no_command() {
    with_policy(BEFORE_COMMANDS, 1, async |scene| {
        let mine = "mine".parse().unwrap();
        let made = scene.manager.create_checkpoint(&scene.id, &mine).await;
        made.unwrap();
        scene.command(7).await;
        scene.command(8).await;
        assert_eq!(scene.value().await, 8);
        let failure = scene.handle.auto_checkpoints.failure().unwrap();
        assert!(failure.contains("AGENT_MAX_CHECKPOINTS"), "{failure}");
        let (entries, _) = scene.handle.log.entries_since(0);
        let told = entries.iter().filter(|entry| entry.line.contains(&failure));
        assert_eq!(told.count(), 1);
        let removed = scene.manager.remove_checkpoint(&scene.id, &mine).await;
        removed.unwrap();
        scene.command(9).await;
        assert_eq!(scene.handle.auto_checkpoints.failure(), None);
    });
}

#[test]
fn idle_sandbox_makes_no_timed_checkpoint() {
    let policy = AutoCheckpoint {
        before_each_command: false,
        every_sec: Some(10),
        ..BEFORE_COMMANDS
    };
    with_policy(policy, 100, async |scene| {
        let sleep = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        // One of the sandbox as it began.
        sleep(60).await;
        assert_eq!(scene.names().await.len(), 1);
        scene.handle.activity.restart_idle_time();
        sleep(60).await;
        assert_eq!(scene.names().await.len(), 2);
        let set = scene.manager.set_auto_checkpoint(&scene.id, None).await;
        set.unwrap();
        scene.handle.activity.restart_idle_time();
        sleep(60).await;
        assert_eq!(scene.names().await.len(), 2);
    });
}
