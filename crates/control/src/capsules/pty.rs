//! `/v1/capsules/{id}/pty`: a terminal over a WebSocket.
//!
//! ```text
//! client: {"type": "start", …} ─→ a background command on a terminal, whose name is the tag
//!         {"type": "connect", "tag"} ─→ the command of that name, from now on
//! server: {"type": "started", "tag", "pid"}, output as binary frames, {"type": "exit", "exit_code"}
//! client: input as binary frames, or {"type": "input", "data": base64}; resize, kill, pong
//! ```
//!
//! A session outlives its connection: the command runs on, and the sandbox keeps it. So nothing of it
//! is kept here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::{ProcessSignal, TerminalSize};
use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use model::{ErrorCode, SandboxId};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::DEFAULT_USER;
use super::process::exit_frame;
use crate::api::attached::{AttachSession, CommandFrames};
use crate::api::exec_stream::{
    ClientWish, Frame, ReadFrame, START_TIMEOUT, say_goodbye, text_frame, upgrade_of,
};
use crate::api::extract::{Id, NoQuery, Query};
use crate::api::view;
use crate::app::{App, spawn_detached};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{BackgroundCommand, Command, CommandInfo};

/// Interval of pings; clients answer them with `pong`.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// Text frame of a client.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ClientFrame {
    Start(StartFrame),
    Connect { tag: String },
    Input { data: String },
    Resize { cols: u32, rows: u32 },
    Kill,
    Pong,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct StartFrame {
    cmd: String,
    args: Vec<String>,
    cols: u32,
    rows: u32,
    envs: BTreeMap<String, String>,
    cwd: Option<String>,
    user: Option<String>,
}

impl Default for StartFrame {
    fn default() -> Self {
        Self {
            cmd: String::new(),
            args: Vec::new(),
            cols: 80,
            rows: 24,
            envs: BTreeMap::new(),
            cwd: None,
            user: None,
        }
    }
}

/// Opens a terminal, or one that was opened before.
pub async fn open_terminal(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    upgrade: std::result::Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response> {
    let upgrade = upgrade_of(upgrade)?;
    app.check_usable(&principal, &id).await?;
    Ok(upgrade.on_upgrade(move |socket| session(app, principal, id, socket)))
}

async fn session(app: Arc<App>, principal: Principal, id: SandboxId, mut socket: WebSocket) {
    let begun = tokio::select! {
        begun = begin(&app, &principal, &id, &mut socket) => begun,
        () = app.shutdown.cancelled() => Err(Error::shutting_down()),
    };
    let form = TerminalFrames::default();
    match begun {
        Ok(None) => {}
        Ok(Some((command, from))) => {
            let session = AttachSession {
                app,
                principal,
                sandbox: id,
                command: command.id,
                from,
            };
            session.run(form, socket).await;
        }
        Err(error) => {
            tracing::debug!(sandbox = %id, error = error.chain(), "no terminal");
            let (mut sink, mut frames) = socket.split();
            if let Some(last) = form.failure(&error) {
                say_goodbye(&mut sink, &mut frames, last).await;
            }
        }
    }
}

/// Reads the first frame, and returns the command that it is about and the offset of the first byte
/// of its output to send. `None` when the client went away instead.
async fn begin(
    app: &Arc<App>,
    principal: &Principal,
    id: &SandboxId,
    socket: &mut WebSocket,
) -> Result<Option<(CommandInfo, u64)>> {
    let first = async {
        loop {
            match socket.recv().await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => return other,
            }
        }
    };
    let first = timeout(START_TIMEOUT, first).await.map_err(|_| {
        let text = format!("no start frame came within {} s", START_TIMEOUT.as_secs());
        Error::new(ErrorCode::Timeout, text)
    })?;
    match first {
        Some(Ok(Message::Text(text))) => match read_text(&text)? {
            ClientFrame::Start(start) => {
                let background = start.into_command();
                let starting = {
                    let (app, principal, id) = (Arc::clone(app), principal.clone(), id.clone());
                    async move { app.start_background(&principal, &id, background).await }
                };
                Ok(Some((spawn_detached(starting).await?, 0)))
            }
            ClientFrame::Connect { tag } => {
                let command = app.find_attachable(principal, id, &tag).await?;
                let end = command.output_end;
                Ok(Some((command, end)))
            }
            _ => Err(Error::invalid("the first frame must be start or connect")),
        },
        Some(Ok(Message::Binary(_))) => {
            Err(Error::invalid("the first frame must be start or connect"))
        }
        Some(Ok(_) | Err(_)) | None => Ok(None),
    }
}

impl StartFrame {
    fn into_command(self) -> BackgroundCommand {
        let size = TerminalSize {
            cols: self.cols,
            rows: self.rows,
        };
        let command = Command {
            cmd: self.cmd,
            args: self.args,
            envs: self.envs,
            cwd: self.cwd,
            user: self.user.or_else(|| Some(DEFAULT_USER.to_owned())),
            stdin: true,
            terminal: Some(view::terminal_size(size)),
            ..Command::default()
        };
        BackgroundCommand {
            command,
            name: Some(format!("pty-{:08x}", rand::random::<u32>())),
            keep_alive: false,
        }
    }
}

fn read_text(text: &str) -> Result<ClientFrame> {
    serde_json::from_str(text)
        .map_err(|error| Error::invalid(format!("a frame is not what this route reads: {error}")))
}

/// Reads a frame of a client whose terminal is open.
fn read_frame(frame: Option<Frame>) -> Result<Option<ClientWish>> {
    let frame = match frame {
        Some(Ok(Message::Binary(data))) => return Ok(Some(ClientWish::write(data.to_vec()))),
        Some(Ok(Message::Text(text))) => read_text(&text)?,
        Some(Ok(_) | Err(_)) | None => return Ok(None),
    };
    Ok(Some(match frame {
        ClientFrame::Input { data } => {
            let data = STANDARD.decode(data);
            let data = data
                .map_err(|error| Error::invalid(format!("data of input is not base64: {error}")))?;
            ClientWish::write(data)
        }
        ClientFrame::Resize { cols, rows } => ClientWish::resize(TerminalSize { cols, rows })?,
        ClientFrame::Kill => ClientWish::Signal(ProcessSignal::Kill),
        ClientFrame::Pong => ClientWish::Nothing,
        ClientFrame::Start(_) | ClientFrame::Connect { .. } => {
            return Err(Error::invalid(
                "the terminal is open; open another WebSocket",
            ));
        }
    }))
}

/// Frames of the original about a terminal.
#[derive(Debug, Default)]
struct TerminalFrames {}

impl CommandFrames for TerminalFrames {
    const KEEP_ALIVE: Duration = PING_INTERVAL;

    fn begin(&mut self, command: CommandInfo) -> Option<Message> {
        let tag = command.name.unwrap_or(command.id);
        text_frame(&json!({ "type": "started", "tag": tag, "pid": command.pid }))
    }

    fn output(&mut self, _: u64, _: bool, data: Vec<u8>) -> Option<Message> {
        Some(Message::Binary(data.into()))
    }

    fn gap(&mut self, bytes: u64, _: u64) -> Option<Message> {
        let text = format!("{bytes} bytes of output were not read in time, and are lost");
        text_frame(&json!({ "type": "error", "data": text, "fatal": false }))
    }

    fn end(&mut self, command: &CommandInfo) -> Result<Vec<Message>> {
        Ok(text_frame(&exit_frame(command)?).into_iter().collect())
    }

    fn failure(&self, error: &Error) -> Option<Message> {
        let code = error.code.as_str();
        let data = &error.message;
        text_frame(&json!({ "type": "error", "code": code, "data": data, "fatal": true }))
    }

    fn keep_alive(&self) -> Message {
        Message::text(r#"{"type":"ping"}"#)
    }

    fn reader(&self) -> ReadFrame {
        read_frame
    }
}

#[cfg(test)]
mod tests {
    use crate::hosts::CommandInput;

    use super::*;

    /// Frames that the published SDK sends.
    #[test]
    fn frames_of_sdk_are_read() {
        let start = r#"{"type": "start", "cmd": "/bin/bash", "cols": 100, "rows": 30,
            "args": ["-i"], "envs": {"A": "b"}, "cwd": "/tmp"}"#;
        let ClientFrame::Start(start) = read_text(start).unwrap() else {
            panic!("no start");
        };
        let started = start.into_command();
        let size = started.command.terminal.unwrap();
        assert_eq!((size.cols, size.rows), (100, 30));
        assert_eq!(started.command.cwd.as_deref(), Some("/tmp"));
        assert!(started.name.unwrap().starts_with("pty-"));
        let read = |text: &str| read_frame(Some(Ok(Message::text(text))));
        let input = ClientWish::Input(CommandInput::Data(b"ls\n".to_vec()));
        let binary = read_frame(Some(Ok(Message::Binary(b"ls\n".as_slice().into()))));
        assert_eq!(binary.unwrap().as_ref(), Some(&input));
        let encoded = read(r#"{"type": "input", "data": "bHMK"}"#);
        assert_eq!(encoded.unwrap(), Some(input));
        let kill = read(r#"{"type": "kill"}"#).unwrap();
        assert_eq!(kill, Some(ClientWish::Signal(ProcessSignal::Kill)));
        let pong = read(r#"{"type": "pong"}"#).unwrap();
        assert_eq!(pong, Some(ClientWish::Nothing));
        let resize = read(r#"{"type": "resize", "cols": 132, "rows": 24}"#).unwrap();
        assert!(matches!(
            resize,
            Some(ClientWish::Input(CommandInput::Resize(_)))
        ));
        assert_eq!(read_frame(None).unwrap(), None);
        for wrong in [
            r#"{"type": "resize", "cols": 0, "rows": 24}"#,
            r#"{"type": "input", "data": "%"}"#,
            r#"{"type": "start"}"#,
            r#"{"type": "stop"}"#,
            "x",
        ] {
            assert_eq!(
                read(wrong).unwrap_err().code,
                ErrorCode::InvalidRequest,
                "{wrong}"
            );
        }
    }

    #[test]
    fn output_is_binary() {
        let mut frames = TerminalFrames::default();
        let output = frames.output(0, false, vec![0xff, 0]).unwrap();
        assert_eq!(output, Message::Binary(vec![0xff, 0].into()));
        let command = CommandInfo {
            name: Some("pty-00000001".to_owned()),
            pid: 9,
            exit_code: Some(137),
            ..CommandInfo::default()
        };
        let texts = [
            frames.begin(command.clone()).unwrap(),
            frames.end(&command).unwrap().pop().unwrap(),
            frames.gap(5, 0).unwrap(),
            frames.failure(&Error::invalid("no")).unwrap(),
        ];
        let texts = texts.map(|frame| {
            let text = frame.to_text().unwrap().to_owned();
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        });
        let [started, exit, gap, failure] = texts;
        assert_eq!(
            started,
            json!({"type": "started", "tag": "pty-00000001", "pid": 9})
        );
        assert_eq!(exit, json!({"type": "exit", "exit_code": 137}));
        assert_eq!(
            (&gap["type"], &gap["fatal"]),
            (&json!("error"), &json!(false))
        );
        assert_eq!(
            (&failure["data"], &failure["fatal"]),
            (&json!("no"), &json!(true))
        );
    }
}
