//! Changes where a sandbox may connect to. The host writes the rules down and makes them hold; its
//! report brings them into the row.

use std::sync::Arc;

use host_rpc as rpc;
use model::{NetworkSpec, SandboxId};
use store::Sandbox;

use super::App;
use crate::error::{Error, Result};

/// Answers when the rules hold, or are written down for when the sandbox is resumed.
///
/// # Errors
/// What keeps the host from it: the former rules hold then.
pub async fn set_network(app: Arc<App>, id: SandboxId, rules: NetworkSpec) -> Result<Sandbox> {
    let (_, host) = app.alive(&id).await?;
    let (sandbox_id, network) = (id.to_string(), rpc::network::to_message(&rules).into());
    let request = rpc::UpdateNetworkRequest {
        sandbox_id,
        network,
        ..Default::default()
    };
    let report = host
        .update_network(request)
        .await?
        .sandbox
        .into_option()
        .unwrap_or_default();
    app.settle(&host, report)
        .await?
        .ok_or_else(|| Error::no_sandbox(&id))
}
