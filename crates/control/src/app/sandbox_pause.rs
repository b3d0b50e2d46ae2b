//! Pauses and resumes sandboxes. The host orders commands that come at once (two pauses, a delete in
//! between), and can do either twice.

use model::{Resource, SandboxId};
use store::Sandbox;

use super::App;
use crate::auth::Principal;
use crate::error::Result;

impl App {
    /// Pauses a sandbox, and returns when memory and disk are safe on the host's disk. A paused one
    /// stays so.
    ///
    /// # Errors
    /// The host's; the sandbox runs on then.
    pub async fn pause_sandbox(&self, principal: &Principal, id: &SandboxId) -> Result<Sandbox> {
        principal.require_write(Resource::Sandboxes)?;
        let (_, host) = self.find_alive(principal, id).await?;
        let _actor = self.actors.note(id, principal);
        let report = host.pause_sandbox(id).await?;
        self.apply_response(id, report).await
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
        self.apply_response(id, report).await
    }
}
