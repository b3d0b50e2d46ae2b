//! Guards the disk of a running sandbox against a full disk of the host. The rules and all
//! decisions are in [`crate::disk::room`].

use std::sync::Arc;
use std::time::Duration;

use stdx::error::chain;
use tokio::time::Instant;
use vmm::Vm;

use crate::disk::room::{self, Decision, Found, Look};
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
pub(super) async fn watch(context: &Context, vm: &Arc<dyn Vm>) -> String {
    let mut watch = Watch {
        context,
        vm,
        // It may be stalled after a restart of the agent: resuming a VM that runs changes nothing.
        is_stalled: true,
        last: None,
        is_nearly_full: false,
    };
    loop {
        match watch.look().await {
            Ok(Found::Lost) => return LOST.to_owned(),
            Ok(Found::Look(look)) => {
                let rate = watch.rate(look);
                watch.act(look, rate).await;
                tokio::time::sleep(room::next_look(look, rate)).await;
            }
            Ok(Found::Plain { free, reserve }) => {
                watch.note_full(free < reserve);
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                tracing::warn!(sandbox = %context.handle.id, %error, "cannot examine the disk");
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

impl Watch<'_> {
    async fn look(&self) -> Result<Found, OperationError> {
        let id = self.context.handle.id.clone();
        let dir = self.context.dir();
        OperationKind::Disk
            .run_blocking(move || room::look(&id, &dir))
            .await
    }

    /// Returns the bytes written per second since the last look.
    fn rate(&mut self, look: Look) -> u64 {
        let now = Instant::now();
        let (before, used) = self
            .last
            .replace((now, look.used))
            .unwrap_or((now, look.used));
        let micros = now.duration_since(before).as_micros().max(1);
        u64::try_from(u128::from(look.used.saturating_sub(used)) * 1_000_000 / micros)
            .unwrap_or(u64::MAX)
    }

    async fn act(&mut self, look: Look, rate: u64) {
        match room::decide(look, rate, self.is_stalled) {
            Decision::Leave => {}
            Decision::Extend(to) => {
                if let Err(error) = self.extend(to).await {
                    tracing::warn!(sandbox = %self.context.handle.id, %error, "no room for what it writes");
                    self.stall().await;
                }
            }
            Decision::Stop => self.stall().await,
            Decision::Go(to) => match self.extend(to).await {
                Ok(()) => self.resume().await,
                Err(error) => {
                    tracing::warn!(sandbox = %self.context.handle.id, %error, "still no room")
                }
            },
        }
    }

    async fn extend(&self, to: u64) -> Result<(), OperationError> {
        let dir = self.context.dir();
        OperationKind::Disk
            .run_blocking(move || room::extend(&dir, to))
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
        handle.log.agent(line);
        handle.stalled.set(reason);
        self.context.report_use();
    }

    fn note_full(&mut self, full: bool) {
        if full && !self.is_nearly_full {
            self.context
                .handle
                .log
                .agent("the host's disk is nearly full: what the sandbox writes may be refused");
        }
        self.is_nearly_full = full;
    }
}
