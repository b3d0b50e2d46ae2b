//! Snapshots and checkpoints.

use host_rpc as rpc;
use host_rpc::SnapshotService;

use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};

use super::super::{comparing, lifecycle, saved};
use super::{Agent, unary};

#[allow(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl SnapshotService for Agent {
    unary!(create_snapshot(self, request: CreateSnapshotRequest) -> CreateSnapshotResponse, "CreateSnapshot", {
        let template = saved::create_snapshot(&mut self.shared.world(), request)?.into();
        rpc::CreateSnapshotResponse { template, ..Default::default() }
    });

    unary!(remove_snapshot(self, request: RemoveSnapshotRequest) -> RemoveSnapshotResponse, "RemoveSnapshot", {
        saved::remove_snapshot(&mut self.shared.world(), &request.name)?;
        rpc::RemoveSnapshotResponse::default()
    });

    unary!(create_checkpoint(self, request: CreateCheckpointRequest) -> CreateCheckpointResponse, "CreateCheckpoint", {
        let checkpoint = saved::create_checkpoint(&mut self.shared.world(), &request)?.into();
        rpc::CreateCheckpointResponse { checkpoint, ..Default::default() }
    });

    unary!(list_checkpoints(self, request: ListCheckpointsRequest) -> ListCheckpointsResponse, "ListCheckpoints", {
        let checkpoints = saved::list_checkpoints(&self.shared.world(), &request.sandbox_id)?;
        rpc::ListCheckpointsResponse { checkpoints, ..Default::default() }
    });

    unary!(remove_checkpoint(self, request: RemoveCheckpointRequest) -> RemoveCheckpointResponse, "RemoveCheckpoint", {
        saved::remove_checkpoint(&mut self.shared.world(), &request)?;
        rpc::RemoveCheckpointResponse::default()
    });

    unary!(set_auto_checkpoint(self, request: SetAutoCheckpointRequest) -> SetAutoCheckpointResponse, "SetAutoCheckpoint", {
        saved::set_auto_checkpoint(&mut self.shared.world(), request)?;
        rpc::SetAutoCheckpointResponse::default()
    });

    unary!(get_history(self, request: GetHistoryRequest) -> GetHistoryResponse, "GetHistory", {
        saved::history(&self.shared.world(), &request.sandbox_id)?
    });

    unary!(undo_sandbox(self, request: UndoSandboxRequest) -> UndoSandboxResponse, "UndoSandbox", {
        let (to, saved_as) = saved::begin_undo(&mut self.shared.world(), &request)?;
        let rollback = rpc::RollbackSandboxRequest {
            sandbox_id: request.sandbox_id.clone(),
            name: to.clone(),
            ..Default::default()
        };
        let sandbox = lifecycle::rollback(&self.shared, &rollback)?.into();
        rpc::UndoSandboxResponse { sandbox, checkpoint: to, saved_as, ..Default::default() }
    });

    unary!(rollback_sandbox(self, request: RollbackSandboxRequest) -> RollbackSandboxResponse, "RollbackSandbox", {
        let sandbox = lifecycle::rollback(&self.shared, &request)?.into();
        rpc::RollbackSandboxResponse { sandbox, ..Default::default() }
    });

    async fn diff_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::DiffSandboxRequest>,
    ) -> ServiceResult<ServiceStream<rpc::DiffSandboxResponse>> {
        let request = request.to_owned_message();
        self.shared.script.meet_barrier("DiffSandbox").await?;
        Response::stream_ok(comparing::diff(&self.shared.world(), &request)?)
    }
}
