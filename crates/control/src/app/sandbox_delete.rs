//! Deletes a sandbox, in every state and before everything else.
//!
//! Three steps: the wish becomes durable, the hosts remove what they have, the row goes. The wish
//! alone is a promise: whatever fails or dies after it, `tasks::reconcile` does the rest.
//!
//! On a full disk no wish can be noted. Then the hosts remove first, which makes room if it is
//! their disk as well. If we die in the middle of that, the row says that its host lost the
//! sandbox, and it can be deleted again.

use std::slice;
use std::time::Duration;

use model::{ErrorCode, Resource, SandboxId};
use stdx::time::now_ms;
use store::Sandbox;

use super::App;
use crate::auth::Principal;
use crate::error::{Error, Result};

/// Time for the hosts to answer while a user waits for a create that has failed anyway.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(20);

impl App {
    /// Deletes a sandbox in any state. Nothing of it is left on return.
    ///
    /// # Errors
    /// `NotFound`; the host's. The deletion is noted then, and will be carried out.
    pub async fn delete_sandbox(&self, principal: &Principal, id: &SandboxId) -> Result<()> {
        principal.require_write(Resource::Sandboxes)?;
        let team = &principal.team_id;
        let store = self.store.acting_for(principal.actor());
        let marked = store.sandbox_mark_deleting(team, id, now_ms()).await;
        let marked = match marked {
            Err(error) if error.is_full() => return self.delete_on_full_disk(principal, id).await,
            marked => marked?,
        };
        let sandbox = marked.ok_or_else(|| Error::no_sandbox(id))?;
        let _actor = self.actors.note(id, principal);
        self.finish_deletion(&sandbox).await.map_err(|error| {
            self.reconcile.notify_waiters();
            let code = match error.code {
                ErrorCode::InternalError => ErrorCode::InternalError,
                ErrorCode::Timeout => ErrorCode::Timeout,
                _ => ErrorCode::HostUnavailable,
            };
            Error {
                code,
                ..error.and("the deletion is noted and will be carried out")
            }
        })
    }

    /// Deletes a sandbox as [`Self::delete_sandbox`] does, for callers that do not wait for its host:
    /// succeeds once the deletion is noted, since nothing can reach the sandbox any more then.
    ///
    /// # Errors
    /// `NotFound`; the store's.
    pub async fn delete_or_note(&self, principal: &Principal, id: &SandboxId) -> Result<()> {
        let Err(error) = self.delete_sandbox(principal, id).await else {
            return Ok(());
        };
        match self.get_sandbox(principal, id).await {
            Err(gone) if gone.code == ErrorCode::NotFound && error.code != ErrorCode::NotFound => {
                Ok(())
            }
            _ => Err(error),
        }
    }

    async fn delete_on_full_disk(&self, principal: &Principal, id: &SandboxId) -> Result<()> {
        let row = self.store.sandbox_get(&principal.team_id, id).await?;
        let sandbox = row.ok_or_else(|| Error::no_sandbox(id))?;
        let _actor = self.actors.note(id, principal);
        let removed = self.finish_deletion(&sandbox).await;
        removed.map_err(|error| match error.code {
            ErrorCode::InsufficientStorage => {
                error.and("the sandbox is gone from its host, and its record stays until then")
            }
            _ => error
                .and("the deletion could not be noted, as the database has no space: try again"),
        })
    }

    /// Does the second and third step. Without a host in the row every host is asked; an id that a
    /// host does not know is fine with it.
    ///
    /// # Errors
    /// The host's; the store's.
    pub(crate) async fn finish_deletion(&self, sandbox: &Sandbox) -> Result<()> {
        let hosts = self.hosts.candidates(sandbox.host_id.as_deref());
        if hosts.is_empty() {
            let text = format!("the host of sandbox {} is not connected", sandbox.id);
            return Err(Error::new(ErrorCode::HostUnavailable, text));
        }
        let removals = hosts.iter().map(|host| host.remove_sandbox(&sandbox.id));
        let removals = futures::future::join_all(removals).await;
        removals.into_iter().collect::<Result<Vec<()>>>()?;
        let store = self.store_of(&sandbox.id);
        if store.sandbox_remove(&sandbox.id, now_ms()).await? {
            tracing::info!(sandbox = %sandbox.id, "deleted");
        }
        Ok(())
    }

    /// Deletes sandboxes that one failed request was to create, unless all of them have come to run.
    /// Returns true if they are, or will be, deleted: all of them, also where one resists, and also
    /// if we die on the way.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn rollback_create(&self, ids: &[SandboxId], why: &str) -> Result<bool> {
        let given_up = self.store.sandboxes_give_up(ids, now_ms()).await?;
        let deletions = given_up
            .iter()
            .map(|sandbox| self.finish_or_defer(sandbox, why));
        futures::future::join_all(deletions).await;
        Ok(!given_up.is_empty())
    }

    /// Deletes a sandbox that runs and that no client knows. It is, or will be, gone on return.
    ///
    /// # Errors
    /// The store's: it stays then.
    pub(super) async fn discard_sandbox(
        &self,
        principal: &Principal,
        sandbox: &Sandbox,
    ) -> Result<()> {
        let store = self.store.acting_for(principal.actor());
        let (team, id) = (&sandbox.team_id, &sandbox.id);
        let marked = store.sandbox_mark_deleting(team, id, now_ms()).await?;
        if let Some(sandbox) = marked {
            self.finish_or_defer(&sandbox, "no client knows it").await;
        }
        Ok(())
    }

    /// Deletes a sandbox whose create was never finished, unless the same request, asked again, goes
    /// on with it.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn rollback_unfinished(&self, id: &SandboxId, why: &str) -> Result<()> {
        if self.in_flight_creates.ids().contains(id) {
            return Ok(());
        }
        self.rollback_create(slice::from_ref(id), why)
            .await
            .map(drop)
    }

    /// Finishes a deletion; `tasks::reconcile` does it later if the hosts cannot do it now.
    async fn finish_or_defer(&self, sandbox: &Sandbox, why: &str) {
        let id = &sandbox.id;
        match tokio::time::timeout(ROLLBACK_TIMEOUT, self.finish_deletion(sandbox)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(sandbox = %id, why, error = error.chain(), "will be removed later")
            }
            Err(_) => {
                tracing::warn!(sandbox = %id, why, "will be removed later: the host takes too long")
            }
        }
    }
}
