//! State of the start command that its supervisor ([`super::supervisor`]) and calls about it share.
//!
//! ```text
//! waiting ──► starting ──► running ──► waiting …
//!                │ a signal that stops it is kept here: there is no process to send it to yet
//! ```

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use guest_rpc::command as rpc;
use nix::libc;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::restart::{AfterRun, Policy, Restarts};
use crate::reaper::Exit;

/// The start command as it was set.
#[derive(Debug)]
pub struct Supervised {
    /// Without its policy.
    pub request: rpc::SuperviseRequest,
    pub supervision: Arc<Supervision>,
    /// Its supervisor, which is done once no process of it is left, and none will come.
    pub task: JoinHandle<()>,
}

impl Supervised {
    /// Returns true if no process of it will run any more.
    pub fn is_over(&self) -> bool {
        self.task.is_finished() || self.supervision.is_stopped()
    }
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
    run: RunState,
}

#[derive(Debug, Clone, Copy)]
enum RunState {
    /// Until the time of the next run, if there is one.
    Waiting(Option<Instant>),
    /// With the signal that came since.
    Starting(Option<i32>),
    Running,
}

impl Supervision {
    pub fn new(policy: Policy) -> Self {
        Self {
            state: Mutex::new(State {
                restarts: Restarts::new(policy),
                run: RunState::Waiting(None),
            }),
            stopped: Notify::new(),
        }
    }

    /// Makes the present run the last one, and ends a wait for the next. Returns true if the signal
    /// is kept for a run that is being started; otherwise the caller sends it to the process, if
    /// there is one.
    pub fn stop(&self, signal: i32) -> bool {
        let mut state = self.state.lock();
        state.restarts.stop();
        self.stopped.notify_one();
        let RunState::Starting(kept) = &mut state.run else {
            return false;
        };
        if *kept != Some(libc::SIGKILL) {
            *kept = Some(signal);
        }
        true
    }

    /// Returns true if no run will begin.
    pub fn is_stopped(&self) -> bool {
        self.state.lock().restarts.is_stopped()
    }

    /// Returns the state as it is shown.
    pub fn to_message(&self) -> rpc::Supervision {
        let state = self.state.lock();
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        let next_start = match state.run {
            RunState::Waiting(next_start) => next_start,
            RunState::Starting(_) | RunState::Running => None,
        };
        let next_start_ms = next_start.map(|at| {
            let left_ms = i64::try_from(left(at).as_millis()).unwrap_or(i64::MAX);
            stdx::time::now_ms().saturating_add(left_ms)
        });
        state.restarts.to_message(next_start_ms)
    }

    pub fn set_policy(&self, policy: Policy) {
        self.state.lock().restarts.policy = policy;
    }

    /// Records that a run is being started. Returns false if there is none: it was stopped.
    pub fn begin_run(&self) -> bool {
        let mut state = self.state.lock();
        let begins = state.restarts.begin_run();
        if begins {
            state.run = RunState::Starting(None);
        }
        begins
    }

    /// Records that the process of the run is there, and known. Returns the signal that came before.
    pub fn confirm_run(&self) -> Option<i32> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut state.run, RunState::Running) {
            RunState::Starting(signal) => signal,
            RunState::Waiting(_) | RunState::Running => None,
        }
    }

    /// Records the end of a run. Returns the time until the next one, if there is one.
    pub fn end_run(&self, exit: Exit, lasted: Duration) -> Option<Duration> {
        let mut state = self.state.lock();
        let wait = match state.restarts.end_run(exit, lasted, jitter()) {
            AfterRun::End => None,
            AfterRun::Restart { wait } => Some(wait),
        };
        state.run = RunState::Waiting(wait.map(|wait| Instant::now() + wait));
        wait
    }

    /// Waits for the time of the next run, or until it is stopped.
    pub async fn wait(&self, wait: Duration) {
        // A permit of `notify_one` stays, so that a stop just before this ends it, too.
        let _ = tokio::time::timeout(wait, self.stopped.notified()).await;
        self.state.lock().run = RunState::Waiting(None);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn supervision() -> Arc<Supervision> {
        Arc::new(Supervision::new(Policy {
            condition: rpc::RestartCondition::RESTART_CONDITION_ALWAYS,
            max_retries: None,
        }))
    }

    /// With a clock of its own: a wait that is not ended takes its time.
    #[tokio::test(start_paused = true)]
    async fn stop_ends_wait_at_once() {
        let supervision = supervision();
        assert!(supervision.begin_run());
        assert_eq!(supervision.confirm_run(), None);
        let wait = supervision.end_run(Exit::Code(3), Duration::ZERO).unwrap();
        assert!(supervision.to_message().next_start_ms.is_some());
        let begun = Instant::now();
        let waiting = Arc::clone(&supervision);
        let waiting = tokio::spawn(async move { waiting.wait(wait).await });
        tokio::task::yield_now().await;
        assert!(!supervision.stop(libc::SIGTERM));
        waiting.await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(!supervision.begin_run());
        assert!(!supervision.stop(libc::SIGTERM), "nothing keeps a signal");
    }

    #[test]
    fn kept_sigkill_outranks_others() {
        for (first, second, kept) in [(9, 15, 9), (15, 9, 9), (15, 15, 15)] {
            let supervision = supervision();
            assert!(supervision.begin_run());
            assert!(supervision.stop(first) && supervision.stop(second));
            assert_eq!(supervision.confirm_run(), Some(kept));
            assert!(!supervision.stop(second));
        }
    }
}
