//! Snapshots and checkpoints.

use host_rpc as rpc;
use host_rpc::SnapshotService;

use super::super::{lifecycle, saved};
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

    unary!(rollback_sandbox(self, request: RollbackSandboxRequest) -> RollbackSandboxResponse, "RollbackSandbox", {
        let sandbox = lifecycle::rollback(&self.shared, &request)?.into();
        rpc::RollbackSandboxResponse { sandbox, ..Default::default() }
    });
}
