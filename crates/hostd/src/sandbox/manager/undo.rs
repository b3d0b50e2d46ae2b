//! Automatic checkpoints, and undos in their history ([`crate::snapshot::history`]).
//!
//! A failure to make one is told in the sandbox's log and with its history, and stops no command.

use std::sync::{Arc, Weak};
use std::time::Duration;

use model::{AutoCheckpoint, CheckpointName, SandboxId};
use stdx::error::chain;
use tokio::time::Instant;

use super::Manager;
use crate::file_set::FileSet;
use crate::operation::OperationKind;
use crate::sandbox::auto_checkpoint::CountedCommand;
use crate::sandbox::command::Command;
use crate::sandbox::error::SandboxError;
use crate::sandbox::handle::Handle;
use crate::sandbox::state::Phase;
use crate::snapshot::checkpoint::{Automatic, Checkpoint};
use crate::snapshot::history::History;

/// Interval at which policies are looked at: the unit of `every_sec`.
const TICK: Duration = Duration::from_secs(1);

/// Point to go back to.
#[derive(Debug, Clone)]
pub enum UndoTarget {
    /// Number of steps of the history.
    Steps(u32),
    Checkpoint(CheckpointName),
}

/// Outcome of an undo.
#[derive(Debug)]
pub struct Undone {
    pub handle: Handle,
    /// Checkpoint that the sandbox is at now.
    pub checkpoint: CheckpointName,
    /// Checkpoint of the state before.
    pub saved_as: CheckpointName,
}

impl Manager {
    /// Replaces the policy for automatic checkpoints.
    ///
    /// # Errors
    /// When the record cannot be written; the former policy holds then.
    pub async fn set_auto_checkpoint(
        &self,
        id: &SandboxId,
        policy: Option<AutoCheckpoint>,
    ) -> Result<(), SandboxError> {
        let handle = self.find_sandbox(id).await?;
        let command = Command::SetAutoCheckpoint(policy);
        handle.send_command(command).await
    }

    /// Makes a checkpoint if the policy of the sandbox wants one before this command. The command
    /// counts until the result is dropped.
    pub async fn checkpoint_before_command(&self, handle: &Handle) -> CountedCommand {
        let (counted, is_first) = handle.auto_checkpoints.begin_command();
        let policy = policy_of(handle).filter(|policy| policy.before_each_command);
        let Some(policy) = policy else {
            return counted;
        };
        // Those beside it wait here for the checkpoint that they share.
        let mut last = handle.auto_checkpoints.last.lock().await;
        if is_first {
            *last = Instant::now();
            self.make_automatic(handle, policy).await;
        }
        counted
    }

    /// Makes checkpoints of sandboxes in use as their policies want, until the manager is gone.
    pub(super) async fn keep_checkpoints(manager: Weak<Self>) {
        loop {
            tokio::time::sleep(TICK).await;
            let Some(manager) = manager.upgrade() else {
                return;
            };
            for handle in manager.registry.handles() {
                let Some(policy) = due_policy(&handle) else {
                    continue;
                };
                let manager = Arc::clone(&manager);
                tokio::spawn(async move {
                    // Another one that is being made counts as this one.
                    if let Ok(mut last) = handle.auto_checkpoints.last.try_lock() {
                        *last = Instant::now();
                        manager.make_automatic(&handle, policy).await;
                    }
                });
            }
        }
    }

    /// Makes an automatic checkpoint, and removes those that are too many then.
    async fn make_automatic(&self, handle: &Handle, policy: AutoCheckpoint) {
        let made = self.try_automatic(handle, policy).await;
        let failure = made.err().map(|error| chain(&error));
        if handle.auto_checkpoints.set_failure(failure.clone())
            && let Some(failure) = failure
        {
            tracing::warn!(sandbox = %handle.id, failure, "no automatic checkpoint");
            let line = format!("no automatic checkpoint could be made: {failure}");
            handle.log.add_event(&line);
        }
    }

    async fn try_automatic(
        &self,
        handle: &Handle,
        policy: AutoCheckpoint,
    ) -> Result<(), SandboxError> {
        let id = &handle.id;
        // As many places as the policy gives, also if it gave more before.
        self.remove_surplus(id, policy).await?;
        let checkpoints = self.list_checkpoints(id).await?;
        let mark = History::new(&checkpoints).next_mark(None);
        let name = new_name("auto", &mark)?;
        self.create_marked(id, &name, Some(mark)).await?;
        self.remove_surplus(id, policy).await
    }

    /// Removes the oldest automatic checkpoints, if there are too many.
    async fn remove_surplus(
        &self,
        id: &SandboxId,
        policy: AutoCheckpoint,
    ) -> Result<(), SandboxError> {
        let checkpoints = self.list_checkpoints(id).await?;
        let find = move || {
            let keep = usize::try_from(policy.keep).unwrap_or(usize::MAX);
            let measure = |of: &Checkpoint| FileSet::of_dir(&of.dir, &[]).unwrap_or_default();
            let history = History::new(&checkpoints);
            Ok::<_, std::convert::Infallible>(history.surplus(keep, policy.max_bytes, measure))
        };
        for name in OperationKind::Snapshot.run_blocking(find).await? {
            self.remove_checkpoint(id, &name).await?;
        }
        Ok(())
    }

    /// Returns the checkpoints to which an undo of 1, 2, … steps goes back.
    ///
    /// # Errors
    /// [`SandboxError::Unknown`].
    pub async fn list_history(&self, id: &SandboxId) -> Result<Vec<Checkpoint>, SandboxError> {
        let checkpoints = self.list_checkpoints(id).await?;
        let steps = History::new(&checkpoints).steps();
        Ok(steps.into_iter().cloned().collect())
    }

    /// Saves the present state of a sandbox as a checkpoint, and rolls it back.
    ///
    /// # Errors
    /// [`SandboxError::NoHistory`], [`SandboxError::NoCheckpoint`]; what failed. The sandbox is as
    /// after a rollback that failed then.
    pub async fn undo_sandbox(
        &self,
        id: &SandboxId,
        target: UndoTarget,
    ) -> Result<Undone, SandboxError> {
        let handle = self.find_sandbox(id).await?;
        let mut last = handle.auto_checkpoints.last.lock().await;
        let checkpoints = self.list_checkpoints(id).await?;
        let history = History::new(&checkpoints);
        let to = find_target(&checkpoints, &history, target)?;
        let mark = history.next_mark(Some(&to));
        let saved_as = new_name("undo", &mark)?;
        self.create_marked(id, &saved_as, Some(mark)).await?;
        let rolled_back = self.rollback_sandbox(id, &to).await;
        if rolled_back.is_err() {
            // The history says that there was an undo while this is there.
            self.remove_checkpoint(id, &saved_as).await?;
        }
        let undone = Undone {
            handle: rolled_back?,
            checkpoint: to,
            saved_as,
        };
        *last = Instant::now();
        let policy = policy_of(&handle).unwrap_or(AutoCheckpoint {
            before_each_command: true,
            every_sec: None,
            keep: AutoCheckpoint::DEFAULT_KEEP,
            max_bytes: None,
        });
        if let Err(error) = self.remove_surplus(id, policy).await {
            tracing::warn!(sandbox = %id, error = chain(&error), "old automatic checkpoints stay");
        }
        Ok(undone)
    }
}

fn policy_of(handle: &Handle) -> Option<AutoCheckpoint> {
    handle.record.borrow().spec.auto_checkpoint
}

/// Returns the policy of a running sandbox that is to be saved now: its time is over, and it was
/// used since the last one.
fn due_policy(handle: &Handle) -> Option<AutoCheckpoint> {
    let policy = policy_of(handle)?;
    let every = Duration::from_secs(policy.every_sec?.into());
    let is_running = handle.record.borrow().phase == Phase::Running;
    if !is_running || handle.stalled.reason().is_some() {
        return None;
    }
    let last = *handle.auto_checkpoints.last.try_lock().ok()?;
    let is_due = last.elapsed() >= every && handle.activity.last_use() > last;
    is_due.then_some(policy)
}

fn find_target(
    checkpoints: &[Checkpoint],
    history: &History<'_>,
    target: UndoTarget,
) -> Result<CheckpointName, SandboxError> {
    match target {
        UndoTarget::Checkpoint(name) => {
            let names = || checkpoints.iter().map(|it| &it.name);
            if names().any(|known| *known == name) {
                return Ok(name);
            }
            let name = name.to_string();
            let known = names().map(ToString::to_string).collect();
            Err(SandboxError::NoCheckpoint { name, known })
        }
        UndoTarget::Steps(asked) => {
            let steps = history.steps();
            let index = usize::try_from(asked).unwrap_or(usize::MAX).checked_sub(1);
            let step = index.and_then(|index| steps.get(index));
            let none = SandboxError::NoHistory {
                asked,
                steps: steps.len(),
            };
            Ok(step.ok_or(none)?.name.clone())
        }
    }
}

/// Returns the name of an automatic checkpoint. It has random digits, since a user may have made
/// one of the same number by hand.
fn new_name(prefix: &str, mark: &Automatic) -> Result<CheckpointName, SandboxError> {
    let random = stdx::random::hex::<2>();
    let name = format!("{prefix}-{}-{random}", mark.number).parse();
    name.map_err(|error: model::InvalidValue| OperationKind::Snapshot.error(error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_automatic_checkpoints_are_valid() {
        let mark = Automatic {
            number: u64::MAX,
            after: None,
            undo_to: None,
        };
        let name = new_name("auto", &mark).unwrap();
        assert!(name.as_str().starts_with("auto-18446744073709551615-"));
    }
}
