//! What the process uses: it has to be as before after each attack.

use std::time::Duration;

use peak_alloc::PeakAlloc;
use testkit::envd::{Call, Fault};
use testkit::eventually;

use crate::agent::Agent;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Memory that may be in use more than before an attack: caches, and what the test itself keeps.
const SLACK_BYTES: usize = 20 * 1024 * 1024;
/// Memory that one hostile guest may cost while a call to it is under way, of all that are attacked
/// at a time.
const PEAK_BYTES: usize = 8 * 1024 * 1024;
/// Tasks and descriptors that may be there more than before: connections that the test's own client
/// keeps.
const SLACK_COUNT: usize = 16;
/// For connections and tasks to end.
const SETTLE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Usage {
    bytes: usize,
    tasks: usize,
    descriptors: usize,
}

impl Usage {
    pub fn of(agent: &Agent) -> Self {
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
        Self {
            bytes: ALLOCATOR.current_usage(),
            tasks: agent.runtime.metrics().num_alive_tasks(),
            descriptors,
        }
    }

    /// Peaks count from here on.
    pub fn begin(&self) {
        ALLOCATOR.reset_peak_usage();
    }

    /// Checks that usage was bounded since `begin`, and waits until it is as it was at first.
    pub async fn check(&self, agent: &Agent, call: Call) {
        let peak = ALLOCATOR.peak_usage().saturating_sub(self.bytes);
        println!("{call:?}: at most {} MiB more", peak >> 20);
        assert!(
            peak < PEAK_BYTES * Fault::ALL.len(),
            "{call:?}: {peak} bytes in use"
        );
        let is_back = async || self.is_back(&Self::of(agent)).then_some(());
        let settled = tokio::time::timeout(SETTLE, eventually("usage", SETTLE * 2, is_back)).await;
        assert!(
            settled.is_ok(),
            "{call:?}: {:?} stays, after {self:?}",
            Self::of(agent)
        );
    }

    fn is_back(&self, now: &Self) -> bool {
        now.bytes < self.bytes + SLACK_BYTES
            && now.tasks < self.tasks + SLACK_COUNT
            && now.descriptors < self.descriptors + SLACK_COUNT
    }
}
