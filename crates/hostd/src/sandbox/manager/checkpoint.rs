//! Creates, lists and removes checkpoints, and rolls back to them.

use std::convert::Infallible;
use std::path::PathBuf;

use model::{CheckpointName, SandboxId};

use super::Manager;
use crate::config::limits;
use crate::operation::OperationKind;
use crate::sandbox::capture::remove_snapshot;
use crate::sandbox::command::{Command, SnapshotParts};
use crate::sandbox::error::SandboxError;
use crate::sandbox::handle::Handle;
use crate::sandbox::ledger::CHECKPOINTS;
use crate::sandbox::step_error::StepError;
use crate::snapshot::checkpoint::{self, Automatic, Checkpoint, Prepared};
use crate::snapshot::format;

impl Manager {
    /// Creates a checkpoint of a sandbox, which goes on as it was.
    ///
    /// # Errors
    /// [`SandboxError::NameTaken`]; [`SandboxError::TooMany`]; the step that failed.
    pub async fn create_checkpoint(
        &self,
        id: &SandboxId,
        name: &CheckpointName,
    ) -> Result<Checkpoint, SandboxError> {
        self.create_marked(id, name, None).await
    }

    /// Creates a checkpoint, with the mark of an automatic one.
    ///
    /// # Errors
    /// As [`Manager::create_checkpoint`].
    pub(super) async fn create_marked(
        &self,
        id: &SandboxId,
        name: &CheckpointName,
        mark: Option<Automatic>,
    ) -> Result<Checkpoint, SandboxError> {
        let handle = self.find_sandbox(id).await?;
        let reserved = handle.pending_checkpoints.reserve_name(name);
        let _reserved = reserved.ok_or_else(|| name_taken(name, ", or wait until it is made"))?;
        // This one is among them.
        let others_pending = handle.pending_checkpoints.len() - 1;
        let root = self.checkpoints_dir(id);
        let dir = root.join(name.as_str());
        self.check_checkpoint(&root, name, others_pending).await?;
        let staging = checkpoint::staging_dir(&root, name);
        let command = Command::Snapshot {
            dir: staging.clone(),
            parts: SnapshotParts::MemoryAndDisk,
        };
        let published = match handle.send_command(command).await {
            Ok(()) => {
                let from = staging.clone();
                let to = dir.clone();
                let names = handle.pending_checkpoints.clone();
                let publish = move || {
                    mark.map_or(Ok(()), |mark| mark.write(&from))?;
                    names.publish(&from, &to)
                };
                let published = OperationKind::Snapshot.run_blocking(publish).await;
                published.map_err(SandboxError::from)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = published {
            remove_snapshot(&staging).await;
            return Err(error);
        }
        let read = move || Ok::<_, Infallible>(checkpoint::read_checkpoint(&dir));
        let read = OperationKind::Snapshot.run_blocking(read).await?;
        Ok(read.ok_or(StepError::UnreadableCheckpoint)?)
    }

    /// Checks that the name is free and the limit not reached.
    async fn check_checkpoint(
        &self,
        root: &std::path::Path,
        name: &CheckpointName,
        others_pending: usize,
    ) -> Result<(), SandboxError> {
        let most = self.host.limits.checkpoints;
        let root = root.to_owned();
        let dir = root.join(name.as_str());
        let prepare = move || checkpoint::prepare_dir(&root, &dir);
        match OperationKind::Snapshot.run_blocking(prepare).await? {
            Prepared::Taken => Err(name_taken(name, ", or remove it")),
            Prepared::Free { checkpoints } if checkpoints + others_pending >= most => {
                Err(SandboxError::TooMany {
                    what: "checkpoints",
                    count: checkpoints + others_pending,
                    most,
                    setting: limits::CHECKPOINTS,
                })
            }
            Prepared::Free { .. } => Ok(()),
        }
    }

    /// Lists the checkpoints of a sandbox, oldest first.
    ///
    /// # Errors
    /// [`SandboxError::Unknown`].
    pub async fn list_checkpoints(&self, id: &SandboxId) -> Result<Vec<Checkpoint>, SandboxError> {
        self.find_sandbox(id).await?;
        let root = self.checkpoints_dir(id);
        let list = move || Ok::<_, Infallible>(checkpoint::list_checkpoints(&root));
        let listed = OperationKind::Snapshot.run_blocking(list).await?;
        Ok(listed)
    }

    /// Removes a checkpoint. Idempotent.
    ///
    /// # Errors
    /// [`SandboxError::Unknown`]; what failed.
    pub async fn remove_checkpoint(
        &self,
        id: &SandboxId,
        name: &CheckpointName,
    ) -> Result<(), SandboxError> {
        self.find_sandbox(id).await?;
        let dir = self.checkpoints_dir(id).join(name.as_str());
        let remove = move || format::remove(&dir);
        OperationKind::Snapshot.run_blocking(remove).await?;
        Ok(())
    }

    /// Rolls a sandbox back to a checkpoint. It runs afterwards if it ran before; if it cannot, or
    /// the agent dies in between, it is paused there.
    ///
    /// # Errors
    /// [`SandboxError::NoCheckpoint`]; what failed.
    pub async fn rollback_sandbox(
        &self,
        id: &SandboxId,
        name: &CheckpointName,
    ) -> Result<Handle, SandboxError> {
        let handle = self.find_sandbox(id).await?;
        let known = self.list_checkpoints(id).await?;
        if !known.iter().any(|checkpoint| checkpoint.name == *name) {
            let known = known.iter().map(|checkpoint| checkpoint.name.to_string());
            return Err(SandboxError::NoCheckpoint {
                name: name.to_string(),
                known: known.collect(),
            });
        }
        let was_up = handle.record.borrow().phase.is_up();
        let command = Command::Rollback {
            checkpoint: self.checkpoints_dir(id).join(name.as_str()),
        };
        handle.send_command(command).await?;
        if was_up {
            self.resume_sandbox(id).await
        } else {
            Ok(handle)
        }
    }

    pub(super) fn checkpoints_dir(&self, id: &SandboxId) -> PathBuf {
        self.host.state.ledger.sandbox_dir(id).join(CHECKPOINTS)
    }
}

fn name_taken(name: &CheckpointName, hint: &'static str) -> SandboxError {
    SandboxError::NameTaken {
        what: "checkpoint",
        name: name.to_string(),
        hint,
    }
}
