//! `/v1/capsules/{id}/processes/{command}/stream`: output of a background command as text frames of
//! the original, from its first byte that is kept.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::Bytes;
use serde_json::json;

use crate::api::attach::AttachQuery;
use crate::api::attached::{AttachSession, CommandFrames, exit_code};
use crate::api::exec_stream::{PING_INTERVAL, ReadFrame, read_message, text_frame, upgrade_of};
use crate::api::extract::{CommandRef, Id, Query};
use crate::api::processes;
use crate::api::text::Utf8;
use crate::app::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::CommandInfo;

/// Streams the output of a background command; with a query, as our own API does.
pub async fn stream_process(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    CommandRef(command): CommandRef,
    RawQuery(text): RawQuery,
    query: Query<AttachQuery>,
    upgrade: std::result::Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response> {
    if text.is_some_and(|text| !text.is_empty()) {
        let (id, command) = (Id(id), CommandRef(command));
        let (app, principal) = (State(app), Extension(principal));
        return processes::stream_process(app, principal, id, command, query, upgrade).await;
    }
    let upgrade = upgrade_of(upgrade)?;
    let found = app.find_attachable(&principal, &id, &command).await?;
    let session = AttachSession {
        app,
        principal,
        sandbox: id,
        command: found.id,
        from: 0,
    };
    let frames = ProcessFrames::default();
    Ok(upgrade.on_upgrade(move |socket| session.run(frames, socket)))
}

/// Frames of the original about a process. Bytes that are not UTF-8 are replaced.
#[derive(Debug, Default)]
struct ProcessFrames {
    /// Decoders of standard output and standard error.
    texts: [Utf8; 2],
}

impl CommandFrames for ProcessFrames {
    const KEEP_ALIVE: Duration = PING_INTERVAL;

    fn begin(&mut self, command: CommandInfo) -> Option<Message> {
        text_frame(&json!({ "type": "start", "pid": command.pid }))
    }

    fn output(&mut self, _: u64, is_stderr: bool, data: Vec<u8>) -> Option<Message> {
        let text = self.texts[usize::from(is_stderr)].push(&data);
        match text.is_empty() {
            true => None,
            false => output(is_stderr, &text),
        }
    }

    fn gap(&mut self, _: u64, _: u64) -> Option<Message> {
        // Bytes after a gap do not complete a character that began before it. The original has no
        // frame for it, and an `error` would end the stream of its clients.
        self.texts = Default::default();
        None
    }

    fn end(&mut self, command: &CommandInfo) -> Result<Vec<Message>> {
        let mut last = Vec::new();
        for (is_stderr, text) in [false, true].into_iter().zip(&mut self.texts) {
            let rest = text.finish();
            if !rest.is_empty() {
                last.extend(output(is_stderr, &rest));
            }
        }
        last.extend(text_frame(&exit_frame(command)?));
        Ok(last)
    }

    fn failure(&self, error: &Error) -> Option<Message> {
        let code = error.code.as_str();
        text_frame(&json!({ "type": "error", "code": code, "data": error.message }))
    }

    fn keep_alive(&self) -> Message {
        Message::Ping(Bytes::new())
    }

    fn reader(&self) -> ReadFrame {
        read_message
    }
}

/// Returns the last frame of a command that has ended.
///
/// # Errors
/// If the guest did not tell how.
pub(super) fn exit_frame(command: &CommandInfo) -> Result<serde_json::Value> {
    Ok(json!({ "type": "exit", "exit_code": exit_code(command)? }))
}

fn output(is_stderr: bool, data: &str) -> Option<Message> {
    let kind = if is_stderr { "stderr" } else { "stdout" };
    text_frame(&json!({ "type": kind, "data": data }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(message: Message) -> serde_json::Value {
        serde_json::from_str(message.to_text().unwrap()).unwrap()
    }

    #[test]
    fn frames_are_those_of_original() {
        let mut frames = ProcessFrames::default();
        let command = CommandInfo {
            pid: 7,
            exit_code: Some(3),
            ..CommandInfo::default()
        };
        let begin = text(frames.begin(command.clone()).unwrap());
        assert_eq!(begin, json!({"type": "start", "pid": 7}));
        let euro = "\u{20ac}".as_bytes();
        assert_eq!(frames.output(0, false, euro[..1].to_vec()), None);
        let whole = text(frames.output(1, false, euro[1..].to_vec()).unwrap());
        assert_eq!(whole, json!({"type": "stdout", "data": "\u{20ac}"}));
        let error = text(frames.output(3, true, b"e\xe2".to_vec()).unwrap());
        assert_eq!(error, json!({"type": "stderr", "data": "e"}));
        let last: Vec<_> = frames
            .end(&command)
            .unwrap()
            .into_iter()
            .map(text)
            .collect();
        assert_eq!(
            last,
            [
                json!({"type": "stderr", "data": "\u{fffd}"}),
                json!({"type": "exit", "exit_code": 3}),
            ]
        );
        let unknown = frames.end(&CommandInfo::default()).unwrap_err();
        let failure = text(frames.failure(&unknown).unwrap());
        assert_eq!(
            (&failure["type"], &failure["code"]),
            (&json!("error"), &json!("agent_error"))
        );
    }
}
