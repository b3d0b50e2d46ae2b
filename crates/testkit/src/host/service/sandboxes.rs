//! Sandboxes as a whole, and the watch on them.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::{
    ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use futures::StreamExt;
use host_rpc as rpc;
use host_rpc::__buffa::oneof::watch_sandboxes_response::Event;
use host_rpc::{SandboxService, SandboxState};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::super::world::{Sandbox, access_token};
use super::super::{Shared, background, lifecycle};
use super::{Agent, answer, unary};

const HEARTBEAT: Duration = Duration::from_secs(1);

#[allow(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl SandboxService for Agent {
    async fn ensure_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::EnsureSandboxRequest>,
    ) -> ServiceResult<rpc::EnsureSandboxResponse> {
        let request = request.to_owned_message();
        self.shared.script.meet_barrier("EnsureSandbox").await?;
        let id = request.sandbox_id;
        let mut reports = self.shared.reports.subscribe();
        lifecycle::begin(
            &self.shared,
            &id,
            request.spec.into_option().unwrap_or_default(),
        )?;
        loop {
            let (sandbox, refused) =
                self.find(&id, |sandbox| (sandbox.report(), sandbox.is_refused))?;
            if sandbox.state != SandboxState::SANDBOX_STATE_PENDING {
                return answer!(EnsureSandboxResponse {
                    sandbox: sandbox.into(),
                    refused: refused
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
        self.shared.script.meet_barrier("RemoveSandbox").await?;
        self.shared.remove(&id);
        answer!(RemoveSandboxResponse {})
    }

    unary!(pause_sandbox(self, request: PauseSandboxRequest) -> PauseSandboxResponse, "PauseSandbox", {
        let sandbox = lifecycle::pause(&self.shared, &request.sandbox_id).await?.into();
        rpc::PauseSandboxResponse { sandbox, ..Default::default() }
    });

    unary!(resume_sandbox(self, request: ResumeSandboxRequest) -> ResumeSandboxResponse, "ResumeSandbox", {
        let sandbox = lifecycle::resume(&self.shared, &request.sandbox_id).await?.into();
        rpc::ResumeSandboxResponse { sandbox, ..Default::default() }
    });

    unary!(stop_sandbox(self, request: StopSandboxRequest) -> StopSandboxResponse, "StopSandbox", {
        let sandbox = lifecycle::stop(&self.shared, &request)?.into();
        rpc::StopSandboxResponse { sandbox, ..Default::default() }
    });

    unary!(update_sandbox(self, request: UpdateSandboxRequest) -> UpdateSandboxResponse, "UpdateSandbox", {
        let sandbox = lifecycle::update(&self.shared, &request)?.into();
        rpc::UpdateSandboxResponse { sandbox, ..Default::default() }
    });

    unary!(ping_sandbox(self, request: PingSandboxRequest) -> PingSandboxResponse, "PingSandbox", {
        lifecycle::ping(&self.shared, &request)?;
        rpc::PingSandboxResponse::default()
    });

    unary!(get_access_token(self, request: GetAccessTokenRequest) -> GetAccessTokenResponse, "GetAccessToken", {
        let id = &request.sandbox_id;
        if !self.shared.world().sandboxes.contains_key(id) {
            return Err(ConnectError::not_found(format!("there is no sandbox {id}")));
        }
        rpc::GetAccessTokenResponse { access_token: access_token(id), ..Default::default() }
    });

    unary!(fork_sandbox(self, request: ForkSandboxRequest) -> ForkSandboxResponse, "ForkSandbox", {
        let mut response = rpc::ForkSandboxResponse::default();
        for mut report in lifecycle::fork(&self.shared, request).await? {
            response.spec = std::mem::take(&mut report.spec);
            response.children.push(report);
        }
        response
    });

    async fn list_sandboxes(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ListSandboxesRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ListSandboxesResponse>> {
        let whole_specs = request.whole_specs;
        self.shared.script.meet_barrier("ListSandboxes").await?;
        let report = |sandbox: &Sandbox| {
            let mut report = sandbox.report();
            if whole_specs {
                report.spec = sandbox.spec.clone().into();
            }
            report
        };
        let reports: Vec<_> = self.shared.world().sandboxes.values().map(report).collect();
        Response::stream_ok(rpc::batch::stream_items(reports.into_iter(), |sandboxes| {
            rpc::ListSandboxesResponse {
                sandboxes,
                ..Default::default()
            }
        }))
    }

    async fn watch_sandboxes(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::WatchSandboxesRequest>,
    ) -> ServiceResult<ServiceStream<rpc::WatchSandboxesResponse>> {
        self.shared.script.meet_barrier("WatchSandboxes").await?;
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(watch(Arc::clone(&self.shared), sender));
        Response::stream_ok(ReceiverStream::new(receiver).boxed())
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
    let mut ends = shared.command_ends.subscribe();
    let known: Vec<rpc::SandboxReport> = shared
        .world()
        .sandboxes
        .values()
        .map(Sandbox::report)
        .collect();
    for report in known {
        sender.send(event(Event::from(report))).await.ok()?;
    }
    for ended in background::ended(&shared) {
        sender.send(event(Event::from(ended))).await.ok()?;
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
            ended = ends.recv() => Event::from(ended.ok()?),
            () = tokio::time::sleep(HEARTBEAT) => {
                Event::from(rpc::watch_sandboxes_response::Heartbeat::default())
            }
            () = sender.closed() => return None,
        };
        sender.send(event(next)).await.ok()?;
    }
}
