//! Console and agent events of a sandbox.

use host_rpc::ReadLogsRequest;
use model::SandboxId;

use super::App;
use crate::error::Result;
use crate::hosts::LogStream;

impl App {
    /// What there is, in whatever state the sandbox is; with `follow`, then also what comes.
    ///
    /// # Errors
    /// `NotFound`; `HostUnavailable`.
    pub async fn logs(&self, id: &SandboxId, follow: bool) -> Result<LogStream> {
        let sandbox = self.sandbox(id).await?;
        let host = self.host_of(id, sandbox.host_id.as_deref())?;
        let request = ReadLogsRequest {
            sandbox_id: id.to_string(),
            follow,
            ..Default::default()
        };
        host.read_logs(request).await
    }
}
