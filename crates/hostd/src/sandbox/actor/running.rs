//! The phase `running`: the guest's end, its idleness, its disk, and commands to it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use model::OnTimeout;
use runtime::trace::in_context;
use stdx::error::chain;
use tokio::time::{Instant, sleep_until};
use vmm::{Exit, Vm};

use super::{Actor, command_reports, idleness, network, settings, space_guard};
use crate::operation::{OperationError, OperationKind};
use crate::sandbox::command::{Command, Request};
use crate::sandbox::context::Context;
use crate::sandbox::ledger::{PAUSED, PAUSED_NEW, ROLLBACK};
use crate::sandbox::state::Event;
use crate::sandbox::{base_image, capture, clock, start_command};
use crate::snapshot::format;

/// Interval at which the console is read.
const TICK: Duration = Duration::from_secs(1);
/// Least time between two reports of use.
const REPORT_USE: Duration = Duration::from_secs(5);

impl Actor {
    /// Runs until the guest ends, is to be paused, is idle for too long, or is to be removed.
    /// Removal is immediate: a command in progress is cancelled.
    pub(super) async fn run_guest(&mut self) -> Event {
        let handle = self.context.handle.clone();
        let Some(vm) = handle.vm.get() else {
            let gone = "there is no virtual machine".to_owned();
            return Event::Exited(Exit::Vmm(gone));
        };
        let event = handle.unless_removed(Box::pin(self.watch_guest(&vm))).await;
        event.unwrap_or(Event::Remove)
    }

    async fn watch_guest(&mut self, vm: &Arc<dyn Vm>) -> Event {
        let context = self.context.clone();
        let handle = &context.handle;
        remove_saved(&context).await;
        let mut exit = std::pin::pin!(vm.wait());
        let mut space = std::pin::pin!(space_guard::guard_disk(&context, vm));
        let mut image = std::pin::pin!(base_image::watch_base_image(
            handle,
            context.dir(),
            context.record().disk
        ));
        let mut clock = std::pin::pin!(clock::keep_set(handle));
        let mut start_command = std::pin::pin!(start_command::keep_set(handle));
        let reports = &context.state.command_ends;
        let mut ends = Box::pin(command_reports::report_ends(handle, reports));
        let mut idle = Box::pin(idleness::until_idle(handle, idle_limit(&context)));
        let mut tick = Instant::now() + TICK;
        let mut reported = None;
        loop {
            if handle.frozen.load(Ordering::Relaxed) && handle.stalled.reason().is_none() {
                retry_resume(&context, vm).await;
            }
            tokio::select! {
                biased;
                exit = &mut exit => return Event::Exited(exit),
                reason = &mut space => return Event::DiskLost(reason),
                () = &mut clock => {}
                () = &mut start_command => {}
                () = &mut image => {}
                () = &mut ends => {}
                () = sleep_until(tick) => {
                    tick = Instant::now() + TICK;
                    handle.drain_console().await;
                }
                Some(request) = self.commands.recv() => {
                    let trace = request.trace.clone();
                    let is_changed = matches!(request.command, Command::SetIdle(_));
                    let handled = in_context(trace, Box::pin(self.handle_command(request, vm)));
                    if let Some(event) = handled.await {
                        return event;
                    }
                    if is_changed {
                        idle = Box::pin(idleness::until_idle(handle, idle_limit(&context)));
                    }
                }
                () = &mut idle => return idle_event(&context),
            }
            let used = handle.activity.last_use();
            if reported.is_none_or(|reported| used > reported + REPORT_USE) {
                reported = Some(used);
                context.report_use();
            }
        }
    }

    /// Carries out a command, or returns the event that begins its phase.
    async fn handle_command(&mut self, request: Request, vm: &Arc<dyn Vm>) -> Option<Event> {
        match &request.command {
            Command::Pause => {
                self.begin_command(request);
                Some(Event::Pause)
            }
            Command::Resume => {
                request.complete(Ok(()));
                None
            }
            Command::Snapshot { dir, parts } => {
                let context = self.context.clone();
                let options = capture::SnapshotOptions::from(*parts);
                let taken = capture::spawn_snapshot(&context, Some(vm), dir.clone(), options).await;
                request.complete(taken.map_err(Into::into));
                None
            }
            Command::Rollback { .. } => self.stage_rollback(request).await,
            Command::AllowKeepAlive(timeout) => {
                let allowed = idleness::allow_keep_alive(&self.context, *timeout).await;
                request.complete(allowed.map_err(Into::into));
                None
            }
            Command::Stop(end) => {
                let end = end.clone();
                self.begin_command(request);
                Some(Event::Stop(end))
            }
            Command::SetIdle(settings) => {
                let changed = settings::set_idle(&self.context, *settings).await;
                request.complete(changed.map_err(Into::into));
                None
            }
            Command::SetAutoCheckpoint(policy) => {
                let changed = self.context.set_auto_checkpoint(*policy).await;
                request.complete(changed.map_err(Into::into));
                None
            }
            Command::SetNetwork(rules) => {
                let changed = network::set_rules(&self.context, rules).await;
                request.complete(changed.map_err(Into::into));
                None
            }
        }
    }

    /// Copies a checkpoint next to the present state, which the next phase replaces by it.
    pub(super) async fn stage_rollback(&mut self, request: Request) -> Option<Event> {
        let Command::Rollback { checkpoint } = &request.command else {
            return None;
        };
        let staged = self.context.dir().join(ROLLBACK);
        match capture::copy_snapshot(&self.context.resources.disk, checkpoint, &staged).await {
            Ok(()) => {
                self.begin_command(request);
                Some(Event::Rollback)
            }
            Err(error) => {
                request.complete(Err(error.into()));
                None
            }
        }
    }
}

/// Removes saved states of an earlier moment, which must never meet the disk as it is now.
pub(super) async fn remove_saved(context: &Context) {
    let dir = context.dir();
    let removed = OperationKind::Snapshot.run_blocking(move || {
        [PAUSED, PAUSED_NEW, ROLLBACK]
            .iter()
            .try_for_each(|name| format::remove(&dir.join(name)))
    });
    if let Err(error) = removed.await {
        tracing::error!(sandbox = %context.handle.id, error = chain(&error), "an old saved state stays; it is never used again");
    }
}

/// Resumes and thaws a guest that was stopped for a snapshot and could not be resumed then.
async fn retry_resume(context: &Context, vm: &Arc<dyn Vm>) {
    let resumed: Result<(), OperationError> = capture::resume_and_thaw(&context.handle, vm).await;
    if let Err(error) = resumed {
        tracing::warn!(sandbox = %context.handle.id, error = chain(&error), "it stands still; trying again");
    }
}

fn idle_limit(context: &Context) -> Duration {
    Duration::from_secs(context.record().spec.timeout_sec.into())
}

fn idle_event(context: &Context) -> Event {
    let spec = context.record().spec;
    let seconds = spec.timeout_sec;
    match spec.on_timeout {
        OnTimeout::Kill => Event::Idle { seconds },
        OnTimeout::Pause => {
            let line = format!("no activity for {seconds} s (its timeout_sec): it is paused");
            context.handle.log.add_event(&line);
            Event::Pause
        }
    }
}
