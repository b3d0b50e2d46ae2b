//! A program in a sandbox as a stream: output as it comes, input as it is there, over one
//! WebSocket.
//!
//! Bytes travel as base64 in text frames, so nothing is lost that is not UTF-8. The two halves are
//! independent: a program that reads nothing does not keep its output back. Dropping both halves
//! closes the connection, upon which the server kills the program.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use api_types::{
    Encoding, ExecClientMessage, ExecServerMessage, ProcessSignal, SignalRequest, TerminalSize,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use reqwest::{Method, Url};
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::connection::{Client, KEY_HEADER, TRACE_HEADER, api_error};
use crate::error::{Error, Result};

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Maximum number of bytes of input in one frame. Small enough that no server limit is near (frames
/// carry a third more).
const MAX_INPUT: usize = 32 * 1024;

/// Largest frame that is accepted; the server sends far smaller ones.
const MAX_FRAME: usize = 4 * 1024 * 1024;

/// Time without a frame after which a connection is broken: the server sends a ping every 15
/// seconds.
const SILENCE: Duration = Duration::from_secs(60);

/// Program to run, with its environment and limits.
#[derive(Debug, Clone, Default)]
pub struct ExecStart {
    /// Name or path of the program. It is run directly, not by a shell.
    pub cmd: String,
    pub args: Vec<String>,
    /// Seconds until the process group gets SIGTERM, and SIGKILL 10 seconds later; without it the
    /// program may run for ever.
    pub timeout_sec: Option<u32>,
    pub envs: BTreeMap<String, String>,
    /// Working directory. Where `None`, that of the image's configuration, else the user's home.
    pub cwd: Option<String>,
    /// User in the guest; the template's default user where `None`.
    pub user: Option<String>,
    /// True if input will come; otherwise the program reads end of file at once.
    pub stdin: bool,
    /// Size of the terminal to run it on, whose output all comes as `Stdout`; `None`: no terminal.
    pub terminal: Option<TerminalSize>,
}

/// Event of a running program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    Started {
        pid: u32,
    },
    Stdout(Bytes),
    Stderr(Bytes),
    /// The last event. 128 + signal where a signal ended the program.
    Exited {
        exit_code: i32,
    },
}

/// The half that goes to the program.
pub struct ExecInput(SplitSink<Socket, Message>);

/// The half that comes from the program.
pub struct ExecOutput {
    frames: SplitStream<Socket>,
    started: bool,
    finished: bool,
}

impl fmt::Debug for ExecInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExecInput")
    }
}

impl fmt::Debug for ExecOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecOutput")
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Starts a program and gives its two ends.
    pub async fn exec_stream(&self, id: &str, start: ExecStart) -> Result<(ExecInput, ExecOutput)> {
        let url = self.route(&["v1", "sandboxes", id, "exec", "stream"]);
        let (sink, frames) = self.web_socket(url).await?.split();
        let mut input = ExecInput(sink);
        input.send(&start_message(start)).await?;
        Ok((
            input,
            ExecOutput {
                frames,
                started: false,
                finished: false,
            },
        ))
    }

    /// Sends a signal to the process group of a program that [`Client::exec_stream`] started. Not
    /// found when it has ended.
    pub async fn signal(&self, id: &str, pid: u32, signal: ProcessSignal) -> Result<()> {
        let url = self.route(&["v1", "sandboxes", id, "exec", "signal"]);
        self.send(
            self.request(Method::POST, url)
                .json(&SignalRequest { pid, signal }),
        )
        .await
        .map(drop)
    }

    pub(crate) async fn web_socket(&self, mut url: Url) -> Result<Socket> {
        url.set_scheme("ws")
            .map_err(|()| Error::Protocol("no WebSocket address".to_owned()))?;
        let mut request = url
            .as_str()
            .into_client_request()
            .map_err(|error| self.ws_error(error))?;
        request.headers_mut().insert(KEY_HEADER, self.key().clone());
        if let Some(trace) = self.trace() {
            request.headers_mut().insert(TRACE_HEADER, trace.clone());
        }
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_FRAME))
            .max_frame_size(Some(MAX_FRAME));
        let stream = self
            .connect()
            .await
            .map_err(|error| self.ws_error(error.into()))?;
        let stream = MaybeTlsStream::Plain(stream);
        let connected =
            tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await;
        connected
            .map(|(socket, _)| socket)
            .map_err(|error| self.ws_error(error))
    }

    fn ws_error(&self, error: WsError) -> Error {
        match error {
            WsError::Http(response) => api_error(
                response.status().as_u16(),
                response.body().as_deref().unwrap_or_default(),
            ),
            WsError::Io(_) => Error::Unreachable {
                url: self.url().to_owned(),
                source: Box::new(error),
            },
            other => broken(other),
        }
    }
}

fn start_message(start: ExecStart) -> ExecClientMessage {
    let ExecStart {
        cmd,
        args,
        timeout_sec,
        envs,
        cwd,
        user,
        stdin,
        terminal,
    } = start;
    let encoding = Encoding::Base64;
    ExecClientMessage::Start {
        cmd,
        args,
        timeout_sec,
        envs,
        cwd,
        user,
        stdin,
        terminal,
        encoding,
    }
}

/// Waits for the next frame, at most [`SILENCE`] where `bounded`.
async fn next_frame(
    frames: &mut SplitStream<Socket>,
    bounded: bool,
) -> Result<Option<std::result::Result<Message, WsError>>> {
    if !bounded {
        return Ok(frames.next().await);
    }
    tokio::time::timeout(SILENCE, frames.next())
        .await
        .map_err(|_| {
            let text = format!("nothing came for {} s", SILENCE.as_secs());
            let silent = std::io::Error::new(std::io::ErrorKind::TimedOut, text);
            Error::Broken(Box::new(silent))
        })
}

pub(crate) fn broken(error: WsError) -> Error {
    match error {
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake)
        | WsError::ConnectionClosed => Error::Truncated,
        other => Error::Broken(Box::new(other)),
    }
}

impl ExecInput {
    pub(crate) fn new(sink: SplitSink<Socket, Message>) -> Self {
        Self(sink)
    }

    /// Sends input. Waits while the program does not read.
    pub async fn write(&mut self, data: &[u8]) -> Result<()> {
        for part in data.chunks(MAX_INPUT) {
            let message = ExecClientMessage::Stdin {
                data: STANDARD.encode(part),
                encoding: Encoding::Base64,
            };
            self.send(&message).await?;
        }
        Ok(())
    }

    /// Closes the program's standard input.
    pub async fn close(&mut self) -> Result<()> {
        self.send(&ExecClientMessage::StdinClose).await
    }

    /// Resizes the program's terminal.
    pub async fn resize(&mut self, size: TerminalSize) -> Result<()> {
        self.send(&ExecClientMessage::Resize { size }).await
    }

    /// Sends a signal to the process group, behind all input that was written before.
    /// [`Client::signal`] does not wait for a program that does not read.
    pub async fn signal(&mut self, signal: ProcessSignal) -> Result<()> {
        self.send(&ExecClientMessage::Signal { signal }).await
    }

    /// Kills the process group; `Exited` follows.
    pub async fn stop(&mut self) -> Result<()> {
        self.send(&ExecClientMessage::Stop).await
    }

    /// Sends a ping. A server that got one expects one a minute, and takes the client for gone
    /// otherwise.
    pub async fn ping(&mut self) -> Result<()> {
        let ping = Message::Ping(Bytes::new());
        self.0.send(ping).await.map_err(broken)
    }

    async fn send(&mut self, message: &ExecClientMessage) -> Result<()> {
        let text =
            serde_json::to_string(message).map_err(|error| Error::Protocol(error.to_string()))?;
        self.0.send(Message::text(text)).await.map_err(broken)
    }
}

impl ExecOutput {
    /// Waits for the next event of the program; `None` after `Exited`.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>> {
        if self.finished {
            return Ok(None);
        }
        let message = next_message(&mut self.frames, self.started).await?;
        self.started = true;
        self.event(message).map(Some)
    }

    fn event(&mut self, message: ExecServerMessage) -> Result<ExecEvent> {
        Ok(match message {
            ExecServerMessage::Start { pid } => ExecEvent::Started { pid },
            ExecServerMessage::Stdout { data } => ExecEvent::Stdout(decode_base64(&data)?),
            ExecServerMessage::Stderr { data } => ExecEvent::Stderr(decode_base64(&data)?),
            ExecServerMessage::Exit { exit_code } => {
                self.finished = true;
                ExecEvent::Exited { exit_code }
            }
            ExecServerMessage::Error {
                code,
                data: message,
                exit_code,
            } => {
                self.finished = true;
                return Err(match exit_code {
                    Some(exit_code) => Error::NotStarted { message, exit_code },
                    None => Error::Api {
                        status: 0,
                        code,
                        message,
                    },
                });
            }
        })
    }
}

/// Waits for the next message of the server, where `pinged` at most [`SILENCE`] without a frame:
/// the server sends pings once the program runs. Cancel-safe.
pub(crate) async fn next_message<T: DeserializeOwned>(
    frames: &mut SplitStream<Socket>,
    pinged: bool,
) -> Result<T> {
    loop {
        return match next_frame(frames, pinged).await? {
            Some(Ok(Message::Text(text))) => {
                serde_json::from_str(&text).map_err(|error| Error::Protocol(error.to_string()))
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Close(_))) | None => Err(Error::Truncated),
            Some(Ok(_)) => Err(Error::Protocol("a frame that is not text".to_owned())),
            Some(Err(error)) => Err(broken(error)),
        };
    }
}

pub(crate) fn decode_base64(data: &str) -> Result<Bytes> {
    STANDARD
        .decode(data)
        .map(Bytes::from)
        .map_err(|error| Error::Protocol(format!("output: {error}")))
}
