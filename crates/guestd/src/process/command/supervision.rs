//! State of the start command that its supervisor ([`super::supervisor`]) and calls about it share.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use guest_rpc::command as rpc;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::restart::{AfterRun, Policy, Restarts};
use crate::reaper::Exit;

/// The start command as it was set.
#[derive(Debug)]
pub struct Supervised {
    /// Without its policy.
    pub request: rpc::SuperviseRequest,
    pub supervision: Arc<Supervision>,
}

/// Restarts of the start command, which its task and calls about it share.
#[derive(Debug)]
pub struct Supervision {
    state: Mutex<State>,
    /// Ends a wait.
    stopped: Notify,
}

#[derive(Debug)]
struct State {
    restarts: Restarts,
    /// End of the present wait.
    next_start: Option<Instant>,
}

impl Supervision {
    pub fn new(policy: Policy) -> Self {
        Self {
            state: Mutex::new(State {
                restarts: Restarts::new(policy),
                next_start: None,
            }),
            stopped: Notify::new(),
        }
    }

    /// Makes the present run the last one, and ends a wait for the next.
    pub fn stop(&self) {
        self.state.lock().restarts.stop();
        self.stopped.notify_one();
    }

    /// Returns the state as it is shown.
    pub fn to_message(&self) -> rpc::Supervision {
        let state = self.state.lock();
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        let next_start_ms = state.next_start.map(|at| {
            let left_ms = i64::try_from(left(at).as_millis()).unwrap_or(i64::MAX);
            stdx::time::now_ms().saturating_add(left_ms)
        });
        state.restarts.to_message(next_start_ms)
    }

    pub fn set_policy(&self, policy: Policy) {
        self.state.lock().restarts.policy = policy;
    }

    pub fn begin_run(&self) -> bool {
        self.state.lock().restarts.begin_run()
    }

    /// Records the end of a run. Returns the time until the next one, if there is one.
    pub fn end_run(&self, exit: Exit, lasted: Duration) -> Option<Duration> {
        let mut state = self.state.lock();
        match state.restarts.end_run(exit, lasted, jitter()) {
            AfterRun::End => None,
            AfterRun::Restart { wait } => {
                state.next_start = Some(Instant::now() + wait);
                Some(wait)
            }
        }
    }

    /// Waits for the time of the next run, or until it is stopped.
    pub async fn wait(&self, wait: Duration) {
        // A permit of `notify_one` stays, so that a stop just before this ends it, too.
        let _ = tokio::time::timeout(wait, self.stopped.notified()).await;
        self.state.lock().next_start = None;
    }

    pub fn last_exit(&self) -> Option<Exit> {
        self.state.lock().restarts.last_exit
    }

    pub fn count(&self) -> u64 {
        self.state.lock().restarts.count
    }
}

/// Returns a random number from 0 to 1. It comes from the kernel, whose pool the host reseeds after
/// each restore: one of our own memory would be the same in all forks.
fn jitter() -> f64 {
    let mut bytes = [0; 4];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    match read {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.0,
    }
}
