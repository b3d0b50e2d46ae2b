//! Snapshots, which are templates, and checkpoints. Long operations go on when the caller goes away,
//! and undo themselves if they fail.

use std::sync::Arc;

use connectrpc::{
    ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use host_rpc as rpc;
use host_rpc::SnapshotService;
use model::{AutoCheckpoint, CheckpointName, TemplateName};
use stdx::task::run_blocking;
use tokio_util::sync::CancellationToken;

use super::diff;
use super::error::{from_sandbox_error, invalid_argument};
use super::templates::template_message;
use super::{Agent, report_of, run_detached, sandbox_id};
use crate::sandbox::SandboxError;
use crate::sandbox::manager::undo::UndoTarget;
use crate::snapshot::checkpoint::Checkpoint;

#[expect(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl SnapshotService for Agent {
    async fn create_snapshot(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::CreateSnapshotRequest>,
    ) -> ServiceResult<rpc::CreateSnapshotResponse> {
        let id = sandbox_id(request.sandbox_id)?;
        let name = template_name(request.name)?;
        let memory = request.memory;
        let overwrite = request.overwrite;
        let manager = Arc::clone(&self.manager);
        let create = async move { manager.create_template(&id, &name, memory, overwrite).await };
        let created = run_detached(create).await?;
        Response::ok(rpc::CreateSnapshotResponse {
            template: measured(move || template_message(&created)).await?.into(),
            ..Default::default()
        })
    }

    async fn remove_snapshot(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::RemoveSnapshotRequest>,
    ) -> ServiceResult<rpc::RemoveSnapshotResponse> {
        let name = template_name(request.name)?;
        let manager = Arc::clone(&self.manager);
        run_detached(async move { manager.remove_template(&name).await }).await?;
        Response::ok(rpc::RemoveSnapshotResponse::default())
    }

    async fn create_checkpoint(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::CreateCheckpointRequest>,
    ) -> ServiceResult<rpc::CreateCheckpointResponse> {
        let id = sandbox_id(request.sandbox_id)?;
        let name = checkpoint_name(request.name)?;
        let manager = Arc::clone(&self.manager);
        let create = async move { manager.create_checkpoint(&id, &name).await };
        let created = run_detached(create).await?;
        Response::ok(rpc::CreateCheckpointResponse {
            checkpoint: measured(move || checkpoint_message(&created)).await?.into(),
            ..Default::default()
        })
    }

    async fn list_checkpoints(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ListCheckpointsRequest>,
    ) -> ServiceResult<rpc::ListCheckpointsResponse> {
        let found = self
            .manager
            .list_checkpoints(&sandbox_id(request.sandbox_id)?)
            .await
            .map_err(from_sandbox_error)?;
        let messages = move || found.iter().map(checkpoint_message).collect();
        Response::ok(rpc::ListCheckpointsResponse {
            checkpoints: measured(messages).await?,
            ..Default::default()
        })
    }

    async fn remove_checkpoint(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::RemoveCheckpointRequest>,
    ) -> ServiceResult<rpc::RemoveCheckpointResponse> {
        let id = sandbox_id(request.sandbox_id)?;
        let name = checkpoint_name(request.name)?;
        self.manager
            .remove_checkpoint(&id, &name)
            .await
            .map_err(from_sandbox_error)?;
        Response::ok(rpc::RemoveCheckpointResponse::default())
    }

    async fn rollback_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::RollbackSandboxRequest>,
    ) -> ServiceResult<rpc::RollbackSandboxResponse> {
        let id = sandbox_id(request.sandbox_id)?;
        let name = checkpoint_name(request.name)?;
        let manager = Arc::clone(&self.manager);
        let handle =
            run_detached(async move { manager.rollback_sandbox(&id, &name).await }).await?;
        Response::ok(rpc::RollbackSandboxResponse {
            sandbox: report_of(&self.manager.host, &handle).into(),
            ..Default::default()
        })
    }

    async fn set_auto_checkpoint(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::SetAutoCheckpointRequest>,
    ) -> ServiceResult<rpc::SetAutoCheckpointResponse> {
        let request = request.to_owned_message();
        let id = sandbox_id(&request.sandbox_id)?;
        let policy = request
            .policy
            .as_option()
            .map(rpc::spec::policy_from_message);
        let checked = policy.as_ref().map_or(Ok(()), AutoCheckpoint::check);
        checked.map_err(invalid_argument)?;
        let changed = self.manager.set_auto_checkpoint(&id, policy).await;
        changed.map_err(from_sandbox_error)?;
        Response::ok(rpc::SetAutoCheckpointResponse::default())
    }

    async fn get_history(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::GetHistoryRequest>,
    ) -> ServiceResult<rpc::GetHistoryResponse> {
        let id = sandbox_id(request.sandbox_id)?;
        let handle = self.manager.find_sandbox(&id).await;
        let handle = handle.map_err(from_sandbox_error)?;
        let steps = self.manager.list_history(&id).await;
        let steps = steps.map_err(from_sandbox_error)?;
        let policy = handle.record.borrow().spec.auto_checkpoint;
        let messages = move || steps.iter().map(checkpoint_message).collect();
        Response::ok(rpc::GetHistoryResponse {
            policy: policy.map(rpc::spec::policy_to_message).into(),
            steps: measured(messages).await?,
            failure: handle.auto_checkpoints.failure().unwrap_or_default(),
            ..Default::default()
        })
    }

    async fn undo_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::UndoSandboxRequest>,
    ) -> ServiceResult<rpc::UndoSandboxResponse> {
        let id = sandbox_id(request.sandbox_id)?;
        let target = match request.checkpoint {
            "" => UndoTarget::Steps(request.steps),
            name => UndoTarget::Checkpoint(checkpoint_name(name)?),
        };
        let manager = Arc::clone(&self.manager);
        let undone = run_detached(async move { manager.undo_sandbox(&id, target).await }).await?;
        Response::ok(rpc::UndoSandboxResponse {
            sandbox: report_of(&self.manager.host, &undone.handle).into(),
            checkpoint: undone.checkpoint.to_string(),
            saved_as: undone.saved_as.to_string(),
            ..Default::default()
        })
    }

    async fn diff_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::DiffSandboxRequest>,
    ) -> ServiceResult<ServiceStream<rpc::DiffSandboxResponse>> {
        let request = request.to_owned_message();
        let id = sandbox_id(&request.sandbox_id)?;
        let query = diff::query_from(&request)?;
        let manager = Arc::clone(&self.manager);
        let hung_up = CancellationToken::new();
        let _guard = hung_up.clone().drop_guard();
        // Detached, so that a snapshot of the disk is removed also when the caller hangs up.
        let begin = async move { manager.diff_sandbox(&id, query, &hung_up).await };
        let begun = run_detached(begin).await?;
        Response::stream_ok(diff::stream_diff(begun))
    }
}

fn template_name(text: &str) -> Result<TemplateName, ConnectError> {
    text.parse().map_err(invalid_argument)
}

fn checkpoint_name(text: &str) -> Result<CheckpointName, ConnectError> {
    text.parse().map_err(invalid_argument)
}

/// Runs work that measures files.
async fn measured<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ConnectError> {
    let done = run_blocking(move || Ok::<_, SandboxError>(work())).await;
    done.map_err(from_sandbox_error)
}

/// Converts a checkpoint, and measures it. Blocking.
fn checkpoint_message(checkpoint: &Checkpoint) -> rpc::Checkpoint {
    let sizes = checkpoint.sizes();
    rpc::Checkpoint {
        name: checkpoint.name.to_string(),
        created_at_ms: checkpoint.created_at_ms,
        size_bytes: sizes.allocated,
        exclusive_bytes: sizes.exclusive,
        automatic: checkpoint.automatic.is_some(),
        ..rpc::Checkpoint::default()
    }
}
