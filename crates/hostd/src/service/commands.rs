//! Programs in the guest, as streams.

use std::time::Duration;

use connectrpc::{
    ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use futures::StreamExt;
use guest_rpc::process::Signal;
use host_rpc as rpc;
use host_rpc::__buffa::oneof::exec_response::Event;
use host_rpc::CommandService;
use runtime::trace::in_current_context;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::error::pass_on;
use super::program::{MAX_REASON, START_TIMEOUT, not_started, parse_signal, start_timed_out};
use super::{Agent, alive, background};
use crate::guest::{Exec, ExecEvent, Running};
use crate::sandbox::Handle;
use crate::sandbox::activity::Active;
use crate::sandbox::auto_checkpoint::CountedCommand;

/// Most messages in the queue to a reader; when it is full, the process has to wait.
const QUEUE: usize = 8;
/// Time for the guest to kill a process.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the guest's stream to end after its last event.
const END_TIMEOUT: Duration = Duration::from_secs(1);

type Sender = mpsc::Sender<Result<rpc::ExecResponse, ConnectError>>;

#[expect(
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
        let id = request.sandbox_id.clone();
        let start = |handle: Handle| async move {
            let counted = self.manager.checkpoint_before_command(&handle).await;
            start_command(handle, request, counted).await
        };
        Response::stream_ok(self.in_guest(&id, start).await?)
    }

    async fn send_input(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::SendInputRequest>,
    ) -> ServiceResult<rpc::SendInputResponse> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        self.in_guest(
            &id,
            |handle| async move { send_input(&handle, request).await },
        )
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
            send_signal(&handle, pid, signal).await
        })
        .await?;
        Response::ok(rpc::SendSignalResponse::default())
    }

    async fn start_command(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::StartCommandRequest>,
    ) -> ServiceResult<rpc::StartCommandResponse> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        let start = |handle: Handle| async move {
            let _counted = self.manager.checkpoint_before_command(&handle).await;
            background::start_command(&handle, request).await
        };
        Response::ok(self.in_guest(&id, start).await?)
    }

    async fn list_commands(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ListCommandsRequest>,
    ) -> ServiceResult<rpc::ListCommandsResponse> {
        let list = |handle: Handle| async move { background::list_commands(&handle).await };
        Response::ok(self.in_guest(request.sandbox_id, list).await?)
    }

    async fn get_command(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::GetCommandRequest>,
    ) -> ServiceResult<rpc::GetCommandResponse> {
        let command = request.command.to_owned();
        let get = |handle: Handle| async move { background::get_command(&handle, command).await };
        Response::ok(self.in_guest(request.sandbox_id, get).await?)
    }

    async fn send_command_input(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::SendCommandInputRequest>,
    ) -> ServiceResult<rpc::SendCommandInputResponse> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        let send = |handle: Handle| async move { background::send_input(&handle, request).await };
        Response::ok(self.in_guest(&id, send).await?)
    }

    async fn signal_command(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::SignalCommandRequest>,
    ) -> ServiceResult<rpc::SignalCommandResponse> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        let signal =
            |handle: Handle| async move { background::signal_command(&handle, request).await };
        Response::ok(self.in_guest(&id, signal).await?)
    }

    async fn attach_command(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::AttachCommandRequest>,
    ) -> ServiceResult<ServiceStream<rpc::AttachCommandResponse>> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        let attach = |handle| background::attach_command(handle, request);
        Response::stream_ok(self.in_guest(&id, attach).await?)
    }
}

/// Starts a program; the stream ends with its end. When the reader goes away first, its process
/// group is killed.
async fn start_command(
    handle: Handle,
    request: rpc::ExecRequest,
    counted: CountedCommand,
) -> Result<ServiceStream<rpc::ExecResponse>, ConnectError> {
    let active = handle.activity.begin();
    let terminal = request
        .terminal
        .into_option()
        .map(|size| (size.cols, size.rows));
    let exec = Exec {
        cmd: request.cmd,
        args: request.args,
        envs: request.envs.into_iter().collect(),
        cwd: request.cwd,
        user: request.user,
        timeout: (request.timeout_ms > 0).then(|| Duration::from_millis(request.timeout_ms.into())),
        stdin: request.stdin,
        terminal,
    };
    let started = timeout(START_TIMEOUT, handle.guest().exec(exec)).await;
    let running = started
        .map_err(|_| start_timed_out())?
        .map_err(|error| pass_on(&error))?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let pump = Pump {
        handle,
        running,
        sender,
        on_terminal: terminal.is_some(),
        pid: None,
        _active: active,
        _counted: counted,
    };
    tokio::spawn(in_current_context(pump.run()));
    Ok(ReceiverStream::new(receiver).boxed())
}

/// Carries a program's events to the reader.
struct Pump {
    handle: Handle,
    running: Running,
    sender: Sender,
    on_terminal: bool,
    pid: Option<u32>,
    _active: Active,
    _counted: CountedCommand,
}

impl Pump {
    async fn run(mut self) {
        let handle = self.handle.clone();
        let mut ended = std::pin::pin!(alive::wait_until_ended(&handle));
        loop {
            let event = tokio::select! {
                biased;
                () = self.sender.closed() => {
                    self.kill().await;
                    break;
                }
                event = self.running.next() => event.map_err(|error| pass_on(&error)),
                error = &mut ended => Err(error),
            };
            let (message, last) = match event {
                // A stream is of one program. A guest that reported more would make us keep the
                // pid of each.
                Ok(Some(ExecEvent::Started { .. })) if self.pid.is_some() => {
                    self.kill().await;
                    (
                        Err(ConnectError::internal(
                            "the guest agent started the program twice",
                        )),
                        true,
                    )
                }
                Ok(Some(event)) => {
                    let last = matches!(event, ExecEvent::Ended { .. });
                    (Ok(self.message(event)), last)
                }
                Ok(None) => (
                    Err(ConnectError::unavailable(
                        "the guest agent ended the stream without a result",
                    )),
                    true,
                ),
                Err(error) => (
                    self.not_started(&error).ok_or_else(|| self.explain(error)),
                    true,
                ),
            };
            if self.sender.send(message).await.is_err() {
                self.kill().await;
                break;
            }
            if last {
                // Only a stream that was read to its end leaves a connection that can be used
                // again.
                let _ = timeout(END_TIMEOUT, self.running.next()).await;
                break;
            }
        }
        if let Some(pid) = self.pid {
            self.handle.terminals.lock().remove(&pid);
        }
    }

    /// Returns the end of a program that could not be started; see [`not_started`].
    fn not_started(&self, error: &ConnectError) -> Option<rpc::ExecResponse> {
        if self.pid.is_some() {
            return None;
        }
        Some(rpc::ExecResponse {
            event: Some(Event::from(not_started(error)?)),
            ..rpc::ExecResponse::default()
        })
    }

    /// Replaces an error by the sandbox's state if it does not run any more: its end can also show
    /// as a broken connection.
    fn explain(&self, error: ConnectError) -> ConnectError {
        if self.handle.record.borrow().phase.is_up() {
            error
        } else {
            alive::unreachable_error(&self.handle)
        }
    }

    fn message(&mut self, event: ExecEvent) -> rpc::ExecResponse {
        let event = match event {
            ExecEvent::Started { pid } => {
                self.pid = Some(pid);
                if self.on_terminal {
                    self.handle.terminals.lock().insert(pid);
                }
                Event::from(rpc::exec_response::ExecStart {
                    pid,
                    ..Default::default()
                })
            }
            ExecEvent::Stdout(bytes) => Event::Stdout(bytes),
            ExecEvent::Stderr(bytes) => Event::Stderr(bytes),
            ExecEvent::Ended { exit_code, error } => {
                let error = error.map(|error| error.chars().take(MAX_REASON).collect());
                Event::from(rpc::exec_response::ExecEnd {
                    exit_code,
                    error,
                    ..Default::default()
                })
            }
            ExecEvent::KeepAlive => Event::from(rpc::exec_response::ExecKeepAlive::default()),
        };
        rpc::ExecResponse {
            event: Some(event),
            ..rpc::ExecResponse::default()
        }
    }

    /// Kills the process, since its caller is gone. The process may exist before its first event,
    /// so that is waited for.
    async fn kill(&mut self) {
        let kill = async {
            while self.pid.is_none() {
                match self.running.next().await {
                    Ok(Some(event)) => drop(self.message(event)),
                    _ => return,
                }
            }
            if let Some(pid) = self.pid {
                // An error may mean that it has ended by itself.
                let _ = self
                    .handle
                    .guest()
                    .signal_process(pid, Signal::SIGNAL_SIGKILL)
                    .await;
            }
        };
        let _ = timeout(KILL_TIMEOUT, kill).await;
    }
}

/// Sends input, closes it, or changes the size of the terminal.
async fn send_input(handle: &Handle, request: rpc::SendInputRequest) -> Result<(), ConnectError> {
    let _active = handle.activity.begin();
    let terminal = handle.terminals.lock().contains(&request.pid);
    let pid = request.pid;
    if let Some(size) = request.resize.into_option() {
        handle
            .guest()
            .resize_terminal(pid, (size.cols, size.rows))
            .await
            .map_err(|error| pass_on(&error))?;
    }
    if !request.data.is_empty() {
        handle
            .guest()
            .send_input(pid, request.data, terminal)
            .await
            .map_err(|error| pass_on(&error))?;
    }
    match request.close {
        // A terminal has no end of file of its own; Ctrl-D is what a person would type.
        true if terminal => handle.guest().send_input(pid, vec![4], true).await,
        true => handle.guest().close_stdin(pid).await,
        false => Ok(()),
    }
    .map_err(|error| pass_on(&error))
}

async fn send_signal(handle: &Handle, pid: u32, number: u32) -> Result<(), ConnectError> {
    let _active = handle.activity.begin();
    let signal = parse_signal(number)?;
    let sent = handle.guest().signal_process(pid, signal).await;
    sent.map_err(|error| pass_on(&error))
}
