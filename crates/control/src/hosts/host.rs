//! Calls about the host itself.

use host_rpc as rpc;

use super::Host;
use super::calls::ASK_TIMEOUT;
use crate::error::Result;

impl Host {
    /// Asks the host to describe itself, with its token read afresh.
    ///
    /// # Errors
    /// That it cannot be reached, or refuses our token.
    pub async fn connect(&self) -> Result<HostInfo> {
        let token = self.read_token()?;
        let options = connectrpc::client::CallOptions::default().with_timeout(ASK_TIMEOUT);
        let request = rpc::GetHostRequest::default();
        let asked = self
            .client_with(&token)?
            .host()
            .get_host_with_options(request, options)
            .await;
        let host = asked.map_err(|error| {
            if error.code == connectrpc::ErrorCode::Unauthenticated {
                self.connection.forget_token();
            }
            self.failed(&error)
        })?;
        let host = host.into_owned();
        self.connection.set_identity(&host.host_id, &token);
        Ok(HostInfo {
            id: host.host_id,
            agent_version: host.agent_version,
            memory_bytes: host.memory_bytes,
            sandboxes: host.sandboxes,
        })
    }
}

/// Description of a host by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostInfo {
    pub id: String,
    pub agent_version: String,
    pub memory_bytes: u64,
    /// Number of sandboxes, in any state.
    pub sandboxes: u32,
}
