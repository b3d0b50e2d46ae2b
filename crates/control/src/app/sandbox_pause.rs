//! Pauses and resumes sandboxes. The host orders commands that come at once (two pauses, a delete in
//! between), and can do either twice.

use model::{Resource, SandboxId, SandboxState};
use store::Sandbox;

use super::App;
use super::sandbox_read::wrong_state;
use crate::auth::Principal;
use crate::error::Result;
use crate::hosts::SandboxReport;

impl App {
    /// Pauses a sandbox, and returns when memory and disk are safe on the host's disk. A paused one
    /// stays so. Its end does not come before that, unless it is one of paused sandboxes, too.
    ///
    /// # Errors
    /// The host's; the sandbox runs on then, unless it is not known. `InvalidState` if it has ended.
    pub async fn pause_sandbox(&self, principal: &Principal, id: &SandboxId) -> Result<Sandbox> {
        principal.require_write(Resource::Sandboxes)?;
        let _actor = self.actors.note(id, principal);
        let paused = loop {
            let (before, host) = self.find_alive(principal, id).await?;
            let is_claimed =
                before.state == SandboxState::Running && !before.attributes.end_policy.is_stop();
            if !is_claimed {
                let report = host.pause_sandbox(id).await?;
                break self.apply_pause(id, report).await?;
            }
            if let Some(claim) = self.claim_pause(&before).await? {
                break self.pause_claimed(claim).await?;
            }
        };
        match paused.state.is_terminal() {
            true => Err(wrong_state(&paused, "paused")),
            false => Ok(paused),
        }
    }

    /// Resumes a sandbox, and returns when it runs. A running one goes on.
    ///
    /// # Errors
    /// The host's; the sandbox stays paused then.
    pub async fn resume_sandbox(&self, principal: &Principal, id: &SandboxId) -> Result<Sandbox> {
        principal.require_write(Resource::Sandboxes)?;
        let (_, host) = self.find_alive(principal, id).await?;
        let _actor = self.actors.note(id, principal);
        let report = host.resume_sandbox(id).await?;
        let applied = self.apply_response(id, report).await;
        applied.map_err(|error| error.after_change("the sandbox is resumed"))
    }

    /// Applies the report of a host that has paused a sandbox.
    ///
    /// # Errors
    /// As [`Self::apply_response`], without a code that says that nothing was done.
    pub(super) async fn apply_pause(
        &self,
        id: &SandboxId,
        report: SandboxReport,
    ) -> Result<Sandbox> {
        let applied = self.apply_response(id, report).await;
        applied.map_err(|error| error.after_change("the sandbox is paused"))
    }
}
