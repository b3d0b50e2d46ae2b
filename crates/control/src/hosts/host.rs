//! Calls about the host itself.

use std::time::Duration;

use host_rpc as rpc;
use store::HostDrain;

use super::Host;
use super::calls::ASK_TIMEOUT;
use crate::error::Result;

/// Time for a host to answer where another one can take its place. A host that works answers in
/// milliseconds; a busy one may need a second try of TCP to connect ([`super::CONNECT_TIMEOUT`]).
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

impl Host {
    /// Makes a call that changes nothing, with little patience.
    ///
    /// # Errors
    /// `HostUnavailable` if the host does not answer at once; the call's.
    pub async fn probe<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let silent = |_| {
            let why = format!("it has not answered for {} s", PROBE_TIMEOUT.as_secs());
            self.unreachable(&why)
        };
        let answer = tokio::time::timeout(PROBE_TIMEOUT, call).await;
        answer.map_err(silent)?
    }

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
            self.failed_query(&error)
        })?;
        let host = host.into_owned();
        self.connection.set_identity(&host.host_id, &token);
        Ok(HostInfo {
            id: host.host_id,
            agent_version: host.agent_version,
            memory_bytes: host.memory_bytes,
            sandboxes: host.sandboxes,
            has_start_commands: host.has_start_commands,
            is_draining: host.draining,
            running: host.running,
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
    /// False for agents of the version before, which ignore the start command of a spec.
    pub has_start_commands: bool,
    /// It takes no new sandboxes.
    pub is_draining: bool,
    /// Number of sandboxes that run or are being created; not counted by agents of the version
    /// before.
    pub running: u32,
}

impl HostInfo {
    /// Returns the drain of the host.
    #[must_use]
    pub fn drain(&self) -> HostDrain {
        match (self.is_draining, self.running) {
            (false, _) => HostDrain::None,
            (true, 0) => HostDrain::Drained,
            (true, _) => HostDrain::Draining,
        }
    }
}
