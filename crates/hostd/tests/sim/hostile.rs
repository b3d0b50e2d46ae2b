//! VMMs and guests that answer nothing: they harm themselves alone, and can be removed at any time.

use std::sync::Arc;
use std::time::Duration;

use hostd::sandbox::state::Phase;
use hostd::sandbox::{Manager, SandboxError};
use model::SandboxId;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::history::{Kind, runtime, start};
use crate::host::Place;
use crate::operations::{PATIENCE, spec};
use crate::world::World;

/// The life of an agent on this machine.
fn live(world: &Arc<World>, place: &Place, story: impl AsyncFnOnce(Arc<Manager>)) {
    live_in(runtime(world), world, place, story);
}

fn live_in(
    runtime: Runtime,
    world: &Arc<World>,
    place: &Place,
    story: impl AsyncFnOnce(Arc<Manager>),
) {
    world.begins(0);
    runtime.block_on(async {
        crate::guest::spawn_guests(world, place);
        story(start(world, place, Kind::default()).await.unwrap()).await;
    });
    world.ends();
    drop(runtime);
}

fn machine() -> (Arc<World>, Place) {
    crate::world::install();
    let (world, place) = (World::new(1), Place::new());
    world.enter(false);
    (world, place)
}

fn check_end(world: &World, place: &Place) {
    assert_eq!(world.verdict(), None);
    assert!(place.leftovers().is_empty(), "{:?}", place.leftovers());
    assert!(world.vms().is_empty());
}

async fn remove(manager: &Manager, id: &SandboxId, during: &str) {
    let removed = timeout(PATIENCE, manager.remove(id)).await;
    assert!(removed.is_ok(), "the removal waits for {during}");
}

async fn command(manager: &Arc<Manager>, id: &SandboxId, what: &str) -> Result<(), SandboxError> {
    match what {
        "pause" => manager.pause_sandbox(id).await.map(drop),
        "checkpoint" => manager
            .create_checkpoint(id, &"c".parse().unwrap())
            .await
            .map(drop),
        "snapshot" => manager
            .create_template(id, &"s".parse().unwrap(), true, false)
            .await
            .map(drop),
        _ => manager
            .fork_sandbox(id, &[SandboxId::random()])
            .await
            .map(drop),
    }
}

#[test]
fn removal_does_not_wait_for_a_command_to_a_silent_vmm() {
    let (world, place) = machine();
    live(&world, &place, async |manager| {
        for what in ["pause", "checkpoint", "snapshot", "fork"] {
            let id = SandboxId::random();
            manager.ensure_sandbox(&id, spec("base")).await.unwrap();
            world.silence_vmm(id.as_str());
            let asked = {
                let (manager, id) = (Arc::clone(&manager), id.clone());
                tokio::spawn(async move { command(&manager, &id, what).await })
            };
            // Until it waits for the VMM.
            tokio::time::sleep(Duration::from_secs(30)).await;
            assert!(!asked.is_finished(), "{what}");
            remove(&manager, &id, what).await;
            let refused = asked.await.unwrap().unwrap_err();
            assert!(
                matches!(refused, SandboxError::NotRunning { .. }),
                "{what}: {refused}"
            );
        }
        // For captures that were given up to be discarded.
        tokio::time::sleep(Duration::from_secs(30)).await;
    });
    check_end(&world, &place);
}

#[test]
fn removal_does_not_wait_for_an_adoption() {
    let (world, place) = machine();
    let (silent, other) = (SandboxId::random(), SandboxId::random());
    live(&world, &place, async |manager| {
        for id in [&silent, &other] {
            manager.ensure_sandbox(id, spec("base")).await.unwrap();
        }
    });
    world.silence_vmm(silent.as_str());
    live(&world, &place, async |manager| {
        drop(manager.find_running(&other).await.unwrap());
        remove(&manager, &silent, "the adoption").await;
        remove(&manager, &other, "another").await;
    });
    check_end(&world, &place);
}

#[test]
fn given_up_capture_is_discarded() {
    let (world, place) = machine();
    live_in(
        crate::slow::runtime(&world),
        &world,
        &place,
        async |manager| {
            let id = SandboxId::random();
            manager.ensure_sandbox(&id, spec("base")).await.unwrap();
            manager.pause_sandbox(&id).await.unwrap();
            world.barrier.close("snapshot::synced");
            let asked = {
                let (manager, id) = (Arc::clone(&manager), id.clone());
                tokio::spawn(async move { command(&manager, &id, "snapshot").await })
            };
            let held = Arc::clone(&world);
            tokio::task::spawn_blocking(move || held.barrier.wait_until_held())
                .await
                .unwrap();
            let removing = {
                let (manager, id) = (Arc::clone(&manager), id.clone());
                tokio::spawn(async move { manager.remove(&id).await })
            };
            // The removal is over while the capture still waits for its fsync.
            removing.await.unwrap();
            assert!(asked.await.unwrap().is_err());
            world.barrier.open();
            let is_discarded = async {
                while !place.leftovers().is_empty() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            assert!(
                timeout(PATIENCE, is_discarded).await.is_ok(),
                "{:?}",
                place.leftovers()
            );
        },
    );
    check_end(&world, &place);
}

/// More of them than there are permits and turns.
fn silent_guests(world: &World) -> Vec<SandboxId> {
    let cpus = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let ids: Vec<SandboxId> = (0..=2 * cpus).map(|_| SandboxId::random()).collect();
    ids.iter().for_each(|id| world.silence_guest(id.as_str()));
    ids
}

async fn are_in(manager: &Manager, ids: &[SandboxId], phase: &Phase) {
    for id in ids {
        assert_eq!(
            manager
                .find_sandbox(id)
                .await
                .unwrap()
                .record
                .borrow()
                .phase,
            *phase
        );
    }
}

#[test]
fn silent_guests_keep_no_other_from_being_made() {
    let (world, place) = machine();
    live(&world, &place, async |manager| {
        let silent = silent_guests(&world);
        let making = silent.iter().cloned().map(|id| {
            let manager = Arc::clone(&manager);
            tokio::spawn(async move { manager.ensure_sandbox(&id, spec("base")).await.map(drop) })
        });
        let making: Vec<_> = making.collect();
        tokio::task::yield_now().await;
        let other = SandboxId::random();
        let handle = manager.ensure_sandbox(&other, spec("base")).await.unwrap();
        assert_eq!(handle.record.borrow().phase, Phase::Running);
        are_in(&manager, &silent, &Phase::Creating).await;
        for id in silent.iter().chain([&other]) {
            remove(&manager, id, "its guest").await;
        }
        for made in making {
            made.await.unwrap().unwrap();
        }
    });
    check_end(&world, &place);
}

#[test]
fn resumes_of_silent_guests_back_off_and_delay_no_other() {
    let (world, place) = machine();
    live(&world, &place, async |manager| {
        let cpus = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let silent: Vec<SandboxId> = (0..=2 * cpus).map(|_| SandboxId::random()).collect();
        let other = SandboxId::random();
        for id in silent.iter().chain([&other]) {
            manager.ensure_sandbox(id, spec("base")).await.unwrap();
            manager.pause_sandbox(id).await.unwrap();
        }
        silent
            .iter()
            .for_each(|id| world.silence_guest(id.as_str()));
        let resuming = silent.iter().cloned().map(|id| {
            let manager = Arc::clone(&manager);
            tokio::spawn(async move { manager.resume_sandbox(&id).await.map(drop) })
        });
        let resuming: Vec<_> = resuming.collect();
        tokio::time::sleep(Duration::from_secs(10)).await;
        manager.resume_sandbox(&other).await.unwrap();
        are_in(&manager, &silent, &Phase::Resuming).await;
        for resumed in resuming {
            let failed = resumed.await.unwrap().unwrap_err();
            assert!(
                failed.to_string().contains("the guest agent did not"),
                "{failed}"
            );
        }
        // The first failure may be bad luck.
        let failed = manager.resume_sandbox(&silent[0]).await.unwrap_err();
        assert!(
            failed.to_string().contains("the guest agent did not"),
            "{failed}"
        );
        let refused = manager.find_running(&silent[0]).await.unwrap_err();
        assert!(
            matches!(&refused, SandboxError::ResumeBackoff(why) if why.contains("the guest agent did not")),
            "{refused}"
        );
        for id in silent.iter().chain([&other]) {
            remove(&manager, id, "its guest").await;
        }
    });
    check_end(&world, &place);
}
