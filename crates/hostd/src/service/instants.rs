//! Forks, templates and checkpoints. Long operations go on when the caller goes away, and undo
//! themselves if they fail.

use std::sync::Arc;

use connectrpc::ConnectError;
use host_rpc as rpc;
use model::{CheckpointName, SandboxId, TemplateName};

use super::error::{invalid, refused};
use super::{report_of, sandbox_id};
use crate::host::Host;
use crate::sandbox::{Manager, SandboxError};
use crate::snapshot::checkpoint::Checkpoint;
use crate::snapshot::template::Template;

/// Most children of one fork: as many as a host starts in a reasonable time.
const MAX_CHILDREN: usize = 100;

/// Runs work to its end, also if the caller is cancelled.
async fn on_its_own<T: Send + 'static>(
    work: impl Future<Output = Result<T, SandboxError>> + Send + 'static,
) -> Result<T, ConnectError> {
    let done = tokio::spawn(runtime::trace::in_current_context(work))
        .await
        .map_err(|error| ConnectError::internal(error.to_string()))?;
    done.map_err(refused)
}

fn template_name(text: &str) -> Result<TemplateName, ConnectError> {
    text.parse().map_err(invalid)
}

fn checkpoint_name(text: &str) -> Result<CheckpointName, ConnectError> {
    text.parse().map_err(invalid)
}

pub(super) async fn fork(
    manager: &Arc<Manager>,
    request: rpc::ForkSandboxRequest,
) -> Result<rpc::ForkSandboxResponse, ConnectError> {
    let id = sandbox_id(&request.sandbox_id)?;
    let children = request
        .child_ids
        .iter()
        .map(|id| sandbox_id(id))
        .collect::<Result<Vec<SandboxId>, _>>()?;
    if children.is_empty() || children.len() > MAX_CHILDREN {
        let problem = format!(
            "child_ids must be 1 to {MAX_CHILDREN} ids, not {}",
            children.len()
        );
        return Err(ConnectError::invalid_argument(problem));
    }
    let forking = Arc::clone(manager);
    let made = on_its_own(async move { forking.fork(&id, &children).await }).await?;
    let children = made
        .iter()
        .map(|handle| report_of(&manager.host, handle))
        .collect();
    Ok(rpc::ForkSandboxResponse {
        children,
        ..Default::default()
    })
}

pub(super) async fn create_snapshot(
    manager: &Arc<Manager>,
    request: rpc::CreateSnapshotRequest,
) -> Result<rpc::CreateSnapshotResponse, ConnectError> {
    let id = sandbox_id(&request.sandbox_id)?;
    let name = template_name(&request.name)?;
    let memory = request.memory;
    let overwrite = request.overwrite;
    let manager = Arc::clone(manager);
    let snapshot =
        on_its_own(async move { manager.create_template(&id, &name, memory, overwrite).await })
            .await?;
    Ok(rpc::CreateSnapshotResponse {
        template: template(&snapshot).into(),
        ..Default::default()
    })
}

pub(super) async fn remove_snapshot(
    manager: &Arc<Manager>,
    request: rpc::RemoveSnapshotRequest,
) -> Result<rpc::RemoveSnapshotResponse, ConnectError> {
    let name = template_name(&request.name)?;
    let manager = Arc::clone(manager);
    on_its_own(async move { manager.remove_template(&name).await }).await?;
    Ok(rpc::RemoveSnapshotResponse::default())
}

pub(super) async fn create_checkpoint(
    manager: &Arc<Manager>,
    request: rpc::CreateCheckpointRequest,
) -> Result<rpc::CreateCheckpointResponse, ConnectError> {
    let id = sandbox_id(&request.sandbox_id)?;
    let name = checkpoint_name(&request.name)?;
    let manager = Arc::clone(manager);
    let made = on_its_own(async move { manager.create_checkpoint(&id, &name).await }).await?;
    Ok(rpc::CreateCheckpointResponse {
        checkpoint: checkpoint(made).into(),
        ..Default::default()
    })
}

pub(super) async fn list_checkpoints(
    manager: &Arc<Manager>,
    request: rpc::ListCheckpointsRequest,
) -> Result<rpc::ListCheckpointsResponse, ConnectError> {
    let found = manager
        .list_checkpoints(&sandbox_id(&request.sandbox_id)?)
        .await
        .map_err(refused)?;
    let checkpoints = found.into_iter().map(checkpoint).collect();
    Ok(rpc::ListCheckpointsResponse {
        checkpoints,
        ..Default::default()
    })
}

pub(super) async fn remove_checkpoint(
    manager: &Arc<Manager>,
    request: rpc::RemoveCheckpointRequest,
) -> Result<rpc::RemoveCheckpointResponse, ConnectError> {
    let id = sandbox_id(&request.sandbox_id)?;
    let name = checkpoint_name(&request.name)?;
    manager
        .remove_checkpoint(&id, &name)
        .await
        .map_err(refused)?;
    Ok(rpc::RemoveCheckpointResponse::default())
}

pub(super) async fn roll_back(
    manager: &Arc<Manager>,
    request: rpc::RollbackSandboxRequest,
) -> Result<rpc::RollbackSandboxResponse, ConnectError> {
    let id = sandbox_id(&request.sandbox_id)?;
    let name = checkpoint_name(&request.name)?;
    let rolling = Arc::clone(manager);
    let handle = on_its_own(async move { rolling.rollback(&id, &name).await }).await?;
    let sandbox = report_of(&manager.host, &handle).into();
    Ok(rpc::RollbackSandboxResponse {
        sandbox,
        ..Default::default()
    })
}

/// Lists the templates of this host: base images, and those made from sandboxes.
pub(super) fn templates(host: &Host) -> Result<Vec<rpc::Template>, SandboxError> {
    let images = host.images.list()?.into_iter().map(|image| rpc::Template {
        name: image.name.to_string(),
        size_bytes: image.size_bytes,
        created_at_ms: image.created_at_ms,
        kind: rpc::TemplateKind::TEMPLATE_KIND_BASE.into(),
        ..rpc::Template::default()
    });
    Ok(images
        .chain(host.templates.list().iter().map(template))
        .collect())
}

fn template(template: &Template) -> rpc::Template {
    let (kind, snapshot) = match template.has_memory {
        true => (
            rpc::TemplateKind::TEMPLATE_KIND_SNAPSHOT,
            Some(&template.snapshot),
        ),
        false => (rpc::TemplateKind::TEMPLATE_KIND_IMAGE, None),
    };
    rpc::Template {
        name: template.name.to_string(),
        size_bytes: template.size_bytes(),
        created_at_ms: template.published_at_ms,
        kind: kind.into(),
        vcpus: snapshot.map_or(0, |snapshot| snapshot.vcpus),
        memory_mb: snapshot.map_or(0, |snapshot| snapshot.memory_mb),
        disk_mb: template.disk_mb(),
        source_sandbox_id: template.source.to_string(),
        ..rpc::Template::default()
    }
}

fn checkpoint(checkpoint: Checkpoint) -> rpc::Checkpoint {
    rpc::Checkpoint {
        name: checkpoint.name.to_string(),
        created_at_ms: checkpoint.created_at_ms,
        size_bytes: checkpoint.size_bytes,
        ..rpc::Checkpoint::default()
    }
}
