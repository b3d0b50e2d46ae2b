//! Automatic checkpoints of a sandbox, and going back in their history. Only its host knows them.
//!
//! Of the policy it has the last word, and the row has a copy, for users to read: written after the
//! host has answered, and by `tasks::reconcile` where we die in between.

use model::{AutoCheckpoint, EventKind, Resource, SandboxId};
use stdx::time::now_ms;
use store::Sandbox;

use super::App;
use crate::auth::Principal;
use crate::error::Result;
use crate::hosts::{History, UndoTarget, Undone};

impl App {
    /// Replaces the policy for automatic checkpoints.
    ///
    /// # Errors
    /// The sandbox's state; the host's. The former policy holds then.
    pub async fn set_auto_checkpoint(
        &self,
        principal: &Principal,
        id: &SandboxId,
        policy: Option<AutoCheckpoint>,
    ) -> Result<()> {
        principal.require_write(Resource::Sandboxes)?;
        policy.as_ref().map_or(Ok(()), AutoCheckpoint::check)?;
        let (_, host) = self.find_alive(principal, id).await?;
        host.set_auto_checkpoint(id, policy).await?;
        let _actor = self.actors.note(id, principal);
        // Another change of the row at the same time makes it another one.
        while let Some(row) = self.store.sandbox_get_any_team(id).await? {
            if row.state.is_terminal() || self.record_policy(&row, policy).await? {
                break;
            }
        }
        Ok(())
    }

    /// Records the policy that a host goes by in the row. Returns false if the row has changed since
    /// it was read.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn record_policy(
        &self,
        row: &Sandbox,
        policy: Option<AutoCheckpoint>,
    ) -> Result<bool> {
        if row.spec.checkpoint_policy() == policy || row.deleting {
            return Ok(true);
        }
        let mut spec = row.spec.clone();
        spec.set_checkpoint_policy(policy);
        let updated = self
            .store_of(&row.id)
            .sandbox_update(row, &spec, &row.attributes, now_ms())
            .await?;
        Ok(updated.is_some())
    }

    /// Returns the policy, and where an undo goes.
    ///
    /// # Errors
    /// The sandbox's state; the host's.
    pub async fn get_history(&self, principal: &Principal, id: &SandboxId) -> Result<History> {
        principal.require_read(Resource::Sandboxes)?;
        let (_, host) = self.find_alive(principal, id).await?;
        host.get_history(id).await
    }

    /// Saves the state of a sandbox, and rolls it back. It runs then if it ran before.
    ///
    /// # Errors
    /// `NotFound` if the history does not go back so far; the host's. The sandbox is as it was
    /// then.
    pub async fn undo_sandbox(
        &self,
        principal: &Principal,
        id: &SandboxId,
        target: &UndoTarget,
    ) -> Result<(Sandbox, Undone)> {
        principal.require_write(Resource::Sandboxes)?;
        let (_, host) = self.find_alive(principal, id).await?;
        let _actor = self.actors.note(id, principal);
        let undone = host.undo_sandbox(id, target).await?;
        let applied = self.apply_response(id, undone.report.clone()).await;
        let sandbox = applied.map_err(|error| error.after_change("the undo is done"))?;
        for (kind, checkpoint) in [
            (EventKind::SandboxCheckpointed, &undone.saved_as),
            (EventKind::SandboxRolledBack, &undone.checkpoint),
        ] {
            self.record_checkpoint(principal, kind, id, checkpoint)
                .await;
        }
        Ok((sandbox, undone))
    }
}
