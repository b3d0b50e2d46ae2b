//! Programs in sandboxes.

use std::sync::Arc;

use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use host_rpc as rpc;
use host_rpc::CommandService;

use super::super::{background, lifecycle, programs};
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
        self.shared.script.meet_barrier("Exec").await?;
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        Response::stream_ok(programs::start(Arc::clone(&self.shared), request)?)
    }

    async fn send_input(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::SendInputRequest>,
    ) -> ServiceResult<rpc::SendInputResponse> {
        let request = request.to_owned_message();
        self.shared.script.meet_barrier("SendInput").await?;
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
        self.shared.script.meet_barrier("SendSignal").await?;
        programs::send_signal(&self.shared, pid, signal)?;
        answer!(SendSignalResponse {})
    }

    async fn start_command(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::StartCommandRequest>,
    ) -> ServiceResult<rpc::StartCommandResponse> {
        let request = request.to_owned_message();
        self.shared.script.meet_barrier("StartCommand").await?;
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        Response::ok(background::start(&self.shared, request).await?)
    }

    async fn list_commands(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ListCommandsRequest>,
    ) -> ServiceResult<rpc::ListCommandsResponse> {
        let request = request.to_owned_message();
        self.shared.script.meet_barrier("ListCommands").await?;
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        answer!(ListCommandsResponse {
            commands: background::list(&self.shared, &request.sandbox_id)
        })
    }

    async fn get_command(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::GetCommandRequest>,
    ) -> ServiceResult<rpc::GetCommandResponse> {
        let request = request.to_owned_message();
        self.shared.script.meet_barrier("GetCommand").await?;
        let found = background::find(&self.shared, &request.sandbox_id, &request.command)?;
        answer!(GetCommandResponse {
            command: found.into()
        })
    }

    async fn send_command_input(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::SendCommandInputRequest>,
    ) -> ServiceResult<rpc::SendCommandInputResponse> {
        let request = request.to_owned_message();
        self.shared.script.meet_barrier("SendCommandInput").await?;
        let found = background::find(&self.shared, &request.sandbox_id, &request.command)?;
        let input = rpc::SendInputRequest {
            sandbox_id: request.sandbox_id,
            pid: found.pid,
            data: request.data,
            close: request.close,
            resize: request.resize,
            ..Default::default()
        };
        programs::send_input(&self.shared, input).await?;
        answer!(SendCommandInputResponse {})
    }

    async fn signal_command(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::SignalCommandRequest>,
    ) -> ServiceResult<rpc::SignalCommandResponse> {
        let request = request.to_owned_message();
        self.shared.script.meet_barrier("SignalCommand").await?;
        let found = background::find(&self.shared, &request.sandbox_id, &request.command)?;
        programs::send_signal(&self.shared, found.pid, request.signal)?;
        answer!(SignalCommandResponse {})
    }

    async fn attach_command(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::AttachCommandRequest>,
    ) -> ServiceResult<ServiceStream<rpc::AttachCommandResponse>> {
        let request = request.to_owned_message();
        self.shared.script.meet_barrier("AttachCommand").await?;
        Response::stream_ok(background::attach(&self.shared, &request)?)
    }
}
