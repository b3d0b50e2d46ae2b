//! Background commands: the guest has them and their output, this passes calls on and checks what
//! comes back.

use std::time::Duration;

use connectrpc::{ConnectError, ServiceStream};
use futures::StreamExt;
use guest_rpc::command as guest;
use guest_rpc::command::__buffa::oneof::attach_response::Event as GuestEvent;
use guest_rpc::process::{PTY, ProcessConfig, Signal, pty};
use host_rpc as rpc;
use host_rpc::__buffa::oneof::attach_command_response::Event;
use host_rpc::__buffa::oneof::start_command_response;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::alive;
use super::error::{from_sandbox_error, pass_on};
use super::program::{START_TIMEOUT, not_started, parse_signal, start_timed_out};
use crate::guest::command_report::{checked, checked_list};
use crate::guest::{AttachStream, explain_old_guest};
use crate::sandbox::Handle;
use crate::sandbox::activity::Active;

/// Most messages in the queue to a reader. When it is full, the guest keeps the output.
const QUEUE: usize = 4;
/// Time for the guest to begin a stream of output, which takes it no time of its own.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes of output in one message; a guest of ours sends 64 KiB.
const MAX_OUTPUT: usize = 128 * 1024;

/// Starts a command.
pub(super) async fn start_command(
    handle: &Handle,
    request: rpc::StartCommandRequest,
) -> Result<rpc::StartCommandResponse, ConnectError> {
    if request.keep_alive {
        // Before the command runs: it must not be idle under one that the owner wants to keep it.
        let timeout = Duration::from_millis(request.timeout_ms);
        let allowed = handle.allow_keep_alive(timeout).await;
        allowed.map_err(from_sandbox_error)?;
    }
    let config = ProcessConfig {
        cmd: request.cmd,
        args: request.args,
        envs: request.envs,
        cwd: request.cwd,
        ..Default::default()
    };
    let start = guest::StartRequest {
        process: config.into(),
        name: request.name,
        pty: request.terminal.into_option().map(window).into(),
        stdin: request.stdin,
        keep_alive: request.keep_alive,
        timeout_ms: request.timeout_ms,
        ..Default::default()
    };
    let client = handle.guest();
    let starting = client.start_command(start, request.user.as_deref());
    let started = timeout(START_TIMEOUT, starting).await;
    let result = match started.map_err(|_| start_timed_out())? {
        Ok(command) => {
            handle.command_ends.note_start();
            start_command_response::Result::from(checked(command))
        }
        Err(error) => match not_started(&error) {
            Some(end) => start_command_response::Result::from(end),
            None => return Err(pass_on(&error)),
        },
    };
    Ok(rpc::StartCommandResponse {
        result: Some(result),
        ..Default::default()
    })
}

/// Lists commands.
pub(super) async fn list_commands(
    handle: &Handle,
) -> Result<rpc::ListCommandsResponse, ConnectError> {
    let listed = handle.guest().list_commands().await;
    let commands = listed.map_err(|error| pass_on(&error))?;
    Ok(rpc::ListCommandsResponse {
        commands: checked_list(commands),
        ..Default::default()
    })
}

/// Finds a command.
pub(super) async fn get_command(
    handle: &Handle,
    command: String,
) -> Result<rpc::GetCommandResponse, ConnectError> {
    let found = handle.guest().get_command(command).await;
    let command = found.map_err(|error| pass_on(&error))?;
    Ok(rpc::GetCommandResponse {
        command: checked(command).into(),
        ..Default::default()
    })
}

/// Sends input, closes it, or changes the size of the terminal.
pub(super) async fn send_input(
    handle: &Handle,
    request: rpc::SendCommandInputRequest,
) -> Result<rpc::SendCommandInputResponse, ConnectError> {
    let input = guest::SendInputRequest {
        command: request.command,
        data: request.data,
        close: request.close,
        resize: request.resize.into_option().map(window).into(),
        ..Default::default()
    };
    let sent = handle.guest().send_command_input(input).await;
    sent.map_err(|error| pass_on(&error))?;
    Ok(rpc::SendCommandInputResponse::default())
}

/// Signals the process group of a command.
pub(super) async fn signal_command(
    handle: &Handle,
    request: rpc::SignalCommandRequest,
) -> Result<rpc::SignalCommandResponse, ConnectError> {
    let signal: Signal = parse_signal(request.signal)?;
    let request = guest::SendSignalRequest {
        command: request.command,
        signal: signal.into(),
        ..Default::default()
    };
    let sent = handle.guest().signal_command(request).await;
    sent.map_err(|error| pass_on(&error))?;
    Ok(rpc::SignalCommandResponse::default())
}

/// Streams the output of a command, which counts as use of the sandbox until the reader is gone.
pub(super) async fn attach_command(
    handle: Handle,
    request: rpc::AttachCommandRequest,
) -> Result<ServiceStream<rpc::AttachCommandResponse>, ConnectError> {
    let active = handle.activity.begin();
    let request = guest::AttachRequest {
        command: request.command,
        offset: request.offset,
        follow: request.follow,
        wait_ms: request.wait_ms,
        ..Default::default()
    };
    let client = handle.guest();
    let attached = timeout(ATTACH_TIMEOUT, client.attach_command(request)).await;
    let stream = attached
        .map_err(|_| ConnectError::deadline_exceeded("the guest agent does not answer"))?
        .map_err(|error| pass_on(&error))?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(carry(handle, stream, sender, active));
    Ok(ReceiverStream::new(receiver).boxed())
}

async fn carry(
    handle: Handle,
    mut stream: AttachStream,
    sender: mpsc::Sender<Result<rpc::AttachCommandResponse, ConnectError>>,
    _active: Active,
) {
    let mut ended = std::pin::pin!(alive::wait_until_ended(&handle));
    loop {
        let message = tokio::select! {
            biased;
            () = sender.closed() => return,
            message = stream.message::<guest::AttachResponse>() => message.map_err(|error| {
                // Its end can also show as a broken connection.
                if handle.record.borrow().phase.is_up() {
                    pass_on(&explain_old_guest(error))
                } else {
                    alive::unreachable_error(&handle)
                }
            }),
            error = &mut ended => Err(error),
        };
        let message = match message {
            Ok(None) => return,
            Ok(Some(message)) => match event(message.to_owned_message()) {
                Ok(None) => continue,
                event => event.map(|event| rpc::AttachCommandResponse {
                    event,
                    ..Default::default()
                }),
            },
            Err(error) => Err(error),
        };
        let is_last = message.is_err();
        if sender.send(message).await.is_err() || is_last {
            return;
        }
    }
}

/// Converts an event of the guest; `None` for one that this version does not know.
pub(super) fn event(message: guest::AttachResponse) -> Result<Option<Event>, ConnectError> {
    let Some(event) = message.event else {
        return Ok(None);
    };
    Ok(Some(match event {
        GuestEvent::Output(output) if output.data.len() > MAX_OUTPUT => {
            return Err(ConnectError::internal(
                "the guest agent sent more output at once than it may",
            ));
        }
        GuestEvent::Attached(command) => Event::Attached(Box::new(checked(*command))),
        GuestEvent::Ended(command) => Event::Ended(Box::new(checked(*command))),
        GuestEvent::Output(output) => Event::from(rpc::attach_command_response::CommandOutput {
            offset: output.offset,
            stderr: output.stream == guest::Stream::STREAM_STDERR,
            data: output.data,
            ..Default::default()
        }),
        GuestEvent::Dropped(dropped) => Event::from(rpc::attach_command_response::OutputDropped {
            bytes: dropped.bytes,
            offset: dropped.offset,
            ..Default::default()
        }),
        GuestEvent::Keepalive(_) => Event::from(rpc::exec_response::ExecKeepAlive::default()),
    }))
}

fn window(size: rpc::TerminalSize) -> PTY {
    let size = pty::Size {
        cols: size.cols,
        rows: size.rows,
        ..Default::default()
    };
    PTY {
        size: size.into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_in_large_pieces_is_refused() {
        let output = |length| {
            let output = guest::attach_response::Output {
                data: vec![0; length],
                ..Default::default()
            };
            event(guest::AttachResponse {
                event: Some(output.into()),
                ..Default::default()
            })
        };
        assert!(output(MAX_OUTPUT).unwrap().is_some());
        output(MAX_OUTPUT + 1).unwrap_err();
    }
}
