//! Calls about networks of sandboxes.

use host_rpc as rpc;
use model::{NetworkSpec, SandboxId};

use super::Host;
use super::calls::{COMMAND_TIMEOUT, unary};
use super::reports::SandboxReport;
use crate::error::Result;

impl Host {
    /// Replaces all network rules of a sandbox.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn update_network(
        &self,
        id: &SandboxId,
        rules: &NetworkSpec,
    ) -> Result<SandboxReport> {
        let request = rpc::UpdateNetworkRequest {
            sandbox_id: id.to_string(),
            network: rpc::network::to_message(rules).into(),
            ..Default::default()
        };
        let answer = unary!(
            self,
            network.update_network_with_options(request),
            COMMAND_TIMEOUT
        )?;
        self.report_from(answer.sandbox.into_option()).await
    }
}
