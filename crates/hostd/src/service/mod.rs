//! The Connect service that the control plane calls (`api/host/hostagent.proto`).
//!
//! Requests are checked here, at the edge; other modules take valid values only.

mod alive;
mod auth;
mod error;
mod exec;
mod files;
mod instants;
mod logs;
mod tunnel;
mod watch;

use std::sync::Arc;

use axum::middleware::from_fn;
use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult,
    ServiceStream,
};
use host_rpc as rpc;
use host_rpc::HostAgentService;
use model::SandboxId;
use stdx::task::run_blocking;

use crate::host::Host;
use crate::sandbox::report::sandbox_report;
use crate::sandbox::{Handle, Manager};
use error::{invalid, refused};

/// Returns a router of the service, which refuses requests without the token.
pub fn router(manager: Arc<Manager>, token: &str) -> axum::Router {
    let tunnels = tunnel::router(Arc::clone(&manager));
    let service = connectrpc::Router::new().add_service(Arc::new(Service { manager }));
    let token: Arc<str> = token.into();
    tunnels
        .fallback_service(service.into_axum_service())
        .layer(from_fn(runtime::trace::trace_request))
        .layer(from_fn(move |request, next| {
            auth::check(Arc::clone(&token), request, next)
        }))
        .layer(from_fn(rpc::linger::linger))
}

/// RPC service of a host.
#[derive(Debug)]
pub struct Service {
    manager: Arc<Manager>,
}

impl Service {
    /// Makes a call to the guest of a sandbox, which is resumed for it if need be, and runs until
    /// it is over.
    async fn in_guest<T, F>(
        &self,
        id: &str,
        call: impl FnOnce(Handle) -> F + Send,
    ) -> Result<T, ConnectError>
    where
        T: Send,
        F: Future<Output = Result<T, ConnectError>> + Send,
    {
        let (handle, _active) = self
            .manager
            .find_running(&sandbox_id(id)?)
            .await
            .map_err(refused)?;
        alive::while_up(&handle, call(handle.clone())).await
    }
}

fn sandbox_id(text: &str) -> Result<SandboxId, ConnectError> {
    text.parse().map_err(invalid)
}

fn report_of(host: &Host, handle: &Handle) -> rpc::SandboxReport {
    sandbox_report(&host.ledger, &handle.record.borrow(), handle)
}

#[expect(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl HostAgentService for Service {
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
            vmm: host.engine.vmm.to_owned(),
            accelerator: host.engine.accel.to_owned(),
            disk_backend: host.disks.chosen().backend.name().to_owned(),
            sandboxes: u32::try_from(self.manager.list().await.len()).unwrap_or(u32::MAX),
            ..rpc::GetHostResponse::default()
        })
    }

    async fn ensure_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::EnsureSandboxRequest>,
    ) -> ServiceResult<rpc::EnsureSandboxResponse> {
        let request = request.to_owned_message();
        let id = sandbox_id(&request.sandbox_id)?;
        let spec = rpc::spec::from_message(&request.spec.into_option().unwrap_or_default())
            .map_err(invalid)?;
        let handle = self.manager.ensure(&id, spec).await.map_err(refused)?;
        let sandbox = report_of(&self.manager.host, &handle).into();
        Response::ok(rpc::EnsureSandboxResponse {
            sandbox,
            ..rpc::EnsureSandboxResponse::default()
        })
    }

    async fn remove_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::RemoveSandboxRequest>,
    ) -> ServiceResult<rpc::RemoveSandboxResponse> {
        self.manager.remove(&sandbox_id(request.sandbox_id)?).await;
        Response::ok(rpc::RemoveSandboxResponse::default())
    }

    async fn list_sandboxes(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::ListSandboxesRequest>,
    ) -> ServiceResult<rpc::ListSandboxesResponse> {
        let sandboxes = self
            .manager
            .list()
            .await
            .iter()
            .map(|handle| report_of(&self.manager.host, handle))
            .collect();
        Response::ok(rpc::ListSandboxesResponse {
            sandboxes,
            ..rpc::ListSandboxesResponse::default()
        })
    }

    async fn pause_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::PauseSandboxRequest>,
    ) -> ServiceResult<rpc::PauseSandboxResponse> {
        let handle = self
            .manager
            .pause(&sandbox_id(request.sandbox_id)?)
            .await
            .map_err(refused)?;
        let sandbox = report_of(&self.manager.host, &handle).into();
        Response::ok(rpc::PauseSandboxResponse {
            sandbox,
            ..Default::default()
        })
    }

    async fn resume_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ResumeSandboxRequest>,
    ) -> ServiceResult<rpc::ResumeSandboxResponse> {
        let handle = self
            .manager
            .resume(&sandbox_id(request.sandbox_id)?)
            .await
            .map_err(refused)?;
        let sandbox = report_of(&self.manager.host, &handle).into();
        Response::ok(rpc::ResumeSandboxResponse {
            sandbox,
            ..Default::default()
        })
    }

    async fn update_network(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::UpdateNetworkRequest>,
    ) -> ServiceResult<rpc::UpdateNetworkResponse> {
        let request = request.to_owned_message();
        let rules = rpc::network::from_message(request.network.as_option()).map_err(invalid)?;
        let handle = self
            .manager
            .set_network(&sandbox_id(&request.sandbox_id)?, rules)
            .await
            .map_err(refused)?;
        let sandbox = report_of(&self.manager.host, &handle).into();
        Response::ok(rpc::UpdateNetworkResponse {
            sandbox,
            ..Default::default()
        })
    }

    async fn fork_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ForkSandboxRequest>,
    ) -> ServiceResult<rpc::ForkSandboxResponse> {
        Response::ok(instants::fork(&self.manager, request.to_owned_message()).await?)
    }

    async fn create_snapshot(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::CreateSnapshotRequest>,
    ) -> ServiceResult<rpc::CreateSnapshotResponse> {
        Response::ok(instants::create_snapshot(&self.manager, request.to_owned_message()).await?)
    }

    async fn remove_snapshot(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::RemoveSnapshotRequest>,
    ) -> ServiceResult<rpc::RemoveSnapshotResponse> {
        Response::ok(instants::remove_snapshot(&self.manager, request.to_owned_message()).await?)
    }

    async fn create_checkpoint(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::CreateCheckpointRequest>,
    ) -> ServiceResult<rpc::CreateCheckpointResponse> {
        Response::ok(instants::create_checkpoint(&self.manager, request.to_owned_message()).await?)
    }

    async fn list_checkpoints(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ListCheckpointsRequest>,
    ) -> ServiceResult<rpc::ListCheckpointsResponse> {
        Response::ok(instants::list_checkpoints(&self.manager, request.to_owned_message()).await?)
    }

    async fn remove_checkpoint(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::RemoveCheckpointRequest>,
    ) -> ServiceResult<rpc::RemoveCheckpointResponse> {
        Response::ok(instants::remove_checkpoint(&self.manager, request.to_owned_message()).await?)
    }

    async fn rollback_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::RollbackSandboxRequest>,
    ) -> ServiceResult<rpc::RollbackSandboxResponse> {
        Response::ok(instants::roll_back(&self.manager, request.to_owned_message()).await?)
    }

    async fn watch_sandboxes(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::WatchSandboxesRequest>,
    ) -> ServiceResult<ServiceStream<rpc::WatchSandboxesResponse>> {
        Response::stream_ok(watch::watch(Arc::clone(&self.manager)))
    }

    async fn list_templates(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::ListTemplatesRequest>,
    ) -> ServiceResult<rpc::ListTemplatesResponse> {
        // Walks directories, and is asked for in each round of reconciliation.
        let host = Arc::clone(&self.manager.host);
        let templates = run_blocking(move || instants::templates(&host))
            .await
            .map_err(refused)?;
        Response::ok(rpc::ListTemplatesResponse {
            templates,
            ..Default::default()
        })
    }

    async fn exec(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ExecRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ExecResponse>> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        Response::stream_ok(
            self.in_guest(&id, |handle| exec::exec(handle, request))
                .await?,
        )
    }

    async fn send_input(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::SendInputRequest>,
    ) -> ServiceResult<rpc::SendInputResponse> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        self.in_guest(&id, |handle| async move {
            exec::send_input(&handle, request).await
        })
        .await?;
        Response::ok(rpc::SendInputResponse::default())
    }

    async fn send_signal(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::SendSignalRequest>,
    ) -> ServiceResult<rpc::SendSignalResponse> {
        let pid = request.pid;
        let signal = request.signal;
        self.in_guest(request.sandbox_id, |handle| async move {
            exec::send_signal(&handle, pid, signal).await
        })
        .await?;
        Response::ok(rpc::SendSignalResponse::default())
    }

    async fn read_file(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ReadFileRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ReadFileResponse>> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        Response::stream_ok(
            self.in_guest(
                &id,
                |handle| async move { files::read(&handle, request).await },
            )
            .await?,
        )
    }

    async fn write_file(
        &self,
        _: RequestContext,
        requests: InboundStream<rpc::WriteFileRequest>,
    ) -> ServiceResult<rpc::WriteFileResponse> {
        let (target, content) = files::target(requests).await?;
        let id = target.sandbox_id.clone();
        let write = |handle: Handle| async move { files::write(&handle, target, content).await };
        let bytes_written = self.in_guest(&id, write).await?;
        Response::ok(rpc::WriteFileResponse {
            bytes_written,
            ..rpc::WriteFileResponse::default()
        })
    }

    async fn stat_path(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::StatPathRequest>,
    ) -> ServiceResult<rpc::StatPathResponse> {
        let request = request.to_owned_message();
        let stat = |handle: Handle| async move {
            files::stat(&handle, &request.path, request.user.as_deref()).await
        };
        let info = self.in_guest(&request.sandbox_id, stat).await?.into();
        Response::ok(rpc::StatPathResponse {
            info,
            ..rpc::StatPathResponse::default()
        })
    }

    async fn list_dir(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ListDirRequest>,
    ) -> ServiceResult<rpc::ListDirResponse> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        Response::ok(
            self.in_guest(&id, |handle| async move {
                files::list_dir(&handle, request).await
            })
            .await?,
        )
    }

    async fn make_dir(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::MakeDirRequest>,
    ) -> ServiceResult<rpc::MakeDirResponse> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        Response::ok(
            self.in_guest(&id, |handle| async move {
                files::make_dir(&handle, request).await
            })
            .await?,
        )
    }

    async fn remove_path(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::RemovePathRequest>,
    ) -> ServiceResult<rpc::RemovePathResponse> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        self.in_guest(&id, |handle| async move {
            files::remove(&handle, request).await
        })
        .await?;
        Response::ok(rpc::RemovePathResponse::default())
    }

    async fn read_logs(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ReadLogsRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ReadLogsResponse>> {
        let follow = request.follow;
        let handle = self
            .manager
            .find(&sandbox_id(request.sandbox_id)?)
            .await
            .map_err(refused)?;
        Response::stream_ok(logs::read(handle, follow))
    }
}
