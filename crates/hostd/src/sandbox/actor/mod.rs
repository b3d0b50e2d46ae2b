//! Drives one sandbox through its phases ([`super::state`]): one task, and nothing else touches its
//! VM, network or disk. Each phase has a file.
//!
//! Each turn does the work of the present phase, which yields one event; the next phase is written
//! into the ledger, then becomes visible, then is acted on. Removal can be requested at any time
//! through a token, which every wait watches; steps that make kernel objects are not cancelled in
//! the middle, they are waited for and then undone.

mod command_reports;
mod creating;
mod ended;
mod idleness;
mod network;
mod paused;
mod pausing;
mod restarted;
mod resuming;
mod running;
mod settings;
mod space_guard;
mod suspending;

use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use runtime::trace::{RequestContext, in_context, in_step};
use stdx::error::chain;
use stdx::time::now_ms;
use tokio::sync::{mpsc, watch};

use super::backoff::Backoff;
use super::boot_source::BootSource;
use super::command::{Command, Request};
use super::context::Context;
use super::error::SandboxError;
use super::handle::Handle;
use super::ledger::Record;
use super::log::Log;
use super::resources::SandboxResources;
use super::state::{Event, IfUnwritten, Phase};
use super::step_error::StepError;
use crate::host::SharedState;
use crate::metrics::{operation_name, record_phase};
use crate::operation::{OperationError, OperationKind};

/// Task of one sandbox, with state that only it needs; the rest is in the context.
pub(super) struct Actor {
    context: Context,
    source: BootSource,
    /// Context of the call that the sandbox changes for; `None` while it rests, and when it changes
    /// by itself.
    trace: Option<RequestContext>,
    commands: mpsc::Receiver<Request>,
    /// Command that is carried out in a phase of its own.
    in_progress: Option<Request>,
    /// Backoff of resumes after the guest did not come back.
    backoff: Backoff,
}

impl Actor {
    /// Returns the actor of a sandbox whose record is written, and its handle.
    pub(super) fn new(
        resources: SandboxResources,
        state: Arc<SharedState>,
        record: Record,
        source: BootSource,
        log: Log,
    ) -> (Self, Handle) {
        let guest = resources.slot.guest(&record);
        let record = watch::Sender::new(record);
        let (handle, commands) = Handle::new(record.subscribe(), guest, log);
        let actor = Self {
            context: Context::new(resources, state, record, handle.clone()),
            source,
            trace: runtime::trace::current(),
            commands,
            in_progress: None,
            backoff: Backoff::default(),
        };
        (actor, handle)
    }

    /// Runs until the sandbox is removed.
    pub(super) async fn run(mut self) {
        if matches!(self.source, BootSource::Restarted) {
            self.take_over().await;
        }
        while self.context.phase() != Phase::Gone {
            let phase = self.context.phase();
            let trace = self.trace.clone();
            let begin = Instant::now();
            let work: BoxFuture<'_, Event> = match operation_name(&phase) {
                Some(name) => Box::pin(in_step(name, self.run_phase())),
                None => Box::pin(self.run_phase()),
            };
            let event = in_context(trace, work).await;
            record_phase(&phase, &event, begin.elapsed());
            if matches!(event, Event::Remove) {
                self.trace = self.context.handle.removal_trace.get().cloned();
            }
            in_context(self.trace.clone(), self.advance(event)).await;
            if let Phase::Running | Phase::Paused { .. } | Phase::Ended { .. } =
                self.context.phase()
            {
                self.trace = None;
            }
        }
    }

    /// Does the work of the present phase, which yields an event.
    async fn run_phase(&mut self) -> Event {
        match self.context.phase() {
            Phase::Creating => self.create_vm().await,
            Phase::Running => self.run_guest().await,
            Phase::Pausing => self.save_snapshot().await,
            Phase::Suspending { rollback, .. } => self.release_vm(rollback).await,
            Phase::Paused { .. } => self.stay_paused().await,
            Phase::Resuming => self.resume_vm().await,
            Phase::Releasing { .. } | Phase::Removing | Phase::Gone => {
                self.release_resources().await
            }
            Phase::Ended { .. } => self.wait_for_removal().await,
        }
    }

    /// Keeps a command that is carried out in a phase of its own.
    fn begin_command(&mut self, request: Request) {
        self.trace.clone_from(&request.trace);
        self.in_progress = Some(request);
    }

    /// Writes the phase after `event`, then makes it visible and completes the command that waits
    /// for it.
    async fn advance(&mut self, mut event: Event) {
        let before = self.context.record();
        let transition = before.phase.transition(before.slot, &event);
        if transition.phase == before.phase {
            return;
        }
        let mut record = Record {
            phase: transition.phase,
            slot: transition.slot,
            generation: self.context.state.generations.next(before.generation),
            ..before.clone()
        };
        if matches!(event, Event::Ready) {
            record.started_at_ms.get_or_insert_with(now_ms);
            self.context.handle.activity.restart_idle_time();
        }
        if let Err(error) = self.context.write_record(record.clone()).await {
            tracing::error!(sandbox = %record.id, error = chain(&error), "the ledger cannot be written");
            match transition.if_unwritten {
                IfUnwritten::Proceed => {}
                IfUnwritten::Stay => return self.stay(event, error).await,
                IfUnwritten::Fail => {
                    event = Event::Failed(error);
                    record.phase = before.phase.after(event.clone());
                }
            }
            // The record of the start could not be written, so the sandbox has not started.
            record.started_at_ms = before.started_at_ms;
        }
        self.log_phase(&record);
        let phase = record.phase.clone();
        self.context.publish_record(record);
        self.complete_command(&event, &phase);
    }

    /// Stays in this phase: releases the slot that was claimed for the next one, and fails the
    /// command.
    async fn stay(&mut self, event: Event, error: OperationError) {
        if let Event::Resume { slot } = event {
            let networks = Arc::clone(&self.context.resources.slot.networks);
            let id = self.context.handle.id.clone();
            let released =
                OperationKind::Network.run_blocking(move || networks.remove(slot, id.as_str()));
            if let Err(error) = released.await {
                tracing::warn!(sandbox = %self.context.handle.id, error = chain(&error), "a network slot stays claimed until the next start");
            }
        }
        if let Some(request) = self.in_progress.take() {
            request.complete(Err(error.into()));
        }
        // So that a pause for idleness is not tried again at once.
        self.context.handle.activity.restart_idle_time();
    }

    /// Completes the command in progress, once its outcome is known.
    fn complete_command(&mut self, event: &Event, phase: &Phase) {
        let Some(request) = self.in_progress.take() else {
            return;
        };
        match command_outcome(&request.command, event, phase) {
            Some(outcome) => request.complete(outcome),
            None => self.in_progress = Some(request),
        }
    }

    fn log_phase(&self, record: &Record) {
        let line = match &record.phase {
            Phase::Running => "the sandbox runs".to_owned(),
            Phase::Paused { why } if why.is_empty() => "the sandbox is paused".to_owned(),
            Phase::Paused { why } => format!("the sandbox is paused: {why}"),
            Phase::Releasing { end } => format!("the sandbox ends: {}", end.reason),
            Phase::Removing => "the sandbox is to be removed".to_owned(),
            _ => return,
        };
        tracing::info!(sandbox = %record.id, "{line}");
        self.context.handle.log.add_event(&line);
    }
}

/// Returns the outcome of a command in the phase that followed `event`; `None` while it is carried
/// out.
fn command_outcome(
    command: &Command,
    event: &Event,
    phase: &Phase,
) -> Option<Result<(), SandboxError>> {
    match (command, phase) {
        (Command::Stop(_), Phase::Releasing { .. }) => Some(Ok(())),
        (Command::Pause, Phase::Pausing)
        | (Command::Resume, Phase::Resuming)
        | (Command::Rollback { .. }, Phase::Suspending { .. }) => None,
        (Command::Pause, Phase::Suspending { .. } | Phase::Paused { .. })
        | (Command::Resume, Phase::Running)
        | (Command::Rollback { .. }, Phase::Paused { .. }) => Some(Ok(())),
        (Command::Pause, Phase::Running) => {
            let Event::NotSaved(error) = event else {
                return Some(Err(SandboxError::from_phase(phase)));
            };
            Some(Err(error.clone().into()))
        }
        (Command::Resume, Phase::Suspending { why, .. }) => {
            let error = StepError::NotResumed(why.clone());
            Some(Err(OperationError::from(error).into()))
        }
        (_, phase) => Some(Err(SandboxError::from_phase(phase))),
    }
}
