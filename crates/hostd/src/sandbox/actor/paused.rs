//! The phase `paused`: commands, and the compaction of the saved memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use runtime::trace::in_context;
use stdx::error::chain;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Actor, idleness, network, settings};
use crate::network::Slot;
use crate::operation::{OperationError, OperationKind};
use crate::sandbox::capture::{self, SnapshotOptions};
use crate::sandbox::command::{Command, Request};
use crate::sandbox::context::Context;
use crate::sandbox::error::SandboxError;
use crate::sandbox::ledger::PAUSED;
use crate::sandbox::state::Event;
use crate::snapshot::format::MEMORY;

/// Result of a wait for commands.
enum Next {
    Event(Event),
    Resume(Request),
}

/// Merges the layers of the saved memory in the background, so that resuming it is fast.
struct Compaction {
    cancel: CancellationToken,
    /// True if the driver can restore layers, too, so that a resume stops the merge.
    can_stop: bool,
    task: Option<JoinHandle<()>>,
}

impl Actor {
    /// Waits until it is to be resumed, rolled back or removed. Removal is immediate: a command in
    /// progress is cancelled.
    pub(super) async fn stay_paused(&mut self) -> Event {
        let pause = Arc::clone(&self.context.handle.pause);
        pause.fetch_add(1, Ordering::AcqRel);
        let event = self.wait_for_end_of_pause().await;
        pause.fetch_add(1, Ordering::AcqRel);
        event
    }

    async fn wait_for_end_of_pause(&mut self) -> Event {
        let handle = self.context.handle.clone();
        let mut compaction = Compaction::start(&self.context);
        loop {
            let next = handle.unless_removed(self.next_step(&mut compaction)).await;
            match next {
                Some(Next::Event(event)) => return event,
                // Not cancelled by a removal: the claimed slot would be lost.
                Some(Next::Resume(request)) => {
                    let claimed = in_context(request.trace.clone(), claim_slot(&self.context));
                    match claimed.await {
                        Ok(slot) => {
                            self.begin_command(request);
                            return Event::Resume { slot };
                        }
                        Err(error) => request.complete(Err(error.into())),
                    }
                }
                None => {
                    compaction.cancel.cancel();
                    return Event::Remove;
                }
            }
        }
    }

    async fn next_step(&mut self, compaction: &mut Compaction) -> Next {
        loop {
            let Some(request) = self.commands.recv().await else {
                return Next::Event(Event::Remove);
            };
            let trace = request.trace.clone();
            let handled = in_context(trace, self.handle_paused(request, compaction));
            if let Some(next) = handled.await {
                return next;
            }
        }
    }

    /// Carries out a command, or returns the event or resume that follows.
    async fn handle_paused(
        &mut self,
        request: Request,
        compaction: &mut Compaction,
    ) -> Option<Next> {
        let is_resume = matches!(request.command, Command::Resume);
        if is_resume && let Some(reason) = self.backoff.refusal() {
            request.complete(Err(SandboxError::ResumeBackoff(reason)));
            return None;
        }
        compaction.finish(is_resume).await;
        match &request.command {
            Command::Pause => request.complete(Ok(())),
            Command::Resume => return Some(Next::Resume(request)),
            Command::Snapshot { dir, parts } => {
                let options = SnapshotOptions::from(*parts);
                let dir = dir.clone();
                let taken = capture::spawn_snapshot(&self.context, None, dir, options).await;
                request.complete(taken.map_err(Into::into));
            }
            Command::Rollback { .. } => {
                let event = self.stage_rollback(request).await?;
                self.backoff.reset();
                return Some(Next::Event(event));
            }
            Command::AllowKeepAlive(timeout) => {
                let allowed = idleness::allow_keep_alive(&self.context, *timeout).await;
                request.complete(allowed.map_err(Into::into));
            }
            Command::Stop(end) => {
                let end = end.clone();
                self.begin_command(request);
                return Some(Next::Event(Event::Stop(end)));
            }
            Command::SetIdle(settings) => {
                let changed = settings::set_idle(&self.context, *settings).await;
                request.complete(changed.map_err(Into::into));
            }
            Command::SetAutoCheckpoint(policy) => {
                let changed = self.context.set_auto_checkpoint(*policy).await;
                request.complete(changed.map_err(Into::into));
            }
            Command::SetNetwork(rules) => {
                let changed = network::set_rules(&self.context, rules).await;
                request.complete(changed.map_err(Into::into));
            }
        }
        None
    }
}

impl Compaction {
    fn start(context: &Context) -> Self {
        let memory = saved_memory(context);
        let store = context.resources.vm.engine.driver.snapshot_store();
        let can_stop = store.restores_unmerged(&memory);
        let cancel = CancellationToken::new();
        let cancelled = cancel.clone();
        let id = context.handle.id.clone();
        let task = tokio::task::spawn_blocking(move || {
            if store.gains_from_merge(&memory)
                && let Err(error) = store.merge(&memory, &cancelled)
                && !cancelled.is_cancelled()
            {
                tracing::warn!(sandbox = %id, error = chain(&error), "the layers of its saved memory cannot be merged; a resume merges them");
            }
        });
        Self {
            cancel,
            can_stop,
            task: Some(task),
        }
    }

    /// Waits until the merge is done, since nothing else may use or move its files before. A resume
    /// stops it, if the driver allows that.
    async fn finish(&mut self, is_resume: bool) {
        if is_resume && self.can_stop {
            self.cancel.cancel();
        }
        if let Some(task) = &mut self.task {
            let _ = task.await;
        }
        self.task = None;
    }
}

fn saved_memory(context: &Context) -> PathBuf {
    context.dir().join(PAUSED).join(MEMORY)
}

/// Claims a network slot. If the agent dies after it, the claim names a sandbox that does not have
/// that slot, and is cleared at the next start.
async fn claim_slot(context: &Context) -> Result<Slot, OperationError> {
    let networks = Arc::clone(&context.resources.slot.networks);
    let id = context.handle.id.clone();
    let slot = OperationKind::Network
        .run_blocking(move || networks.claim(id.as_str()))
        .await?;
    fail::fail_point!("resume::claimed");
    Ok(slot)
}
