//! Programs in sandboxes.

use std::sync::Arc;

use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use host_rpc as rpc;
use host_rpc::CommandService;

use super::super::{lifecycle, programs};
use super::{Agent, answer};

#[allow(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl CommandService for Agent {
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
}
