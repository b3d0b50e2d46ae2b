//! State of a sandbox's automatic checkpoints, shared by its commands, the timer and undos.
//!
//! One is made at a time. A command that begins beside others shares their checkpoint: it waits
//! until that is made, and makes none itself. Nothing of this outlasts the agent but the checkpoints
//! themselves, so a new agent begins to count the seconds afresh.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

/// State of one sandbox's automatic checkpoints.
#[derive(Debug)]
pub struct AutoCheckpoints {
    /// Time at which the last one was begun. Locked while one is made, and during an undo.
    pub(super) last: tokio::sync::Mutex<Instant>,
    commands: AtomicUsize,
    failure: Mutex<Option<String>>,
}

/// A command that may begin, until this is dropped.
#[derive(Debug)]
pub struct CountedCommand(Arc<AutoCheckpoints>);

impl AutoCheckpoints {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            last: tokio::sync::Mutex::new(Instant::now()),
            commands: AtomicUsize::new(0),
            failure: Mutex::default(),
        })
    }

    /// Counts a command. Returns true with it if it is the only one.
    pub(super) fn begin_command(self: &Arc<Self>) -> (CountedCommand, bool) {
        let others = self.commands.fetch_add(1, Ordering::SeqCst);
        (CountedCommand(Arc::clone(self)), others == 0)
    }

    /// Returns the reason why the last one could not be made.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Notes the outcome of the last one. Returns true if it is another failure than before.
    pub(super) fn set_failure(&self, failure: Option<String>) -> bool {
        let mut known = self.failure.lock();
        let is_new = failure.is_some() && *known != failure;
        *known = failure;
        is_new
    }
}

impl Drop for CountedCommand {
    fn drop(&mut self) {
        self.0.commands.fetch_sub(1, Ordering::SeqCst);
    }
}
