//! The host itself.

use connectrpc::{RequestContext, ServiceRequest, ServiceResult};
use host_rpc as rpc;
use host_rpc::HostService;

use super::super::saved;
use super::super::world::Sandbox;
use super::{Agent, answer, unary};

#[allow(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl HostService for Agent {
    async fn get_host(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::GetHostRequest>,
    ) -> ServiceResult<rpc::GetHostResponse> {
        self.shared.script.meet_barrier("GetHost").await?;
        let world = self.shared.world();
        let sandboxes = u32::try_from(world.sandboxes.len()).unwrap_or(u32::MAX);
        let runs = |sandbox: &&Sandbox| sandbox.state == rpc::SandboxState::SANDBOX_STATE_RUNNING;
        let running = world.sandboxes.values().filter(runs).count();
        let running = u32::try_from(running).unwrap_or(u32::MAX);
        answer!(GetHostResponse {
            host_id: world.host_id.clone(),
            agent_version: "0.0.0-fake".to_owned(),
            cpu_count: 2,
            memory_bytes: 1 << 34,
            sandboxes: sandboxes,
            has_start_commands: !world.is_old,
            draining: world.is_draining,
            running: running
        })
    }

    unary!(get_disk_usage(self, request: GetDiskUsageRequest) -> GetDiskUsageResponse, "GetDiskUsage", {
        saved::usage(&self.shared.world(), &request)
    });
}
