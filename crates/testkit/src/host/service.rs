//! The service of the contract, over [`World`](super::World).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response as HttpResponse};
use connectrpc::{ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::StreamExt;
use host_rpc as rpc;
use host_rpc::__buffa::oneof::watch_sandboxes_response::Event;
use host_rpc::{HostAgentService, SandboxState};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::world::Sandbox;
use super::{Shared, TOKEN, files, programs};

const HEARTBEAT: Duration = Duration::from_secs(1);

pub(super) fn router(shared: Arc<Shared>) -> axum::Router {
    let service = connectrpc::Router::new().add_service(Arc::new(Service { shared }));
    axum::Router::new()
        .fallback_service(service.into_axum_service())
        .layer(from_fn(check_token))
        .layer(from_fn(rpc::linger::linger))
}

async fn check_token(request: Request, next: Next) -> HttpResponse {
    let right = format!("Bearer {TOKEN}");
    if request.headers().get("authorization").is_some_and(|sent| sent.as_bytes() == right.as_bytes()) {
        return next.run(request).await;
    }
    let body = r#"{"code":"unauthenticated","message":"the host agent's token is missing or wrong; set AGENT_TOKEN"}"#;
    (StatusCode::UNAUTHORIZED, [("content-type", "application/json")], body).into_response()
}

struct Service {
    shared: Arc<Shared>,
}

impl Service {
    fn find<T>(&self, id: &str, look: impl FnOnce(&mut Sandbox) -> T) -> Result<T, ConnectError> {
        let mut world = self.shared.world();
        let sandbox = world.sandboxes.get_mut(id);
        let unknown = || ConnectError::not_found(format!("there is no sandbox {id} on this host"));
        sandbox.map(look).ok_or_else(unknown)
    }

    fn running(&self, id: &str) -> Result<(), ConnectError> {
        match self.find(id, |sandbox| (sandbox.state, sandbox.reason.clone()))? {
            (SandboxState::SANDBOX_STATE_RUNNING, _) => Ok(()),
            (state, reason) => {
                Err(ConnectError::failed_precondition(format!("the sandbox is {}: {reason}", word(state))))
            }
        }
    }

    /// Boots it beside the caller, who may go away.
    fn begin(&self, id: &str, spec: rpc::SandboxSpec) -> Result<(), ConnectError> {
        {
            let mut world = self.shared.world();
            if world.sandboxes.contains_key(id) {
                return Ok(());
            }
            if world.is_full {
                return Err(ConnectError::unavailable("this host is full"));
            }
            if !world.templates.contains(&spec.template) {
                return Err(ConnectError::not_found(format!("there is no template {}", spec.template)));
            }
            world.add(id, SandboxState::SANDBOX_STATE_PENDING, spec);
        }
        self.shared.change(id, |_| {});
        let (shared, id) = (Arc::clone(&self.shared), id.to_owned());
        tokio::spawn(async move {
            let booted = shared.script.meet("Boot").await;
            shared.change(&id, |sandbox| match booted {
                Ok(()) => sandbox.state = SandboxState::SANDBOX_STATE_RUNNING,
                Err(error) => {
                    sandbox.state = SandboxState::SANDBOX_STATE_ERROR;
                    sandbox.reason = error.message.unwrap_or_default();
                }
            });
        });
        Ok(())
    }
}

/// As users know it.
fn word(state: SandboxState) -> &'static str {
    match state {
        SandboxState::SANDBOX_STATE_PENDING => "pending",
        SandboxState::SANDBOX_STATE_PAUSED => "paused",
        SandboxState::SANDBOX_STATE_STOPPED => "stopped",
        _ => "error",
    }
}

macro_rules! answer {
    ($message:ident { $($field:ident: $value:expr),* }) => {
        Response::ok(rpc::$message { $($field: $value,)* ..Default::default() })
    };
}

#[allow(refining_impl_trait, reason = "the answers are what they are; nobody else sees this type")]
impl HostAgentService for Service {
    async fn get_host(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::GetHostRequest>,
    ) -> ServiceResult<rpc::GetHostResponse> {
        self.shared.script.meet("GetHost").await?;
        let world = self.shared.world();
        let sandboxes = u32::try_from(world.sandboxes.len()).unwrap_or(u32::MAX);
        answer!(GetHostResponse {
            host_id: world.host_id.clone(),
            agent_version: "0.0.0-fake".to_owned(),
            cpu_count: 2,
            memory_bytes: 1 << 34,
            sandboxes: sandboxes
        })
    }

    async fn ensure_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::EnsureSandboxRequest>,
    ) -> ServiceResult<rpc::EnsureSandboxResponse> {
        let request = request.to_owned_message();
        self.shared.script.meet("EnsureSandbox").await?;
        let id = request.sandbox_id;
        let mut reports = self.shared.reports.subscribe();
        self.begin(&id, request.spec.into_option().unwrap_or_default())?;
        loop {
            let sandbox = self.find(&id, |sandbox| sandbox.report())?;
            if sandbox.state != SandboxState::SANDBOX_STATE_PENDING {
                return answer!(EnsureSandboxResponse { sandbox: sandbox.into() });
            }
            // An error means that it lags, and the next look shows the same.
            let _ = reports.recv().await;
        }
    }

    async fn remove_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::RemoveSandboxRequest>,
    ) -> ServiceResult<rpc::RemoveSandboxResponse> {
        let id = request.sandbox_id.to_owned();
        self.shared.script.meet("RemoveSandbox").await?;
        self.shared.remove(&id);
        answer!(RemoveSandboxResponse {})
    }

    async fn list_sandboxes(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::ListSandboxesRequest>,
    ) -> ServiceResult<rpc::ListSandboxesResponse> {
        self.shared.script.meet("ListSandboxes").await?;
        let sandboxes = self.shared.world().sandboxes.values().map(Sandbox::report).collect();
        answer!(ListSandboxesResponse { sandboxes: sandboxes })
    }

    async fn pause_sandbox(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::PauseSandboxRequest>,
    ) -> ServiceResult<rpc::PauseSandboxResponse> {
        Err(ConnectError::unimplemented("pause_sandbox"))
    }

    async fn resume_sandbox(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::ResumeSandboxRequest>,
    ) -> ServiceResult<rpc::ResumeSandboxResponse> {
        Err(ConnectError::unimplemented("resume_sandbox"))
    }

    async fn fork_sandbox(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::ForkSandboxRequest>,
    ) -> ServiceResult<rpc::ForkSandboxResponse> {
        Err(ConnectError::unimplemented("fork_sandbox"))
    }

    async fn create_snapshot(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::CreateSnapshotRequest>,
    ) -> ServiceResult<rpc::CreateSnapshotResponse> {
        Err(ConnectError::unimplemented("create_snapshot"))
    }

    async fn remove_snapshot(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::RemoveSnapshotRequest>,
    ) -> ServiceResult<rpc::RemoveSnapshotResponse> {
        Err(ConnectError::unimplemented("remove_snapshot"))
    }

    async fn create_checkpoint(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::CreateCheckpointRequest>,
    ) -> ServiceResult<rpc::CreateCheckpointResponse> {
        Err(ConnectError::unimplemented("create_checkpoint"))
    }

    async fn list_checkpoints(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::ListCheckpointsRequest>,
    ) -> ServiceResult<rpc::ListCheckpointsResponse> {
        Err(ConnectError::unimplemented("list_checkpoints"))
    }

    async fn remove_checkpoint(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::RemoveCheckpointRequest>,
    ) -> ServiceResult<rpc::RemoveCheckpointResponse> {
        Err(ConnectError::unimplemented("remove_checkpoint"))
    }

    async fn rollback_sandbox(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::RollbackSandboxRequest>,
    ) -> ServiceResult<rpc::RollbackSandboxResponse> {
        Err(ConnectError::unimplemented("rollback_sandbox"))
    }

    async fn watch_sandboxes(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::WatchSandboxesRequest>,
    ) -> ServiceResult<ServiceStream<rpc::WatchSandboxesResponse>> {
        self.shared.script.meet("WatchSandboxes").await?;
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(watch(Arc::clone(&self.shared), sender));
        Response::stream_ok(ReceiverStream::new(receiver).boxed())
    }

    async fn list_templates(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::ListTemplatesRequest>,
    ) -> ServiceResult<rpc::ListTemplatesResponse> {
        self.shared.script.meet("ListTemplates").await?;
        let template = |name: &String| rpc::Template {
            name: name.clone(),
            size_bytes: 1 << 30,
            created_at_ms: 1_767_225_600_000,
            ..Default::default()
        };
        let templates = self.shared.world().templates.iter().map(template).collect();
        answer!(ListTemplatesResponse { templates: templates })
    }

    async fn exec(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ExecRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ExecResponse>> {
        let request = request.to_owned_message();
        self.shared.script.meet("Exec").await?;
        self.running(&request.sandbox_id)?;
        Response::stream_ok(programs::start(Arc::clone(&self.shared), request)?)
    }

    async fn send_input(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::SendInputRequest>,
    ) -> ServiceResult<rpc::SendInputResponse> {
        let request = request.to_owned_message();
        self.shared.script.meet("SendInput").await?;
        programs::send_input(&self.shared, request).await?;
        answer!(SendInputResponse {})
    }

    async fn send_signal(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::SendSignalRequest>,
    ) -> ServiceResult<rpc::SendSignalResponse> {
        let pid = request.pid;
        self.shared.script.meet("SendSignal").await?;
        programs::send_signal(&self.shared, pid)?;
        answer!(SendSignalResponse {})
    }

    async fn read_file(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ReadFileRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ReadFileResponse>> {
        let request = request.to_owned_message();
        self.shared.script.meet("ReadFile").await?;
        self.running(&request.sandbox_id)?;
        Response::stream_ok(files::read(Arc::clone(&self.shared), &request)?)
    }

    async fn write_file(
        &self,
        _: RequestContext,
        mut requests: InboundStream<rpc::WriteFileRequest>,
    ) -> ServiceResult<rpc::WriteFileResponse> {
        let target = files::target(&mut requests).await?;
        self.shared.script.meet("WriteFile").await?;
        self.running(&target.sandbox_id)?;
        let bytes_written = files::write(&self.shared, target, requests).await?;
        answer!(WriteFileResponse { bytes_written: bytes_written })
    }

    async fn stat_path(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::StatPathRequest>,
    ) -> ServiceResult<rpc::StatPathResponse> {
        let request = request.to_owned_message();
        self.shared.script.meet("StatPath").await?;
        self.running(&request.sandbox_id)?;
        let info = self.find(&request.sandbox_id, |sandbox| files::stat(sandbox, &request.path))??;
        answer!(StatPathResponse { info: info.into() })
    }

    async fn list_dir(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ListDirRequest>,
    ) -> ServiceResult<rpc::ListDirResponse> {
        let request = request.to_owned_message();
        self.shared.script.meet("ListDir").await?;
        self.running(&request.sandbox_id)?;
        let entries = self.find(&request.sandbox_id, |sandbox| files::list(sandbox, &request.path))??;
        answer!(ListDirResponse { entries: entries })
    }

    async fn make_dir(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::MakeDirRequest>,
    ) -> ServiceResult<rpc::MakeDirResponse> {
        let request = request.to_owned_message();
        self.shared.script.meet("MakeDir").await?;
        self.running(&request.sandbox_id)?;
        let info = self.find(&request.sandbox_id, |sandbox| files::make_dir(sandbox, &request.path))??;
        answer!(MakeDirResponse { info: info.into() })
    }

    async fn remove_path(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::RemovePathRequest>,
    ) -> ServiceResult<rpc::RemovePathResponse> {
        let request = request.to_owned_message();
        self.shared.script.meet("RemovePath").await?;
        self.running(&request.sandbox_id)?;
        self.find(&request.sandbox_id, |sandbox| files::remove(sandbox, &request.path))??;
        answer!(RemovePathResponse {})
    }

    async fn read_logs(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ReadLogsRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ReadLogsResponse>> {
        let request = request.to_owned_message();
        self.shared.script.meet("ReadLogs").await?;
        let more = tokio_stream::wrappers::BroadcastStream::new(self.shared.logs.subscribe());
        let logs = self.find(&request.sandbox_id, |sandbox| sandbox.logs.clone())?;
        let logs = futures::stream::iter(logs).map(Ok);
        if !request.follow {
            return Response::stream_ok(logs.boxed());
        }
        let id = request.sandbox_id;
        let more = more.filter_map(move |entry| {
            let entry = entry.ok().filter(|(of, _)| *of == id).map(|(_, entry)| Ok(entry));
            async move { entry }
        });
        Response::stream_ok(logs.chain(more).boxed())
    }
}

async fn watch(
    shared: Arc<Shared>,
    sender: mpsc::Sender<Result<rpc::WatchSandboxesResponse, ConnectError>>,
) -> Option<()> {
    let event = |event| Ok(rpc::WatchSandboxesResponse { event: Some(event), ..Default::default() });
    let mut reports = shared.reports.subscribe();
    let known: Vec<rpc::SandboxReport> = shared.world().sandboxes.values().map(Sandbox::report).collect();
    for report in known {
        sender.send(event(Event::from(report))).await.ok()?;
    }
    sender.send(event(Event::from(rpc::watch_sandboxes_response::Synced::default()))).await.ok()?;
    loop {
        let next = tokio::select! {
            report = reports.recv() => Event::from(report.ok()?),
            () = tokio::time::sleep(HEARTBEAT) => {
                Event::from(rpc::watch_sandboxes_response::Heartbeat::default())
            }
            () = sender.closed() => return None,
        };
        sender.send(event(next)).await.ok()?;
    }
}
