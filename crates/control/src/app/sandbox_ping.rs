//! Asks whether a sandbox answers, or says that it is used.

use model::{Resource, SandboxId, SandboxState};

use super::App;
use super::sandbox_read::wrong_state;
use crate::auth::Principal;
use crate::error::Result;

impl App {
    /// Asks the guest agent of a running sandbox whether it answers. Counts as use.
    ///
    /// # Errors
    /// `InvalidState` if it does not run: a paused one is not resumed. The host's.
    pub async fn ping_sandbox(&self, principal: &Principal, id: &SandboxId) -> Result<()> {
        self.ping(principal, id, true).await
    }

    /// Counts as use of a running sandbox: its idle time begins again.
    ///
    /// # Errors
    /// As [`Self::ping_sandbox`].
    pub async fn keep_sandbox_alive(&self, principal: &Principal, id: &SandboxId) -> Result<()> {
        self.ping(principal, id, false).await
    }

    async fn ping(&self, principal: &Principal, id: &SandboxId, ask_guest: bool) -> Result<()> {
        principal.require_write(Resource::Sandboxes)?;
        let sandbox = self.find_sandbox(principal, id).await?;
        if sandbox.state != SandboxState::Running {
            return Err(wrong_state(&sandbox, "running"));
        }
        let host = self.find_host(id, sandbox.host_id.as_deref())?;
        host.ping_sandbox(id, ask_guest).await
    }
}
