//! The phase `pausing`: memory and disk are saved.

use std::sync::Arc;

use stdx::error::chain;
use vmm::{AfterSnapshot, Vm};

use super::Actor;
use super::running::remove_saved;
use crate::operation::{OperationError, OperationKind};
use crate::sandbox::capture::{self, SnapshotOptions};
use crate::sandbox::context::Context;
use crate::sandbox::ledger::{PAUSED, PAUSED_NEW};
use crate::sandbox::state::Event;
use crate::sandbox::step_error::StepError;
use crate::snapshot::format;

impl Actor {
    /// Saves memory and disk. Ends early if the sandbox is to be removed.
    pub(super) async fn save_snapshot(&mut self) -> Event {
        let context = &self.context;
        let Some(vm) = context.handle.vm.get() else {
            return Event::NotSaved(StepError::NoVm.into());
        };
        if self.in_progress.is_none() && context.handle.activity.is_in_use() {
            // A call began between the timeout and the change of phase, and waits for the guest.
            return Event::NotSaved(StepError::InUse.into());
        }
        let saved = context.handle.unless_removed(save_vm(context, &vm)).await;
        match saved {
            None => Event::Remove,
            Some(Ok(())) => Event::Saved,
            Some(Err(error)) => {
                let error = error.context("it could not be paused and runs on");
                context.handle.log.add_event(&chain(&error));
                // So that a pause for idleness is not tried again at once.
                context.handle.activity.restart_idle_time();
                Event::NotSaved(error)
            }
        }
    }
}

/// Saves a VM, which ends then. If that fails, it runs on.
async fn save_vm(context: &Context, vm: &Arc<dyn Vm>) -> Result<(), OperationError> {
    let dir = context.dir();
    let new = dir.join(PAUSED_NEW);
    let saved = dir.join(PAUSED);
    let options = SnapshotOptions {
        disk: false,
        ..SnapshotOptions::WHOLE
    };
    capture::snapshot_vm(
        &context.resources.disk,
        &context.resources.vm,
        &context.handle,
        vm,
        &new,
        options,
        AfterSnapshot::Terminate,
    )
    .await?;
    fail::fail_point!("pause::captured");
    let publish = move || {
        format::remove(&saved)?;
        format::publish_dir(&new, &saved)
    };
    let published = OperationKind::Snapshot.run_blocking(publish).await;
    if published.is_err() {
        remove_saved(context).await;
        // The first error is returned; a guest that stays stopped is resumed by `running`.
        let resumed = capture::resume_and_thaw(&context.handle, vm).await;
        return published.and(resumed);
    }
    Ok(())
}
