//! The Connect service `command.CommandService`.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::{
    ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use futures::StreamExt;
use guest_rpc::command as rpc;
use guest_rpc::command::CommandService;
use guest_rpc::process::__buffa::oneof::process_input::Input as Bytes;
use guest_rpc::process::{ProcessInput, StartRequest};
use tokio::time::Instant;

use super::reader::Reader;
use super::table::{Command, Commands};
use crate::Agent;
use crate::auth::Caller;
use crate::keepalive;
use crate::process::request;
use crate::process::service::parse_plan;
use crate::settings::Settings;

/// Ctrl-D, the end of input on a terminal.
const CTRL_D: u8 = 4;

/// Creates the service's router, to be merged with the others.
pub fn service(agent: &Agent) -> connectrpc::Router {
    let service = Service {
        settings: agent.settings.clone(),
        commands: agent.commands.clone(),
    };
    connectrpc::Router::new().add_service(Arc::new(service))
}

struct Service {
    settings: Arc<Settings>,
    commands: Arc<Commands>,
}

// The trait allows any encodable answer; these are the messages themselves.
#[allow(refining_impl_trait)]
impl CommandService for Service {
    async fn start(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, rpc::StartRequest>,
    ) -> ServiceResult<rpc::StartResponse> {
        let request = request.to_owned_message();
        let user = Caller::of(context.extensions()).rpc_user(&self.settings)?;
        let timeout = Duration::from_millis(request.timeout_ms);
        let start = StartRequest {
            process: request.process,
            pty: request.pty,
            tag: request.name,
            stdin: Some(request.stdin),
            ..Default::default()
        };
        let deadline = match timeout {
            Duration::ZERO => None,
            timeout => Instant::now().checked_add(timeout),
        };
        let plan = parse_plan(&self.settings, user, start, deadline).await?;
        let starting = Arc::clone(&self.commands).start(plan, request.keep_alive);
        // In a task of its own: a client that hangs up now must not leave a process without an
        // owner.
        let command = tokio::spawn(starting)
            .await
            .map_err(|e| ConnectError::internal(e.to_string()))??;
        Response::ok(rpc::StartResponse {
            command: command.info().into(),
            ..Default::default()
        })
    }

    async fn list(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, rpc::ListRequest>,
    ) -> ServiceResult<rpc::ListResponse> {
        let commands = self.commands.list();
        Response::ok(rpc::ListResponse {
            commands: commands.iter().map(|command| command.info()).collect(),
            ..Default::default()
        })
    }

    async fn get(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, rpc::GetRequest>,
    ) -> ServiceResult<rpc::GetResponse> {
        let command = self.commands.find(&request.to_owned_message().command)?;
        Response::ok(rpc::GetResponse {
            command: command.info().into(),
            ..Default::default()
        })
    }

    async fn send_input(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, rpc::SendInputRequest>,
    ) -> ServiceResult<rpc::SendInputResponse> {
        let request = request.to_owned_message();
        let command = self.commands.find(&request.command)?;
        let input = command.process()?.input()?;
        if let Some(pty) = request.resize.as_option() {
            input.resize(request::parse_window(pty)?)?;
        }
        if !request.data.is_empty() {
            input.write(&bytes_for(&command, request.data)).await?;
        }
        match request.close {
            true if command.terminal => input.write(&bytes_for(&command, vec![CTRL_D])).await?,
            true => input.close().await?,
            false => {}
        }
        Response::ok(rpc::SendInputResponse::default())
    }

    async fn send_signal(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, rpc::SendSignalRequest>,
    ) -> ServiceResult<rpc::SendSignalResponse> {
        let request = request.to_owned_message();
        let command = self.commands.find(&request.command)?;
        self.commands.signal(&command, request.signal.to_i32())?;
        Response::ok(rpc::SendSignalResponse::default())
    }

    async fn attach(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, rpc::AttachRequest>,
    ) -> ServiceResult<ServiceStream<rpc::AttachResponse>> {
        let request = request.to_owned_message();
        let command = self.commands.find(&request.command)?;
        let keepalive = keepalive::keepalive_interval(context.headers());
        let reader = Reader::new(command, &request, keepalive)?;
        Ok(Response::stream(reader.into_stream().boxed()))
    }

    async fn supervise(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, rpc::SuperviseRequest>,
    ) -> ServiceResult<rpc::SuperviseResponse> {
        let request = request.to_owned_message();
        self.commands.supervise(&self.settings, request)?;
        Response::ok(rpc::SuperviseResponse::default())
    }

    async fn get_keep_alive(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, rpc::GetKeepAliveRequest>,
    ) -> ServiceResult<rpc::GetKeepAliveResponse> {
        let (running, idle) = self.commands.keep_alive();
        Response::ok(rpc::GetKeepAliveResponse {
            running: u32::try_from(running).unwrap_or(u32::MAX),
            idle_ms: idle.map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)),
            ..Default::default()
        })
    }
}

fn bytes_for(command: &Command, data: Vec<u8>) -> ProcessInput {
    let input = match command.terminal {
        true => Bytes::Pty(data),
        false => Bytes::Stdin(data),
    };
    ProcessInput {
        input: Some(input),
        ..Default::default()
    }
}
