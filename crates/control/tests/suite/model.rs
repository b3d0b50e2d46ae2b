//! Many short histories of a control plane over fake hosts: several clients ask at once, some hang up, hosts refuse, lose
//! answers, go away and come back, sandboxes end by themselves, and the control plane is killed at any moment and another
//! one takes over its database. A reference model ([`known`]) says what may be.
//!
//! | at the end of every life | at the end of all |
//! |---|---|
//! | rows and hosts agree, and nothing is on its way | everything that is promised can be used as was promised |
//! | what was answered holds; what was not, happened whole or not at all | every sandbox and snapshot can be deleted |
//! | nothing is there that nobody asked for | nothing is left |
//!
//! A history is drawn from a seed before it begins ([`plan`]): `WRENN_MODEL_SEED=N` runs that one first,
//! `WRENN_MODEL_HISTORIES=N` says how many. Time is real, so a seed may have to be run some times until it tells the same
//! story.

mod check;
mod history;
mod known;
mod make;
mod operations;
mod plan;
mod scene;
mod user;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Unless told otherwise none begins after that time: machines are slow or busy.
const LIMIT: Duration = Duration::from_secs(40);
/// At the same time; most of their time they wait.
const THREADS: usize = 6;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_happens_what_was_answered_holds_and_nothing_is_stuck_or_left() {
    let first = setting("WRENN_MODEL_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let asked = setting("WRENN_MODEL_HISTORIES");
    let next = AtomicU64::new(first);
    let begun = Instant::now();
    let (stories, done) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if asked.map_or(begun.elapsed() > LIMIT, |count| seed >= first + count) {
                return;
            }
            if let Some(story) = history::run(seed) {
                stories.lock().unwrap().push(story);
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(work))));
    let count = done.into_inner();
    println!("{count} histories from seed {first} in {:.1} s", begun.elapsed().as_secs_f32());
    let stories = stories.into_inner().unwrap();
    for story in &stories {
        println!("{}", story.lines().last().unwrap_or_default());
    }
    let all = stories.join("\n\n");
    assert!(stories.is_empty(), "{} of them must not be:\n{all}", stories.len());
}
