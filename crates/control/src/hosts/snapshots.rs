//! Calls about snapshots and checkpoints.

use host_rpc as rpc;
use model::{AutoCheckpoint, CheckpointName, SandboxId, TemplateName};

use super::Host;
use super::calls::{ASK_TIMEOUT, FILES_TIMEOUT, RESUME_TIMEOUT, SAVE_TIMEOUT, query, unary};
use super::reports::SandboxReport;
use super::templates::Template;
use crate::error::{Error, Result};

/// A saved state that belongs to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub name: String,
    /// Bytes allocated on the host.
    pub size_bytes: u64,
    /// Those of them that are free when it is removed.
    pub exclusive_bytes: u64,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
    pub automatic: bool,
}

/// Automatic checkpoints of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    pub policy: Option<AutoCheckpoint>,
    /// Where an undo of 1, 2, … steps goes.
    pub steps: Vec<Checkpoint>,
    /// Why the last one could not be made.
    pub failure: Option<String>,
}

/// Outcome of an undo on the host.
#[derive(Debug)]
pub struct Undone {
    pub report: SandboxReport,
    pub checkpoint: String,
    pub saved_as: String,
}

/// Point to go back to.
#[derive(Debug, Clone)]
pub enum UndoTarget {
    Steps(u32),
    Checkpoint(CheckpointName),
}

impl From<rpc::Checkpoint> for Checkpoint {
    fn from(checkpoint: rpc::Checkpoint) -> Self {
        Self {
            name: checkpoint.name,
            size_bytes: checkpoint.size_bytes,
            exclusive_bytes: checkpoint.exclusive_bytes,
            created_at: checkpoint.created_at_ms,
            automatic: checkpoint.automatic,
        }
    }
}

impl Host {
    /// Creates a snapshot of a sandbox as a template, with the guest's memory if `memory` is set.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn create_snapshot(
        &self,
        id: &SandboxId,
        name: &TemplateName,
        memory: bool,
        overwrite: bool,
    ) -> Result<Template> {
        let request = rpc::CreateSnapshotRequest {
            sandbox_id: id.to_string(),
            name: name.to_string(),
            memory,
            overwrite,
            ..Default::default()
        };
        self.forget_inventory();
        let answer = unary!(
            self,
            snapshots.create_snapshot_with_options(request),
            SAVE_TIMEOUT
        );
        self.forget_inventory();
        let answer = answer?;
        let template = answer.template.into_option().unwrap_or_default();
        Template::try_from(template).map_err(|cause| {
            let text = "the host agent's answer makes no sense";
            Error::new(model::ErrorCode::AgentError, text).because(cause)
        })
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// `Conflict` while sandboxes use it; the host's.
    pub async fn remove_snapshot(&self, name: &TemplateName) -> Result<()> {
        let request = rpc::RemoveSnapshotRequest {
            name: name.to_string(),
            ..Default::default()
        };
        self.forget_inventory();
        let answer = unary!(
            self,
            snapshots.remove_snapshot_with_options(request),
            FILES_TIMEOUT
        );
        self.forget_inventory();
        answer.map(drop)
    }

    /// Creates a checkpoint of a sandbox.
    ///
    /// # Errors
    /// `Conflict` when the sandbox has one of that name; the host's.
    pub async fn create_checkpoint(
        &self,
        id: &SandboxId,
        name: &CheckpointName,
    ) -> Result<Checkpoint> {
        let request = rpc::CreateCheckpointRequest {
            sandbox_id: id.to_string(),
            name: name.to_string(),
            ..Default::default()
        };
        let answer = unary!(
            self,
            snapshots.create_checkpoint_with_options(request),
            SAVE_TIMEOUT
        )?;
        Ok(answer.checkpoint.into_option().unwrap_or_default().into())
    }

    /// Lists the checkpoints of a sandbox, oldest first.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn list_checkpoints(&self, id: &SandboxId) -> Result<Vec<Checkpoint>> {
        let request = rpc::ListCheckpointsRequest {
            sandbox_id: id.to_string(),
            ..Default::default()
        };
        let answer = query!(
            self,
            snapshots.list_checkpoints_with_options(request),
            ASK_TIMEOUT
        )?;
        let checkpoints = answer.checkpoints.into_iter();
        Ok(checkpoints.map(Checkpoint::from).collect())
    }

    /// Removes a checkpoint of a sandbox.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn remove_checkpoint(&self, id: &SandboxId, name: &CheckpointName) -> Result<()> {
        let request = rpc::RemoveCheckpointRequest {
            sandbox_id: id.to_string(),
            name: name.to_string(),
            ..Default::default()
        };
        unary!(
            self,
            snapshots.remove_checkpoint_with_options(request),
            FILES_TIMEOUT
        )
        .map(drop)
    }

    /// Restores a checkpoint of a sandbox.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn rollback_sandbox(
        &self,
        id: &SandboxId,
        checkpoint: &CheckpointName,
    ) -> Result<SandboxReport> {
        let request = rpc::RollbackSandboxRequest {
            sandbox_id: id.to_string(),
            name: checkpoint.to_string(),
            ..Default::default()
        };
        let limit = SAVE_TIMEOUT + RESUME_TIMEOUT;
        let answer = unary!(
            self,
            snapshots.rollback_sandbox_with_options(request),
            limit
        )?;
        self.report_from(answer.sandbox.into_option()).await
    }

    /// Replaces the policy for automatic checkpoints of a sandbox.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn set_auto_checkpoint(
        &self,
        id: &SandboxId,
        policy: Option<AutoCheckpoint>,
    ) -> Result<()> {
        let request = rpc::SetAutoCheckpointRequest {
            sandbox_id: id.to_string(),
            policy: policy.map(rpc::spec::policy_to_message).into(),
            ..Default::default()
        };
        // It waits until the command that is being carried out has ended.
        unary!(
            self,
            snapshots.set_auto_checkpoint_with_options(request),
            SAVE_TIMEOUT
        )
        .map(drop)
    }

    /// Returns the automatic checkpoints of a sandbox.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn get_history(&self, id: &SandboxId) -> Result<History> {
        let request = rpc::GetHistoryRequest {
            sandbox_id: id.to_string(),
            ..Default::default()
        };
        let answer = query!(
            self,
            snapshots.get_history_with_options(request),
            ASK_TIMEOUT
        )?;
        let policy = answer.policy.as_option();
        Ok(History {
            policy: policy.map(rpc::spec::policy_from_message),
            steps: answer.steps.into_iter().map(Checkpoint::from).collect(),
            failure: Some(answer.failure).filter(|failure| !failure.is_empty()),
        })
    }

    /// Saves the state of a sandbox, and rolls it back in its history.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn undo_sandbox(&self, id: &SandboxId, target: &UndoTarget) -> Result<Undone> {
        let (steps, checkpoint) = match target {
            UndoTarget::Steps(steps) => (*steps, String::new()),
            UndoTarget::Checkpoint(name) => (0, name.to_string()),
        };
        let request = rpc::UndoSandboxRequest {
            sandbox_id: id.to_string(),
            steps,
            checkpoint,
            ..Default::default()
        };
        let limit = SAVE_TIMEOUT + SAVE_TIMEOUT + RESUME_TIMEOUT;
        let answer = unary!(self, snapshots.undo_sandbox_with_options(request), limit)?;
        Ok(Undone {
            report: self.report_from(answer.sandbox.into_option()).await?,
            checkpoint: answer.checkpoint,
            saved_as: answer.saved_as,
        })
    }
}
