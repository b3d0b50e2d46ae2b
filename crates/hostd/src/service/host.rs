//! The host itself.

use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult};
use host_rpc as rpc;
use host_rpc::HostService;
use model::SandboxState;

use stdx::task::run_blocking;

use super::error::from_sandbox_error;
use super::{Agent, disk_usage};
use crate::sandbox::{Handle, SandboxError};

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
        let drain = host.state.drain.clone();
        let looked = run_blocking(move || Ok::<_, SandboxError>(drain.is_requested())).await;
        let draining = looked.map_err(from_sandbox_error)?;
        let handles = self.manager.list_sandboxes().await;
        let state = |handle: &&Handle| handle.record.borrow().phase.state();
        let running = handles
            .iter()
            .filter(|it| matches!(state(it), SandboxState::Pending | SandboxState::Running));
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Response::ok(rpc::GetHostResponse {
            host_id: host.id.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            cpu_count: u32::try_from(cpus).unwrap_or(u32::MAX),
            memory_bytes: crate::doctor::memory_bytes(),
            vmm: host.resources.vm.engine.vmm.to_owned(),
            accelerator: host.resources.vm.engine.accel.to_owned(),
            disk_backend: host.resources.disk.disks.chosen().backend.name().to_owned(),
            sandboxes: u32::try_from(handles.len()).unwrap_or(u32::MAX),
            has_start_commands: true,
            draining,
            running: u32::try_from(running.count()).unwrap_or(u32::MAX),
            ..rpc::GetHostResponse::default()
        })
    }

    async fn get_disk_usage(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::GetDiskUsageRequest>,
    ) -> ServiceResult<rpc::GetDiskUsageResponse> {
        let scope = disk_usage::scope_from(&request.to_owned_message());
        let files = self.disk_usage.get(&self.manager.host).await;
        let files = files.map_err(|error| from_sandbox_error(error.into()))?;
        // As long as the sets of all files, so that others are not held up.
        let report = run_blocking(move || Ok::<_, SandboxError>(files.report(&scope))).await;
        let report = report.map_err(from_sandbox_error)?;
        Response::ok(disk_usage::report_message(report))
    }
}
