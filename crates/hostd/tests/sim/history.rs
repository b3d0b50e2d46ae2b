//! One history: agents live and die over one directory, and at last one clears everything away.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hostd::sandbox::{Manager, SandboxError};
use model::SandboxId;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use crate::host::Place;
use crate::model::Model;
use crate::operations::{Client, PATIENCE};
use crate::rows::{Rows, Watch};
use crate::world::{Probe, World, locked};

/// Tasks that ask at the same time, and questions of each in the life of one agent.
const CLIENTS: u64 = 4;
const QUESTIONS: u64 = 6;
pub const HOUR_MS: i64 = 3_600_000;

/// What was never to be and was, with the story that led to it.
pub fn run(seed: u64) -> Option<String> {
    let world = World::new(seed);
    let model = Arc::new(Mutex::new(Model::default()));
    let rows = Arc::default();
    world.enter(false);
    let kind = Kind::draw(&world);
    let place = Arc::new(if kind.full {
        Place::with_own_file_system()
    } else {
        Place::new()
    });
    for _ in 0..=kind.crashes {
        live(&world, &place, &model, &rows, kind);
        if kind.clock && world.one_in(2) {
            // While no agent runs.
            world.set_clock(-HOUR_MS);
        }
    }
    clear(&world, &place, &model, &rows, kind);
    world.verdict()
}

/// What may go wrong in this history.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kind {
    crashes: u64,
    /// One call in so many.
    faults: u64,
    pub deaths: bool,
    warm: bool,
    /// The clock is set by an hour now and then, forward or back.
    pub clock: bool,
    /// Some fsyncs take as long as a disk that stalls.
    slow: bool,
    /// The host's disk is full now and then, also when an agent starts.
    pub full: bool,
}

impl Kind {
    /// Returns a history without faults, with a preboot cache.
    pub fn with_preboot_cache() -> Self {
        Self {
            warm: true,
            ..Self::default()
        }
    }

    fn draw(world: &World) -> Self {
        let faults = [0, 0, 80, 25][usize::try_from(world.below(4)).unwrap_or_default()];
        Self {
            crashes: world.below(3),
            faults,
            deaths: world.one_in(3),
            warm: world.one_in(2),
            clock: world.one_in(3),
            slow: world.one_in(3),
            full: world.one_in(3),
        }
    }
}

pub fn runtime(world: &Arc<World>) -> Runtime {
    let world = Arc::clone(world);
    // One task at a time between two looks at whether it is over.
    let mut builder = Builder::new_current_thread();
    builder
        .enable_all()
        .start_paused(true)
        .event_interval(1)
        .on_thread_start(move || world.enter(true));
    builder.build().unwrap()
}

/// The life of one agent, to its end.
fn live(
    world: &Arc<World>,
    place: &Arc<Place>,
    model: &Arc<Mutex<Model>>,
    rows: &Arc<tokio::sync::Mutex<Rows>>,
    kind: Kind,
) {
    let points = if kind.crashes == 0 || world.one_in(4) {
        0
    } else {
        1 + world.below(120)
    };
    // Or at any moment.
    let moment = if kind.crashes > 0 && world.one_in(4) {
        world.below(5000)
    } else {
        3_600_000
    };
    world.begins(points);
    world.tell(format!("an agent starts: {kind:?}"));
    let runtime = runtime(world);
    runtime.block_on(async {
        let lives = async {
            crate::guest::spawn_guests(world, place);
            let Some((manager, watch)) = start_and_watch(world, place, kind).await else { return };
            place.free();
            check_forks(world, &manager, model).await;
            let watch = tokio::spawn(follow(Arc::clone(world), watch, Arc::clone(rows)));
            answer_probes(world, &manager);
            world.set_faults(kind.faults);
            world.set_slow(if kind.slow { 8 } else { 0 });
            let clients = (0..CLIENTS).map(|_| {
                let client = Client::new(world, place, &manager, model, kind);
                tokio::spawn(client.ask(QUESTIONS))
            });
            for client in clients.collect::<Vec<_>>() {
                ended(world, client.await);
            }
            watch.abort();
        };
        tokio::select! {
            biased;
            () = world.died.notified() => {}
            () = lives => {}
            () = tokio::time::sleep(Duration::from_millis(moment)) => world.tell("    the agent dies".to_owned()),
        }
    });
    world.set_faults(0);
    world.set_slow(0);
    world.ends();
    drop(runtime);
    locked(model).agent_died();
    world.tell("the agent is dead".to_owned());
}

/// Applies reports as they come, for as long as the agent lives.
async fn follow(world: Arc<World>, mut watch: Watch, rows: Arc<tokio::sync::Mutex<Rows>>) {
    watch.list(&world, &mut *rows.lock().await).await;
    loop {
        watch.apply(&world, &mut *rows.lock().await).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Answers whoever asks while a disk is slow, once calls that need no disk have been answered.
fn answer_probes(world: &World, manager: &Arc<Manager>) {
    let (sender, mut probes) = mpsc::unbounded_channel::<Probe>();
    world.set_probe(sender);
    let manager = Arc::clone(manager);
    tokio::spawn(async move {
        while let Some(answer) = probes.recv().await {
            for handle in manager.list_sandboxes().await {
                let _ = manager.find_sandbox(&handle.id).await;
            }
            let _ = answer.send(());
        }
    });
}

/// A client that panicked for a reason of its own has found something.
fn ended(world: &World, joined: Result<(), tokio::task::JoinError>) {
    if let Err(error) = joined
        && let Ok(payload) = error.try_into_panic()
        && !crate::world::is_staged(&*payload)
    {
        world.violation("a client panicked".to_owned());
    }
}

pub async fn start(world: &Arc<World>, place: &Place, kind: Kind) -> Option<Arc<Manager>> {
    start_and_watch(world, place, kind)
        .await
        .map(|(manager, _)| manager)
}

async fn start_and_watch(
    world: &Arc<World>,
    place: &Place,
    kind: Kind,
) -> Option<(Arc<Manager>, Watch)> {
    let host = place.host(world, kind.warm);
    let reports = host.state.reports.subscribe();
    match tokio::time::timeout(PATIENCE, Manager::start(host)).await {
        Ok(Ok(manager)) => {
            let watch = Watch::new(&manager, reports);
            Some((manager, watch))
        }
        Ok(Err(error)) => {
            world.violation(format!("the agent does not start: {error}"));
            None
        }
        Err(_) => {
            world.violation("the agent is stuck at its start".to_owned());
            None
        }
    }
}

/// Forks that an agent before could not finish are there as a whole, or not at all.
async fn check_forks(world: &World, manager: &Manager, model: &Mutex<Model>) {
    let there = crate::forks::that_stay(manager).await;
    for half in locked(model).halves(&there) {
        world.violation(half);
    }
}

/// Every guest that runs has been told the time since it stood still last.
async fn check_clocks(world: &World) {
    // One that did not take it at once is told again.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let late = |vm: &Arc<crate::vm::SimVm>| {
        let state = vm.state.borrow();
        state.runs && state.end.is_none() && state.memory.late
    };
    for vm in world.vms().into_iter().filter(late) {
        world.violation(format!("the clock of {} is late", vm.sandbox));
    }
}

/// The last agent, to which nothing happens: all that was promised is there, and then nothing is.
fn clear(
    world: &Arc<World>,
    place: &Arc<Place>,
    model: &Arc<Mutex<Model>>,
    rows: &Arc<tokio::sync::Mutex<Rows>>,
    kind: Kind,
) {
    world.begins(0);
    world.tell("the last agent starts".to_owned());
    let runtime = runtime(world);
    runtime.block_on(async {
        crate::guest::spawn_guests(world, place);
        let begun = start_and_watch(world, place, Kind { faults: 0, ..kind }).await;
        let Some((manager, mut watch)) = begun else {
            return;
        };
        place.free();
        check_forks(world, &manager, model).await;
        watch.list(world, &mut *rows.lock().await).await;
        let all: Vec<SandboxId> = locked(model).sandboxes.keys().cloned().collect();
        let client = Client::new(world, place, &manager, model, Kind { faults: 0, ..kind });
        for id in all {
            client.verify(&id).await;
        }
        watch.apply(world, &mut *rows.lock().await).await;
        watch.list(world, &mut *rows.lock().await).await;
        check_clocks(world).await;
        for name in locked(model).published.clone() {
            if !place.snapshots().iter().any(|there| there.as_str() == name) {
                world.violation(format!("snapshot {name} was promised and is not there"));
            }
        }
        for handle in manager.list_sandboxes().await {
            if tokio::time::timeout(PATIENCE, manager.remove(&handle.id))
                .await
                .is_err()
            {
                world.violation(format!(
                    "{} cannot be removed: {:?}",
                    handle.id,
                    handle.record.borrow().phase
                ));
            }
        }
        for name in place.snapshots() {
            match manager.remove_template(&name).await {
                Ok(()) => {}
                Err(error @ SandboxError::Failed(_)) => {
                    world.violation(format!("{name} stays: {error}"))
                }
                Err(error) => world.violation(format!("{name} has users: {error}")),
            }
        }
        // For what goes on behind the last answer.
        tokio::time::sleep(Duration::from_secs(5)).await;
    });
    world.ends();
    drop(runtime);
    for left in place.leftovers() {
        world.violation(format!("left behind: {left}"));
    }
    for vm in world.vms() {
        world.violation(format!("left behind: the VM of {}", vm.sandbox));
    }
}
