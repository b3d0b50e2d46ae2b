//! Many short histories of a host agent on a simulated machine: the real manager, actors, ledger, disks and snapshots,
//! over virtual machines and guests that are objects of this program. Several clients ask at once, VMs die, calls and
//! writes fail, the agent dies at any step and another one takes over. A model says what may be.
//!
//! Time is the runtime's, which goes on when nothing else does; so waiting costs nothing. A history is drawn from a seed:
//! `WRENN_SIM_SEED=N` runs that one first, `WRENN_SIM_HISTORIES=N` says how many. Threads for blocking work run when the
//! kernel lets them, so a seed may have to be run some times until it tells the same story.

mod full;
mod guest;
mod history;
mod host;
mod model;
mod operations;
mod vm;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Unless told otherwise, no more than these, and none begins after that time: machines are slow or busy.
const HISTORIES: u64 = 1500;
const LIMIT: Duration = Duration::from_secs(50);

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_happens_nothing_is_lost_stuck_or_left_behind() {
    world::install();
    let first = setting("WRENN_SIM_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let asked = setting("WRENN_SIM_HISTORIES");
    let count = asked.unwrap_or(HISTORIES);
    let next = AtomicU64::new(first);
    let begun = Instant::now();
    let (stories, done) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count || (asked.is_none() && begun.elapsed() > LIMIT) {
                return;
            }
            if let Some(story) = history::run(seed) {
                stories.lock().unwrap().push(story);
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    let count = done.into_inner();
    println!("{count} histories from seed {first} in {:.1} s", begun.elapsed().as_secs_f32());
    let stories = stories.into_inner().unwrap();
    for story in &stories {
        println!("{}", story.lines().last().unwrap_or_default());
    }
    let all = stories.join("\n\n");
    assert!(stories.is_empty(), "{} of them must not be:\n{all}", stories.len());
}
