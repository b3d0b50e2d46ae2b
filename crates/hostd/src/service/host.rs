//! The host itself.

use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult};
use host_rpc as rpc;
use host_rpc::HostService;

use super::Agent;

#[expect(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl HostService for Agent {
    async fn get_host(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::GetHostRequest>,
    ) -> ServiceResult<rpc::GetHostResponse> {
        let host = &self.manager.host;
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Response::ok(rpc::GetHostResponse {
            host_id: host.id.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            cpu_count: u32::try_from(cpus).unwrap_or(u32::MAX),
            memory_bytes: crate::doctor::memory_bytes(),
            vmm: host.resources.vm.engine.vmm.to_owned(),
            accelerator: host.resources.vm.engine.accel.to_owned(),
            disk_backend: host.resources.disk.disks.chosen().backend.name().to_owned(),
            sandboxes: u32::try_from(self.manager.list_sandboxes().await.len()).unwrap_or(u32::MAX),
            ..rpc::GetHostResponse::default()
        })
    }
}
