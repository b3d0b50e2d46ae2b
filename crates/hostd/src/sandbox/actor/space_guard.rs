//! Guards the disk of a running sandbox against a full disk of the host. The rules and all
//! decisions are in [`crate::disk::room`].

use std::sync::Arc;
use std::time::Duration;

use stdx::error::chain;
use tokio::time::Instant;
use vmm::Vm;

use crate::disk::room::{self, Decision, Observation};
use crate::operation::{OperationError, OperationKind};
use crate::sandbox::context::Context;

/// Interval at which a disk is examined that needs no guard, or whose usage could not be read.
const PAUSE: Duration = Duration::from_secs(1);
/// Reason of a stalled sandbox.
const STALLED: &str = "it stands still: the host's disk is full, and what it writes would be lost; it goes on by itself when \
    there is room";
/// End of a sandbox whose disk is lost.
const LOST: &str = "its disk is lost: the host's disk was full before the sandbox could be stopped";

/// Guards the disk for as long as the sandbox runs. Returns when the disk is lost, with the reason.
pub(super) async fn guard_disk(context: &Context, vm: &Arc<dyn Vm>) -> String {
    let mut watch = Watch {
        context,
        vm,
        // It may be stalled after a restart of the agent: resuming a VM that runs changes nothing.
        is_stalled: true,
        last: None,
        is_nearly_full: false,
    };
    loop {
        match watch.observe().await {
            Ok(Observation::Lost) => return LOST.to_owned(),
            Ok(Observation::Usage(usage)) => {
                let rate = watch.rate(usage.used);
                let usage = if watch.is_largest(usage.used) {
                    usage.of_largest()
                } else {
                    usage
                };
                watch
                    .act(room::decide_action(usage, rate, watch.is_stalled))
                    .await;
                tokio::time::sleep(room::observation_interval(usage, rate)).await;
            }
            Ok(Observation::Plain(usage)) => {
                let rate = watch.rate(usage.used);
                let is_largest = watch.is_largest(usage.used);
                watch.note_full(usage.is_nearly_full());
                // After a restart its memory of that is gone, and adoption lets it run.
                let is_stalled = context.handle.stalled.reason().is_some();
                let decision = room::decide_plain(usage, rate, is_stalled, is_largest);
                watch.act(decision).await;
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                tracing::warn!(sandbox = %context.handle.id, error = chain(&error), "cannot examine the disk");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

struct Watch<'a> {
    context: &'a Context,
    vm: &'a Arc<dyn Vm>,
    is_stalled: bool,
    /// Time of the last look, and the bytes used then.
    last: Option<(Instant, u64)>,
    /// True if it was logged that the host's disk is nearly full.
    is_nearly_full: bool,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let handle = &self.context.handle;
        self.context.state.recent_use.forget_sandbox(&handle.id);
    }
}

impl Watch<'_> {
    async fn observe(&self) -> Result<Observation, OperationError> {
        let id = self.context.handle.id.clone();
        let dir = self.context.dir();
        OperationKind::Disk
            .run_blocking(move || room::observe_disk(&id, &dir))
            .await
    }

    /// Returns the bytes written per second since the last observation.
    fn rate(&mut self, used: u64) -> u64 {
        let now = Instant::now();
        let (before, used_before) = self.last.replace((now, used)).unwrap_or((now, used));
        let micros = now.duration_since(before).as_micros().max(1);
        u64::try_from(u128::from(used.saturating_sub(used_before)) * 1_000_000 / micros)
            .unwrap_or(u64::MAX)
    }

    /// Returns true if this sandbox has taken most of the host's disk lately.
    fn is_largest(&self, used: u64) -> bool {
        let id = &self.context.handle.id;
        self.context
            .state
            .recent_use
            .record_use(id, used, Instant::now())
    }

    async fn act(&mut self, decision: Decision) {
        match decision {
            Decision::Leave => {}
            Decision::Extend(to) => {
                if let Err(error) = self.extend(to).await {
                    tracing::warn!(sandbox = %self.context.handle.id, error = chain(&error), "no room for what it writes");
                    self.stall().await;
                }
            }
            Decision::Stop => self.stall().await,
            Decision::Resume(to) => match self.extend(to).await {
                Ok(()) => self.resume().await,
                Err(error) => {
                    tracing::warn!(sandbox = %self.context.handle.id, error = chain(&error), "still no room")
                }
            },
        }
    }

    /// Allocates the store up to `to` bytes; 0 where there is no store.
    async fn extend(&self, to: u64) -> Result<(), OperationError> {
        if to == 0 {
            return Ok(());
        }
        let dir = self.context.dir();
        OperationKind::Disk
            .run_blocking(move || room::extend_store(&dir, to))
            .await
    }

    async fn stall(&mut self) {
        if let Err(error) = self.vm.pause().await {
            tracing::error!(sandbox = %self.context.handle.id, error = chain(&error), "cannot be stopped");
            return;
        }
        self.is_stalled = true;
        self.set_stalled(Some(STALLED));
    }

    async fn resume(&mut self) {
        if let Err(error) = self.vm.resume().await {
            tracing::error!(sandbox = %self.context.handle.id, error = chain(&error), "cannot go on");
            return;
        }
        self.is_stalled = false;
        if self.context.handle.stalled.reason().is_some() {
            self.set_stalled(None);
        }
        self.context.handle.clock.notify_one();
    }

    /// Sets or clears the reason, in the log and in reports.
    fn set_stalled(&self, reason: Option<&str>) {
        let handle = &self.context.handle;
        let line = reason.unwrap_or("it goes on: there is room on the host's disk again");
        tracing::warn!(sandbox = %handle.id, "{line}");
        handle.log.add_event(line);
        handle.stalled.set(reason);
        self.context.report_use();
    }

    fn note_full(&mut self, full: bool) {
        if full && !self.is_nearly_full {
            self.context.handle.log.add_event(
                "the host's disk is nearly full: what the sandbox writes may be refused",
            );
        }
        self.is_nearly_full = full;
    }
}
