//! Console and agent events of a sandbox.

use model::{Resource, SandboxId};

use super::App;
use crate::auth::Principal;
use crate::error::Result;
use crate::hosts::LogStream;

impl App {
    /// Opens the logs of a sandbox in any state; with `follow`, the stream goes on with new lines.
    ///
    /// # Errors
    /// `NotFound`; `HostUnavailable`.
    pub async fn read_logs(
        &self,
        principal: &Principal,
        id: &SandboxId,
        follow: bool,
    ) -> Result<LogStream> {
        principal.require_read(Resource::Sandboxes)?;
        let sandbox = self.find_sandbox(principal, id).await?;
        let host = self.find_host(id, sandbox.host_id.as_deref())?;
        host.read_logs(id, follow).await
    }
}
