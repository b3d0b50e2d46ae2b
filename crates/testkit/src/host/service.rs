//! The service of the contract, over [`World`](super::World).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response as HttpResponse};
use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult,
    ServiceStream,
};
use futures::StreamExt;
use host_rpc as rpc;
use host_rpc::__buffa::oneof::watch_sandboxes_response::Event;
use host_rpc::{HostAgentService, SandboxState};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::world::Sandbox;
use super::{Shared, TOKEN, cut, files, lifecycle, programs, saved, tunnel};

const HEARTBEAT: Duration = Duration::from_secs(1);

pub(super) fn router(shared: Arc<Shared>) -> axum::Router {
    let tunnels = tunnel::router(Arc::clone(&shared));
    let service = connectrpc::Router::new().add_service(Arc::new(Service {
        shared: Arc::clone(&shared),
    }));
    tunnels
        .fallback_service(service.into_axum_service())
        .layer(from_fn_with_state(Arc::clone(&shared), cut::cut))
        .layer(from_fn_with_state(shared, note_request))
        .layer(from_fn(check_token))
        .layer(from_fn(rpc::linger::linger))
}

/// Keeps the header fields by which requests are traced.
async fn note_request(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> HttpResponse {
    if let Some(id) = header_text(request.headers(), "x-request-id") {
        let trace = header_text(request.headers(), "traceparent").unwrap_or_default();
        shared.world().traces.insert(id, trace);
    }
    next.run(request).await
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

async fn check_token(request: Request, next: Next) -> HttpResponse {
    let right = format!("Bearer {TOKEN}");
    if request
        .headers()
        .get("authorization")
        .is_some_and(|sent| sent.as_bytes() == right.as_bytes())
    {
        return next.run(request).await;
    }
    let body = r#"{"code":"unauthenticated","message":"the host agent's token is missing or wrong; set AGENT_TOKEN"}"#;
    (
        StatusCode::UNAUTHORIZED,
        [("content-type", "application/json")],
        body,
    )
        .into_response()
}

struct Service {
    shared: Arc<Shared>,
}

impl Service {
    fn find<T>(&self, id: &str, look: impl FnOnce(&mut Sandbox) -> T) -> Result<T, ConnectError> {
        self.shared.world().sandbox(id).map(look)
    }
}

macro_rules! answer {
    ($message:ident { $($field:ident: $value:expr),* }) => {
        Response::ok(rpc::$message { $($field: $value,)* ..Default::default() })
    };
}

/// A call with one answer, after the script has had its word.
macro_rules! unary {
    ($name:ident($self:ident, $request:ident: $message:ident) -> $response:ident, $call:literal, $answer:block) => {
        async fn $name(
            &$self,
            _: RequestContext,
            $request: ServiceRequest<'_, rpc::$message>,
        ) -> ServiceResult<rpc::$response> {
            let $request = $request.to_owned_message();
            $self.shared.script.meet($call).await?;
            Response::ok($answer)
        }
    };
}

#[allow(
    refining_impl_trait,
    reason = "the answers are what they are; nobody else sees this type"
)]
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
        lifecycle::begin(
            &self.shared,
            &id,
            request.spec.into_option().unwrap_or_default(),
        )?;
        loop {
            let sandbox = self.find(&id, |sandbox| sandbox.report())?;
            if sandbox.state != SandboxState::SANDBOX_STATE_PENDING {
                return answer!(EnsureSandboxResponse {
                    sandbox: sandbox.into()
                });
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
        let sandboxes = self
            .shared
            .world()
            .sandboxes
            .values()
            .map(Sandbox::report)
            .collect();
        answer!(ListSandboxesResponse {
            sandboxes: sandboxes
        })
    }

    unary!(pause_sandbox(self, request: PauseSandboxRequest) -> PauseSandboxResponse, "PauseSandbox", {
        let sandbox = lifecycle::pause(&self.shared, &request.sandbox_id).await?.into();
        rpc::PauseSandboxResponse { sandbox, ..Default::default() }
    });

    unary!(update_network(self, request: UpdateNetworkRequest) -> UpdateNetworkResponse, "UpdateNetwork", {
        let sandbox = lifecycle::set_network(&self.shared, &request.sandbox_id, request.network.into_option())?.into();
        rpc::UpdateNetworkResponse { sandbox, ..Default::default() }
    });

    unary!(resume_sandbox(self, request: ResumeSandboxRequest) -> ResumeSandboxResponse, "ResumeSandbox", {
        let sandbox = lifecycle::resume(&self.shared, &request.sandbox_id).await?.into();
        rpc::ResumeSandboxResponse { sandbox, ..Default::default() }
    });

    unary!(fork_sandbox(self, request: ForkSandboxRequest) -> ForkSandboxResponse, "ForkSandbox", {
        let children = lifecycle::fork(&self.shared, request).await?;
        rpc::ForkSandboxResponse { children, ..Default::default() }
    });

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
        let templates = saved::templates(&self.shared.world());
        answer!(ListTemplatesResponse {
            templates: templates
        })
    }

    async fn exec(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ExecRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ExecResponse>> {
        let request = request.to_owned_message();
        self.shared.script.meet("Exec").await?;
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
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
        let signal = request.signal;
        self.shared.script.meet("SendSignal").await?;
        programs::send_signal(&self.shared, pid, signal)?;
        answer!(SendSignalResponse {})
    }

    async fn read_file(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ReadFileRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ReadFileResponse>> {
        let request = request.to_owned_message();
        self.shared.script.meet("ReadFile").await?;
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        Response::stream_ok(files::read(Arc::clone(&self.shared), &request)?)
    }

    async fn write_file(
        &self,
        _: RequestContext,
        mut requests: InboundStream<rpc::WriteFileRequest>,
    ) -> ServiceResult<rpc::WriteFileResponse> {
        let target = files::target(&mut requests).await?;
        self.shared.script.meet("WriteFile").await?;
        lifecycle::usable(&self.shared, &target.sandbox_id)?;
        let bytes_written = files::write(&self.shared, target, requests).await?;
        answer!(WriteFileResponse {
            bytes_written: bytes_written
        })
    }

    unary!(stat_path(self, request: StatPathRequest) -> StatPathResponse, "StatPath", {
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        let info = self.find(&request.sandbox_id, |sandbox| files::stat(sandbox, &request.path))??.into();
        rpc::StatPathResponse { info, ..Default::default() }
    });

    unary!(list_dir(self, request: ListDirRequest) -> ListDirResponse, "ListDir", {
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        let entries = self.find(&request.sandbox_id, |sandbox| files::list(sandbox, &request.path))??;
        rpc::ListDirResponse { entries, ..Default::default() }
    });

    unary!(make_dir(self, request: MakeDirRequest) -> MakeDirResponse, "MakeDir", {
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        let info = self.find(&request.sandbox_id, |sandbox| files::make_dir(sandbox, &request.path))??.into();
        rpc::MakeDirResponse { info, ..Default::default() }
    });

    unary!(remove_path(self, request: RemovePathRequest) -> RemovePathResponse, "RemovePath", {
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        self.find(&request.sandbox_id, |sandbox| files::remove(sandbox, &request.path))??;
        rpc::RemovePathResponse::default()
    });

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
            let entry = entry
                .ok()
                .filter(|(of, _)| *of == id)
                .map(|(_, entry)| Ok(entry));
            async move { entry }
        });
        Response::stream_ok(logs.chain(more).boxed())
    }
}

async fn watch(
    shared: Arc<Shared>,
    sender: mpsc::Sender<Result<rpc::WatchSandboxesResponse, ConnectError>>,
) -> Option<()> {
    let event = |event| {
        Ok(rpc::WatchSandboxesResponse {
            event: Some(event),
            ..Default::default()
        })
    };
    let mut reports = shared.reports.subscribe();
    let known: Vec<rpc::SandboxReport> = shared
        .world()
        .sandboxes
        .values()
        .map(Sandbox::report)
        .collect();
    for report in known {
        sender.send(event(Event::from(report))).await.ok()?;
    }
    sender
        .send(event(Event::from(
            rpc::watch_sandboxes_response::Synced::default(),
        )))
        .await
        .ok()?;
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
