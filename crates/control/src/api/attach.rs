//! `/v1/sandboxes/{id}/commands/{command}/attach`: a background command over a WebSocket, with the
//! frames of our own API.

use std::sync::Arc;
use std::time::Duration;

use api_types::{AttachServerMessage, Encoding};
use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use utoipa::IntoParams;

use super::attached::{AttachSession, CommandFrames, exit_code};
use super::exec_stream::{
    PING_INTERVAL, ReadFrame, encode_output, read_message, text_frame, upgrade_of,
};
use super::extract::{CommandRef, Id, Query};
use super::text::Utf8;
use super::view;
use crate::app::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::CommandInfo;

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
    let session = AttachSession {
        app,
        principal,
        sandbox: id,
        command: command.id,
        from,
    };
    let frames = OwnFrames::new(query.encoding, from);
    Ok(upgrade.on_upgrade(move |socket| session.run(frames, socket)))
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

/// Frames of our own API.
#[derive(Debug)]
struct OwnFrames {
    encoding: Encoding,
    /// Decoders of standard output and standard error.
    texts: [Utf8; 2],
    /// Offset behind the last byte of output.
    end: u64,
}

impl OwnFrames {
    fn new(encoding: Encoding, from: u64) -> Self {
        Self {
            encoding,
            texts: Default::default(),
            end: from,
        }
    }
}

impl CommandFrames for OwnFrames {
    const KEEP_ALIVE: Duration = PING_INTERVAL;

    fn begin(&mut self, command: CommandInfo) -> Option<Message> {
        let command = Box::new(view::command(command));
        text_frame(&AttachServerMessage::Attached { command })
    }

    fn output(&mut self, offset: u64, is_stderr: bool, data: Vec<u8>) -> Option<Message> {
        self.end = offset.saturating_add(data.len() as u64);
        let decoder = &mut self.texts[usize::from(is_stderr)];
        let text = encode_output(self.encoding, decoder, &data);
        if text.is_empty() {
            return None;
        }
        // A client that comes back there gets the character that is not whole yet.
        let next = self.end.saturating_sub(decoder.held_bytes());
        text_frame(&output(is_stderr, text, next))
    }

    fn gap(&mut self, bytes: u64, offset: u64) -> Option<Message> {
        self.end = offset;
        // Bytes after a gap do not complete a character that began before it.
        self.texts = Default::default();
        text_frame(&AttachServerMessage::Dropped {
            bytes,
            next_offset: offset,
        })
    }

    fn end(&mut self, command: &CommandInfo) -> Result<Vec<Message>> {
        let mut last = Vec::new();
        for (is_stderr, text) in [false, true].into_iter().zip(&mut self.texts) {
            let rest = text.finish();
            if !rest.is_empty() {
                last.push(output(is_stderr, rest, self.end));
            }
        }
        last.push(AttachServerMessage::Exit {
            exit_code: exit_code(command)?,
            signal: command.signal,
        });
        Ok(last.iter().filter_map(text_frame).collect())
    }

    fn failure(&self, error: &Error) -> Option<Message> {
        text_frame(&AttachServerMessage::Error {
            code: error.code.as_str().to_owned(),
            data: error.message.clone(),
        })
    }

    fn keep_alive(&self) -> Message {
        Message::Ping(Bytes::new())
    }

    fn reader(&self) -> ReadFrame {
        read_message
    }
}

fn output(is_stderr: bool, data: String, next_offset: u64) -> AttachServerMessage {
    match is_stderr {
        false => AttachServerMessage::Stdout { data, next_offset },
        true => AttachServerMessage::Stderr { data, next_offset },
    }
}
