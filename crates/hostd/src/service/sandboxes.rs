//! Sandboxes as a whole: their life, and reports of it. Long operations go on when the caller goes
//! away, and undo themselves if they fail.

use std::sync::Arc;

use connectrpc::{
    ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use host_rpc as rpc;
use host_rpc::SandboxService;
use model::SandboxId;

use crate::sandbox::state::End;

use super::error::{from_sandbox_error, invalid_argument};
use super::{Agent, report_of, run_detached, sandbox_id, watch};

/// Maximum number of children of one fork: as many as a host starts in a reasonable time.
const MAX_CHILDREN: usize = 100;

#[expect(
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
        let id = sandbox_id(&request.sandbox_id)?;
        let spec = rpc::spec::from_message(&request.spec.into_option().unwrap_or_default())
            .map_err(invalid_argument)?;
        let handle = self
            .manager
            .ensure_sandbox(&id, spec)
            .await
            .map_err(from_sandbox_error)?;
        let refused = handle.record.borrow().phase.is_refused();
        let sandbox = report_of(&self.manager.host, &handle).into();
        Response::ok(rpc::EnsureSandboxResponse {
            sandbox,
            refused,
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

    async fn pause_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::PauseSandboxRequest>,
    ) -> ServiceResult<rpc::PauseSandboxResponse> {
        let handle = self
            .manager
            .pause_sandbox(&sandbox_id(request.sandbox_id)?)
            .await
            .map_err(from_sandbox_error)?;
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
            .resume_sandbox(&sandbox_id(request.sandbox_id)?)
            .await
            .map_err(from_sandbox_error)?;
        let sandbox = report_of(&self.manager.host, &handle).into();
        Response::ok(rpc::ResumeSandboxResponse {
            sandbox,
            ..Default::default()
        })
    }

    async fn stop_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::StopSandboxRequest>,
    ) -> ServiceResult<rpc::StopSandboxResponse> {
        let request = request.to_owned_message();
        let end = End {
            failed: false,
            cause: rpc::stop_reason::from_message(request.stop_reason.as_known()),
            reason: request.reason,
            refused: false,
        };
        let id = sandbox_id(&request.sandbox_id)?;
        let stopped = self.manager.stop_sandbox(&id, end).await;
        let handle = stopped.map_err(from_sandbox_error)?;
        Response::ok(rpc::StopSandboxResponse {
            sandbox: report_of(&self.manager.host, &handle).into(),
            ..Default::default()
        })
    }

    async fn update_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::UpdateSandboxRequest>,
    ) -> ServiceResult<rpc::UpdateSandboxResponse> {
        let request = request.to_owned_message();
        let id = sandbox_id(&request.sandbox_id)?;
        let idle = request.idle.into_option().unwrap_or_default();
        let idle = rpc::spec::idle_from_message(&idle);
        let updated = self.manager.update_sandbox(&id, idle).await;
        let handle = updated.map_err(from_sandbox_error)?;
        Response::ok(rpc::UpdateSandboxResponse {
            sandbox: report_of(&self.manager.host, &handle).into(),
            ..Default::default()
        })
    }

    async fn ping_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::PingSandboxRequest>,
    ) -> ServiceResult<rpc::PingSandboxResponse> {
        let id = sandbox_id(request.sandbox_id)?;
        let pinged = self.manager.ping_sandbox(&id, request.ask_guest).await;
        pinged.map_err(from_sandbox_error)?;
        Response::ok(rpc::PingSandboxResponse::default())
    }

    async fn get_access_token(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::GetAccessTokenRequest>,
    ) -> ServiceResult<rpc::GetAccessTokenResponse> {
        let id = sandbox_id(request.sandbox_id)?;
        let found = self.manager.find_sandbox(&id).await;
        let handle = found.map_err(from_sandbox_error)?;
        let access_token = handle.record.borrow().token.clone();
        Response::ok(rpc::GetAccessTokenResponse {
            access_token,
            ..Default::default()
        })
    }

    async fn fork_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ForkSandboxRequest>,
    ) -> ServiceResult<rpc::ForkSandboxResponse> {
        let request = request.to_owned_message();
        let id = sandbox_id(&request.sandbox_id)?;
        let children = child_ids(&request.child_ids)?;
        let manager = Arc::clone(&self.manager);
        let made = run_detached(async move { manager.fork_sandbox(&id, &children).await }).await?;
        let children = made
            .iter()
            .map(|handle| report_of(&self.manager.host, handle));
        Response::ok(fork_response(children))
    }

    async fn list_sandboxes(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ListSandboxesRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ListSandboxesResponse>> {
        let whole_specs = request.whole_specs;
        let host = Arc::clone(&self.manager.host);
        let handles = self.manager.list_sandboxes().await.into_iter();
        let reports = handles.map(move |handle| {
            let mut report = report_of(&host, &handle);
            if whole_specs {
                report.spec = rpc::spec::to_message(&handle.record.borrow().spec).into();
            }
            report
        });
        Response::stream_ok(rpc::batch::stream_items(reports, |sandboxes| {
            rpc::ListSandboxesResponse {
                sandboxes,
                ..rpc::ListSandboxesResponse::default()
            }
        }))
    }

    async fn watch_sandboxes(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::WatchSandboxesRequest>,
    ) -> ServiceResult<ServiceStream<rpc::WatchSandboxesResponse>> {
        Response::stream_ok(watch::watch_sandboxes(Arc::clone(&self.manager)))
    }
}

/// Returns the answer to a fork. The children's spec, which is the same for all, is in it once.
fn fork_response(
    children: impl IntoIterator<Item = rpc::SandboxReport>,
) -> rpc::ForkSandboxResponse {
    let mut response = rpc::ForkSandboxResponse::default();
    for mut report in children {
        response.spec = std::mem::take(&mut report.spec);
        response.children.push(report);
    }
    response
}

fn child_ids(ids: &[String]) -> Result<Vec<SandboxId>, ConnectError> {
    if ids.is_empty() || ids.len() > MAX_CHILDREN {
        let problem = format!(
            "child_ids must be 1 to {MAX_CHILDREN} ids, not {}",
            ids.len()
        );
        return Err(ConnectError::invalid_argument(problem));
    }
    ids.iter().map(|id| sandbox_id(id)).collect()
}
