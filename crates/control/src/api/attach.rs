//! `/v1/sandboxes/{id}/commands/{command}/attach`: a background command over a WebSocket.
//!
//! As an exec stream (`exec_stream`), but the end of the session ends nothing else: the command
//! runs on, and a client that comes back at its last offset gets the bytes that it lacks. A client
//! that does not read stops the call to the host, upon which the guest keeps the output.

use std::sync::Arc;

use api_types::{AttachServerMessage, Encoding};
use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use futures::{SinkExt, StreamExt};
use model::{ErrorCode, SandboxId};
use serde::Deserialize;
use tokio::sync::mpsc;
use utoipa::IntoParams;

use super::exec_stream::{
    INPUT_QUEUE, PING_INTERVAL, Sink, encode_output, forward_input, read_frames, say_goodbye, send,
    upgrade_of,
};
use super::extract::{CommandRef, Id, Query};
use super::text::Utf8;
use super::view;
use crate::app::App;
use crate::app::commands::AttachedCommand;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{AttachEvent, AttachStream, CommandInfo};

const STREAM_ENDED: &str = "the host agent ended the stream before the command ended; attach again";

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AttachQuery {
    /// Offset of the first byte; the `next_offset` of the last frame that was read. Default 0.
    #[param(minimum = 0)]
    offset: Option<u64>,
    /// Instead of `offset`: begin so many bytes before the end of the output.
    #[param(minimum = 0)]
    tail_bytes: Option<u64>,
    /// Of `stdout` and `stderr` frames. With `utf-8`, which is the default, bytes that are not
    /// UTF-8 are replaced, and a character that the offset cuts is not whole.
    #[serde(default)]
    #[param(inline)]
    encoding: Encoding,
}

/// Attach to a background command
///
/// A WebSocket with text frames. To the client: `AttachServerMessage`, the first one `attached`,
/// then output from the offset on and as it comes, the last one `exit` or `error`. To the server:
/// `ExecClientMessage` without `start`. When the client hangs up, the command runs on. Several
/// clients may be attached, at most 16, and all may write; one that reads too slowly misses output
/// and is told how much (`dropped`). Of a terminal the last `resize` counts, whoever sent it; one to
/// the present size has a full-screen program drawn again.
///
/// The server sends a ping every 15 seconds, so a client that hears nothing for a minute has lost
/// its connection. A client that sends pings itself is detached when a minute passes without one.
#[utoipa::path(
    get, path = "/{id}/commands/{command}/attach", tag = "commands",
    params(AttachQuery),
    responses(
        (status = 101, description = "The WebSocket is open"),
        (status = 409, description = "The sandbox does not run"),
    )
)]
pub async fn attach_command(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    CommandRef(command): CommandRef,
    Query(query): Query<AttachQuery>,
    upgrade: std::result::Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response> {
    let upgrade = upgrade_of(upgrade)?;
    // By id from here on: a name or a pid may be another command's later.
    let command = app.find_attachable(&principal, &id, &command).await?;
    let from = query.first_offset(&command)?;
    let (command, encoding) = (command.id, query.encoding);
    Ok(upgrade
        .on_upgrade(move |socket| session(app, principal, id, command, (from, encoding), socket)))
}

impl AttachQuery {
    fn first_offset(&self, command: &CommandInfo) -> Result<u64> {
        match (self.offset, self.tail_bytes) {
            (Some(_), Some(_)) => Err(Error::invalid("give offset or tail_bytes, not both")),
            (offset, None) => Ok(offset.unwrap_or_default()),
            (None, Some(bytes)) => {
                let begin = command.output_end.saturating_sub(bytes);
                Ok(begin.max(command.output_start))
            }
        }
    }
}

async fn session(
    app: Arc<App>,
    principal: Principal,
    id: SandboxId,
    command: String,
    (from, encoding): (u64, Encoding),
    socket: WebSocket,
) {
    let (mut sink, mut frames) = socket.split();
    let attached = tokio::select! {
        attached = app.attach_command(&principal, &id, &command, from) => attached,
        () = app.shutdown.cancelled() => Err(Error::shutting_down()),
    };
    let last = match attached {
        Ok(AttachedCommand {
            mut stream,
            process,
        }) => {
            let (queue, waiting) = mpsc::channel(INPUT_QUEUE);
            tokio::select! {
                ended = write_output(&mut stream, from, encoding, &mut sink) => ended,
                ended = read_frames(&mut frames, &process, queue) => ended.map(|()| None),
                error = forward_input(&process, waiting) => Err(error),
                () = app.shutdown.cancelled() => Err(Error::shutting_down()),
            }
        }
        Err(error) => Err(error),
    };
    let last = match last {
        Ok(Some(command)) => {
            let (app, id, ended) = (app.clone(), id.clone(), command.clone());
            // The client does not wait for it.
            tokio::spawn(async move { app.record_command_end(&principal, &id, &ended).await });
            exit(&command)
        }
        // The client is gone.
        Ok(None) => return,
        Err(error) => Err(error),
    };
    let last = last.unwrap_or_else(|error| {
        tracing::debug!(sandbox = %id, error = error.chain(), "attach ended");
        AttachServerMessage::Error {
            code: error.code.as_str().to_owned(),
            data: error.message,
        }
    });
    say_goodbye(&mut sink, &mut frames, &last).await;
}

/// Writes output to the client. Returns the command that has ended; `None` when the client is gone.
async fn write_output(
    stream: &mut AttachStream,
    from: u64,
    encoding: Encoding,
    sink: &mut Sink,
) -> Result<Option<CommandInfo>> {
    let mut texts = [Utf8::default(), Utf8::default()];
    let mut end = from;
    let mut is_attached = false;
    let mut ping = tokio::time::interval(PING_INTERVAL);
    loop {
        let event = tokio::select! {
            event = stream.next() => event.map_err(|error| stream_error(error, is_attached))?,
            _ = ping.tick() => {
                if sink.send(Message::Ping(bytes::Bytes::new())).await.is_err() {
                    return Ok(None);
                }
                continue;
            }
        };
        let message = match event {
            Some(AttachEvent::Attached(command)) => {
                is_attached = true;
                let command = Box::new(view::command(command));
                AttachServerMessage::Attached { command }
            }
            Some(AttachEvent::Output {
                offset,
                is_stderr,
                data,
            }) => {
                end = offset.saturating_add(data.len() as u64);
                let decoder = &mut texts[usize::from(is_stderr)];
                let text = encode_output(encoding, decoder, &data);
                if text.is_empty() {
                    continue;
                }
                // A client that comes back there gets the character that is not whole yet.
                output(is_stderr, text, end.saturating_sub(decoder.held_bytes()))
            }
            Some(AttachEvent::Dropped { bytes, offset }) => {
                end = offset;
                // Bytes after a gap do not complete a character that began before it.
                texts = [Utf8::default(), Utf8::default()];
                AttachServerMessage::Dropped {
                    bytes,
                    next_offset: end,
                }
            }
            Some(AttachEvent::Ended(command)) => {
                if send_rests(sink, texts, end).await.is_none() {
                    return Ok(None);
                }
                return Ok(Some(command));
            }
            None => {
                return Err(Error::new(ErrorCode::HostUnavailable, STREAM_ENDED));
            }
        };
        if send(sink, &message).await.is_none() {
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

/// Sends what are no whole characters at the end of the output; `None` when the client is gone.
async fn send_rests(sink: &mut Sink, texts: [Utf8; 2], end: u64) -> Option<()> {
    for (is_stderr, mut text) in [false, true].into_iter().zip(texts) {
        let rest = text.finish();
        if !rest.is_empty() {
            send(sink, &output(is_stderr, rest, end)).await?;
        }
    }
    Some(())
}

fn output(is_stderr: bool, data: String, next_offset: u64) -> AttachServerMessage {
    match is_stderr {
        false => AttachServerMessage::Stdout { data, next_offset },
        true => AttachServerMessage::Stderr { data, next_offset },
    }
}

fn exit(command: &CommandInfo) -> Result<AttachServerMessage> {
    let no_code = || {
        let text = "the guest agent did not say how the command ended";
        Error::new(ErrorCode::AgentError, text)
    };
    Ok(AttachServerMessage::Exit {
        exit_code: command.exit_code.ok_or_else(no_code)?,
        signal: command.signal,
    })
}
