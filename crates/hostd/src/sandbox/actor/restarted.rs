//! Takes over a sandbox that an earlier run of the agent drove.

use std::sync::atomic::Ordering;

use stdx::error::chain;
use vmm::Exit;

use super::Actor;
use super::running::remove_saved;
use crate::operation::OperationKind;
use crate::sandbox::context::Context;
use crate::sandbox::egress;
use crate::sandbox::ledger::{CHECKPOINTS, PAUSED};
use crate::sandbox::state::{Event, Phase};
use crate::sandbox::step_error::StepError;
use crate::snapshot::checkpoint;
use crate::snapshot::format::Snapshot;

impl Actor {
    /// Brings the sandbox into a phase that this run can go on from.
    pub(super) async fn take_over(&mut self) {
        self.advance(Event::Restarted).await;
        remove_unfinished_checkpoints(&self.context).await;
        if self.context.phase().is_up()
            && let Some(event) = adopt(&self.context).await
        {
            self.advance(event).await;
        }
    }
}

async fn remove_unfinished_checkpoints(context: &Context) {
    let root = context.dir().join(CHECKPOINTS);
    let removed =
        OperationKind::Snapshot.run_blocking(move || checkpoint::remove_unfinished(&root));
    if let Err(error) = removed.await {
        tracing::error!(sandbox = %context.handle.id, error = chain(&error), "a checkpoint that was never finished stays");
    }
}

/// Adopts the VM of the earlier run, and lets it run, whatever was in progress. Returns the event
/// that follows from it, if any.
async fn adopt(context: &Context) -> Option<Event> {
    let handle = &context.handle;
    let was_pausing = context.phase() == Phase::Pausing;
    let dir = context.resources.vm.sandbox_dir(&handle.id);
    // A VMM that does not answer may be removed all the same.
    let adopting = context.resources.vm.engine.driver.adopt(&dir);
    let Some(adopted) = handle.unless_removed(adopting).await else {
        return Some(Event::Remove);
    };
    match adopted {
        Ok(Some(vm)) => {
            let line = "the host agent has restarted and found the sandbox running";
            handle.log.add_event(line);
            handle.vm.set(Some(vm.into()));
            restart_egress(context).await;
            // The phase `running` resumes and thaws it.
            handle.frozen.store(true, Ordering::Relaxed);
            if was_pausing {
                remove_saved(context).await;
                return Some(Event::NotSaved(StepError::AgentEnded.into()));
            }
            context.report_sandbox();
            None
        }
        Ok(None) if was_pausing && is_saved(context).await => Some(Event::Saved),
        Ok(None) => {
            let gone = "it was no more when the host agent started again";
            Some(Event::Exited(Exit::Vmm(gone.to_owned())))
        }
        Err(error) => Some(Event::Exited(Exit::Vmm(chain(&error)))),
    }
}

/// Starts resolver and proxy again. If that fails, the kernel's rules stay those of the former
/// agent, so that nothing more is open than before.
async fn restart_egress(context: &Context) {
    let handle = &context.handle;
    if let Err(error) = egress::start_egress(&context.resources.slot, handle, false).await {
        tracing::error!(sandbox = %handle.id, error = chain(&error), "it finds no names until it is resumed");
        handle.log.add_event(&format!(
            "it finds no names until it is paused and resumed: {}",
            chain(&error)
        ));
    }
}

async fn is_saved(context: &Context) -> bool {
    let dir = context.dir().join(PAUSED);
    let read = OperationKind::Snapshot.run_blocking(move || Snapshot::read(&dir));
    read.await.is_ok()
}
