//! Forks that are cut off by the end of an agent: all of their children, or none.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hostd::sandbox::state::Phase;
use hostd::sandbox::{Handle, Manager};
use model::SandboxId;

use crate::history::{Kind, runtime, start};
use crate::host::Place;
use crate::model::Model;
use crate::operations::spec;
use crate::world::World;

/// Enough for some to wait for their turn to boot while others run.
const CHILDREN: usize = 3;

/// Sandboxes that are there to stay, as an agent sees it that has just started.
pub async fn that_stay(manager: &Manager) -> BTreeSet<SandboxId> {
    let stays = |handle: &&Handle| {
        !matches!(
            handle.record.borrow().phase,
            Phase::Creating | Phase::Removing | Phase::Gone
        )
    };
    manager
        .list_sandboxes()
        .await
        .iter()
        .filter(stays)
        .map(|handle| handle.id.clone())
        .collect()
}

impl Model {
    /// Forks of which an agent that has just started has some children only, though nobody asked to
    /// remove any.
    pub fn halves(&self, there: &BTreeSet<SandboxId>) -> Vec<String> {
        let is_half = |children: &&Vec<SandboxId>| {
            let was_removed = |child| self.sandboxes.get(child).is_none_or(|known| known.removing);
            let left = children
                .iter()
                .filter(|child| there.contains(*child))
                .count();
            left > 0 && left < children.len() && !children.iter().any(was_removed)
        };
        self.forks
            .iter()
            .filter(is_half)
            .map(|children| format!("of {children:?} some are left"))
            .collect()
    }
}

/// How many children an agent left that died at the step of that number, and whether it had
/// answered before.
fn cut_off_at(step: u64) -> (usize, bool) {
    let (world, place) = (World::new(step), Place::new());
    world.enter(false);
    let children: Vec<SandboxId> = (0..CHILDREN).map(|_| SandboxId::random()).collect();
    let has_answered = forks(&world, &place, &children, step);
    let left = is_left(&world, &place, &children);
    if let Some(story) = world.verdict() {
        panic!("{story}");
    }
    assert!(
        place.leftovers().is_empty(),
        "step {step}: {:?}",
        place.leftovers()
    );
    (left, has_answered)
}

/// The agent that dies.
fn forks(world: &Arc<World>, place: &Place, children: &[SandboxId], step: u64) -> bool {
    world.begins(0);
    let runtime = runtime(world);
    let has_answered = runtime.block_on(async {
        crate::guest::spawn_guests(world, place);
        let manager = start(world, place, Kind::default()).await.unwrap();
        let source = SandboxId::random();
        manager.ensure_sandbox(&source, spec("base")).await.unwrap();
        world.begins(step);
        let children = children.to_vec();
        let forked =
            tokio::spawn(async move { manager.fork_sandbox(&source, &children).await.is_ok() });
        tokio::select! {
            biased;
            () = world.died.notified() => false,
            forked = forked => !world.is_dead() && forked.unwrap_or(false),
        }
    });
    world.ends();
    drop(runtime);
    has_answered
}

/// The next one, which removes what is there in the end.
fn is_left(world: &Arc<World>, place: &Place, children: &[SandboxId]) -> usize {
    world.begins(0);
    let runtime = runtime(world);
    let left = runtime.block_on(async {
        crate::guest::spawn_guests(world, place);
        let manager = start(world, place, Kind::default()).await.unwrap();
        let there = that_stay(&manager).await;
        for handle in manager.list_sandboxes().await {
            manager.remove(&handle.id).await;
        }
        // For what goes on behind the last answer.
        tokio::time::sleep(Duration::from_secs(5)).await;
        children
            .iter()
            .filter(|child| there.contains(*child))
            .count()
    });
    world.ends();
    drop(runtime);
    left
}

#[test]
fn a_fork_that_was_cut_off_at_any_step_is_whole_or_not_at_all() {
    crate::world::install();
    let (mut none, mut all) = (0, 0);
    for step in 1.. {
        let (left, has_answered) = cut_off_at(step);
        assert!(
            left == 0 || left == CHILDREN,
            "step {step}: {left} children are left"
        );
        *(if left == 0 { &mut none } else { &mut all }) += 1;
        if has_answered {
            assert_eq!(left, CHILDREN, "step {step}: they were promised");
            break;
        }
    }
    assert!(none > 0 && all > 1, "{none} had no children, {all} had all");
}
