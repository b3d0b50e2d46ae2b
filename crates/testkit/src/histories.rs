//! Runs random histories side by side, each drawn from a seed, until time or their number is up.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Number of histories of a test.
#[derive(Debug, Clone, Copy)]
pub struct Histories {
    /// Variables `{name}_SEED` and `{name}_HISTORIES` say which comes first, and how many there are
    /// then.
    pub name: &'static str,
    /// Number of histories that run at the same time.
    pub threads: usize,
    /// Maximum by default, and none begins after `limit`: machines are slow or busy.
    pub most: u64,
    pub limit: Duration,
}

impl Histories {
    /// Runs the histories. `history` returns the story of a violation.
    ///
    /// # Panics
    /// When there is such a story: with all of them.
    pub fn run(self, history: impl Fn(u64) -> Option<String> + Sync) {
        let first = self
            .setting("SEED")
            .unwrap_or_else(|| rand::random::<u32>().into());
        let asked = self.setting("HISTORIES");
        let end = first.saturating_add(asked.unwrap_or(self.most));
        let next = AtomicU64::new(first);
        let begun = Instant::now();
        let stories = Mutex::new(Vec::new());
        let done = AtomicU64::new(0);
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end || (asked.is_none() && begun.elapsed() > self.limit) {
                    return;
                }
                if let Some(story) = history(seed) {
                    stories.lock().expect("nobody panics with it").push(story);
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| (0..self.threads).for_each(|_| drop(scope.spawn(work))));
        let count = done.into_inner();
        println!(
            "{count} histories from seed {first} in {:.1} s",
            begun.elapsed().as_secs_f32()
        );
        let stories = stories.into_inner().expect("nobody panics with it");
        let ends: Vec<&str> = stories
            .iter()
            .filter_map(|story| story.lines().last())
            .collect();
        let ends = ends.join("\n");
        let all = stories.join("\n\n");
        assert!(
            stories.is_empty(),
            "{} of them must not be:\n{ends}\n\n{all}",
            stories.len()
        );
    }

    fn setting(self, what: &str) -> Option<u64> {
        std::env::var(format!("{}_{what}", self.name))
            .ok()?
            .parse()
            .ok()
    }
}
