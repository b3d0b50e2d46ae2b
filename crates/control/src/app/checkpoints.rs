//! Checkpoints: saved states that a sandbox can be rolled back to. They belong to it and go with it;
//! only its host knows them.

use model::{CheckpointName, ErrorCode, EventKind, Resource, SandboxId};
use serde_json::json;
use store::Sandbox;

use super::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::Checkpoint;

impl App {
    /// Creates a checkpoint, and returns when it is safe on the host's disk. The sandbox goes on as
    /// it was.
    ///
    /// # Errors
    /// `Conflict` if the sandbox has one of that name; the host's. No checkpoint is left then.
    pub async fn create_checkpoint(
        &self,
        principal: &Principal,
        id: &SandboxId,
        name: &CheckpointName,
    ) -> Result<Checkpoint> {
        principal.require_write(Resource::Sandboxes)?;
        let (_, host) = self.find_alive(principal, id).await?;
        let checkpoint = host.create_checkpoint(id, name).await?;
        self.record_checkpoint(principal, EventKind::SandboxCheckpointed, id, name.as_str())
            .await;
        Ok(checkpoint)
    }

    /// Returns the checkpoints of a sandbox, oldest first.
    ///
    /// # Errors
    /// The sandbox's state; the host's.
    pub async fn list_checkpoints(
        &self,
        principal: &Principal,
        id: &SandboxId,
    ) -> Result<Vec<Checkpoint>> {
        principal.require_read(Resource::Sandboxes)?;
        let (_, host) = self.find_alive(principal, id).await?;
        host.list_checkpoints(id).await
    }

    /// Removes a checkpoint.
    ///
    /// # Errors
    /// `NotFound`; the host's.
    pub async fn delete_checkpoint(
        &self,
        principal: &Principal,
        id: &SandboxId,
        name: &CheckpointName,
    ) -> Result<()> {
        principal.require_write(Resource::Sandboxes)?;
        let (_, host) = self.find_alive(principal, id).await?;
        // Hosts remove a checkpoint that is not there without an error.
        let checkpoints = host.list_checkpoints(id).await?;
        let is_ours = |checkpoint: &Checkpoint| checkpoint.name == name.as_str();
        if !checkpoints.iter().any(is_ours) {
            let text = format!(
                "sandbox {id} has no checkpoint {name}; `wrenn checkpoints {id}` lists them"
            );
            return Err(Error::new(ErrorCode::NotFound, text));
        }
        host.remove_checkpoint(id, name).await?;
        let kind = EventKind::SandboxCheckpointDeleted;
        self.record_checkpoint(principal, kind, id, name.as_str())
            .await;
        Ok(())
    }

    /// Rolls a sandbox back. It runs then if it ran before.
    ///
    /// # Errors
    /// `NotFound`; the host's. The sandbox is as it was then.
    pub async fn rollback_sandbox(
        &self,
        principal: &Principal,
        id: &SandboxId,
        name: &CheckpointName,
    ) -> Result<Sandbox> {
        principal.require_write(Resource::Sandboxes)?;
        let (_, host) = self.find_alive(principal, id).await?;
        let _actor = self.actors.note(id, principal);
        let report = host.rollback_sandbox(id, name).await?;
        let applied = self.apply_response(id, report).await;
        let sandbox = applied.map_err(|error| error.after_change("the rollback is done"))?;
        self.record_checkpoint(principal, EventKind::SandboxRolledBack, id, name.as_str())
            .await;
        Ok(sandbox)
    }

    pub(super) async fn record_checkpoint(
        &self,
        principal: &Principal,
        kind: EventKind,
        id: &SandboxId,
        name: &str,
    ) {
        let data = json!({ "checkpoint": name });
        self.record_event(principal, kind, id.as_str(), Some(id), data)
            .await;
    }
}
