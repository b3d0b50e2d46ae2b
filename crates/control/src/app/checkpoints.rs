//! Instants of a sandbox that it can be put back to. They belong to it and go with it; only its
//! host knows them.

use std::sync::Arc;

use host_rpc as rpc;
use model::{CheckpointName, ErrorCode, SandboxId};
use store::Sandbox;

use super::App;
use crate::error::{Error, Result};

/// Answers when it is safe on the host's disk. The sandbox goes on as it was.
///
/// # Errors
/// `Conflict` when it has one of that name; what keeps the host from it: nothing is left of the
/// checkpoint then.
pub async fn create(app: Arc<App>, id: SandboxId, name: CheckpointName) -> Result<rpc::Checkpoint> {
    let (_, host) = app.alive(&id).await?;
    let (sandbox_id, name) = (id.to_string(), name.to_string());
    let request = rpc::CreateCheckpointRequest {
        sandbox_id,
        name,
        ..Default::default()
    };
    Ok(host
        .create_checkpoint(request)
        .await?
        .checkpoint
        .into_option()
        .unwrap_or_default())
}

/// Oldest first.
///
/// # Errors
/// The sandbox's state, or the host's.
pub async fn list(app: &App, id: &SandboxId) -> Result<Vec<rpc::Checkpoint>> {
    let (_, host) = app.alive(id).await?;
    let request = rpc::ListCheckpointsRequest {
        sandbox_id: id.to_string(),
        ..Default::default()
    };
    Ok(host.list_checkpoints(request).await?.checkpoints)
}

/// Answers when it is gone.
///
/// # Errors
/// `NotFound`; the host's.
pub async fn delete(app: Arc<App>, id: SandboxId, name: CheckpointName) -> Result<()> {
    // Hosts remove what is not there without a word.
    if !list(&app, &id)
        .await?
        .iter()
        .any(|checkpoint| checkpoint.name == name.as_str())
    {
        let text =
            format!("sandbox {id} has no checkpoint {name}; `wrenn checkpoints {id}` lists them");
        return Err(Error::new(ErrorCode::NotFound, text));
    }
    let (_, host) = app.alive(&id).await?;
    let (sandbox_id, name) = (id.to_string(), name.to_string());
    let request = rpc::RemoveCheckpointRequest {
        sandbox_id,
        name,
        ..Default::default()
    };
    host.remove_checkpoint(request).await.map(drop)
}

/// Puts the sandbox back. Answers when it is there, and runs if it ran before.
///
/// # Errors
/// `NotFound`; what keeps the host from it: the sandbox is as it was then.
pub async fn rollback(app: Arc<App>, id: SandboxId, name: CheckpointName) -> Result<Sandbox> {
    let (_, host) = app.alive(&id).await?;
    let (sandbox_id, name) = (id.to_string(), name.to_string());
    let request = rpc::RollbackSandboxRequest {
        sandbox_id,
        name,
        ..Default::default()
    };
    let report = host
        .rollback_sandbox(request)
        .await?
        .sandbox
        .into_option()
        .unwrap_or_default();
    app.settle(&host, report)
        .await?
        .ok_or_else(|| Error::no_sandbox(&id))
}
