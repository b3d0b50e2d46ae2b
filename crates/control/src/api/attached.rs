//! A background command over a WebSocket, whatever the form of its frames: our own
//! (`attach`), or that of the original (`crate::capsules`).
//!
//! As an exec stream (`exec_stream`), but the end of the session ends nothing else: the command
//! runs on, and a client that comes back at its last offset gets the bytes that it lacks. A client
//! that does not read stops the call to the host, upon which the guest keeps the output.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use futures::{SinkExt, StreamExt};
use model::{ErrorCode, SandboxId};
use tokio::sync::mpsc;

use super::exec_stream::{INPUT_QUEUE, ReadFrame, Sink, forward_input, read_frames, say_goodbye};
use crate::app::App;
use crate::app::commands::AttachedCommand;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{AttachEvent, AttachStream, CommandInfo};

const STREAM_ENDED: &str = "the host agent ended the stream before the command ended; attach again";

/// Form in which a session tells its client of a command, and is told by it. `None` stands for an
/// event that the client hears nothing of.
pub(crate) trait CommandFrames {
    /// Time after which a client that is told nothing gets a frame all the same.
    const KEEP_ALIVE: Duration;

    /// Returns the frame for the beginning.
    fn begin(&mut self, command: CommandInfo) -> Option<Message>;

    /// Returns the frame for output at an offset.
    fn output(&mut self, offset: u64, is_stderr: bool, data: Vec<u8>) -> Option<Message>;

    /// Returns the frame for output that is lost, which goes on at `offset`.
    fn gap(&mut self, bytes: u64, offset: u64) -> Option<Message>;

    /// Returns the frames for the end, the last one last.
    ///
    /// # Errors
    /// Where it is not known how the command ended.
    fn end(&mut self, command: &CommandInfo) -> Result<Vec<Message>>;

    /// Returns the last frame of a session that cannot go on.
    fn failure(&self, error: &Error) -> Option<Message>;

    /// Returns the frame that keeps proxies from taking the connection for dead.
    fn keep_alive(&self) -> Message;

    /// Returns the function that reads frames of the client.
    fn reader(&self) -> ReadFrame;
}

/// A session to hold.
#[derive(Debug)]
pub(crate) struct AttachSession {
    pub app: Arc<App>,
    pub principal: Principal,
    pub sandbox: SandboxId,
    /// Id of the command: a name or a pid may be another one's later.
    pub command: String,
    /// Offset of the first byte.
    pub from: u64,
}

impl AttachSession {
    /// Holds the session until the command or the client ends.
    pub(crate) async fn run(self, mut form: impl CommandFrames, socket: WebSocket) {
        let Self {
            app,
            principal,
            sandbox,
            command,
            from,
        } = self;
        let (mut sink, mut frames) = socket.split();
        let attached = tokio::select! {
            attached = app.attach_command(&principal, &sandbox, &command, from) => attached,
            () = app.shutdown.cancelled() => Err(Error::shutting_down()),
        };
        let ended = match attached {
            Ok(AttachedCommand {
                mut stream,
                process,
            }) => {
                let (queue, waiting) = mpsc::channel(INPUT_QUEUE);
                let read = form.reader();
                tokio::select! {
                    ended = write_output(&mut stream, &mut form, &mut sink) => ended,
                    ended = read_frames(&mut frames, &process, queue, read) => ended.map(|()| None),
                    error = forward_input(&process, waiting) => Err(error),
                    () = app.shutdown.cancelled() => Err(Error::shutting_down()),
                }
            }
            Err(error) => Err(error),
        };
        let last = match ended {
            // The client is gone.
            Ok(None) => return,
            Ok(Some(command)) => {
                let frames = form.end(&command);
                // The client does not wait for it.
                let id = sandbox.clone();
                tokio::spawn(async move {
                    app.record_command_end(&principal, &id, &command).await;
                });
                frames
            }
            Err(error) => Err(error),
        };
        let mut last = last.unwrap_or_else(|error| {
            tracing::debug!(%sandbox, error = error.chain(), "attach ended");
            form.failure(&error).into_iter().collect()
        });
        let Some(goodbye) = last.pop() else {
            return;
        };
        for frame in last {
            if sink.send(frame).await.is_err() {
                return;
            }
        }
        say_goodbye(&mut sink, &mut frames, goodbye).await;
    }
}

/// Writes output to the client. Returns the command that has ended; `None` when the client is gone.
async fn write_output<F: CommandFrames>(
    stream: &mut AttachStream,
    form: &mut F,
    sink: &mut Sink,
) -> Result<Option<CommandInfo>> {
    let mut is_attached = false;
    let mut keep_alive = tokio::time::interval(F::KEEP_ALIVE);
    // The first one comes at once.
    keep_alive.reset();
    loop {
        let event = tokio::select! {
            event = stream.next() => event.map_err(|error| stream_error(error, is_attached))?,
            _ = keep_alive.tick() => {
                if sink.send(form.keep_alive()).await.is_err() {
                    return Ok(None);
                }
                continue;
            }
        };
        let frame = match event {
            Some(AttachEvent::Attached(command)) => {
                is_attached = true;
                form.begin(command)
            }
            Some(AttachEvent::Output {
                offset,
                is_stderr,
                data,
            }) => form.output(offset, is_stderr, data),
            Some(AttachEvent::Dropped { bytes, offset }) => form.gap(bytes, offset),
            Some(AttachEvent::Ended(command)) => return Ok(Some(command)),
            None => {
                return Err(Error::new(ErrorCode::HostUnavailable, STREAM_ENDED));
            }
        };
        if let Some(frame) = frame
            && sink.send(frame).await.is_err()
        {
            return Ok(None);
        }
    }
}

/// Returns `HostUnavailable` for a stream that breaks after the host has begun to answer: the RPC
/// client reports a lost connection as an internal error of the host.
fn stream_error(error: Error, is_attached: bool) -> Error {
    match error.code {
        ErrorCode::AgentError if is_attached => {
            Error::new(ErrorCode::HostUnavailable, STREAM_ENDED).because(error)
        }
        _ => error,
    }
}

/// Returns the exit code of a command that has ended.
///
/// # Errors
/// If the guest did not tell it.
pub(crate) fn exit_code(command: &CommandInfo) -> Result<i32> {
    command.exit_code.ok_or_else(|| {
        let text = "the guest agent did not say how the command ended";
        Error::new(ErrorCode::AgentError, text)
    })
}
