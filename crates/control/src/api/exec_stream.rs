//! `/v1/sandboxes/{id}/exec/stream`: a program over a WebSocket.
//!
//! Three things run beside each other until one of them ends: output goes from the host to the
//! client, frames come from the client, and input goes from a short queue to the host. Each waits
//! for its reader, so nothing piles up: a client that does not read stops the program's output, a
//! program that does not read stops the client's input. Either may wait for as long as it likes. A
//! client that is gone is noticed by TCP keep-alive (the listener's) and not by missing answers to
//! pings: a client whose output waits in a full pipe does not read our pings either, and neither do
//! we its answers while a program leaves its input alone. A client that sends pings of its own says
//! that it will go on with them ([`CLIENT_SILENCE`]); what counts is the time that we wait for its
//! frames. In every case the end of the session drops the call to the host, upon which the host
//! kills a program that still runs.

use std::sync::Arc;
use std::time::Duration;

use api_types::{Encoding, ExecClientMessage, ExecServerMessage, ProcessSignal};
use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, Stream, StreamExt};
use model::{ErrorCode, ExecLimits, SandboxId};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::extract::{Id, NoQuery, Query};
use super::text::Utf8;
use super::view;
use crate::app::App;
use crate::app::exec::{Process, Running, check_size};
use crate::auth::{Principal, web_socket};
use crate::error::{Error, Result};
use crate::hosts::{Command, CommandInput, ExecEvent};

/// Bytes of one frame from the client. Input of any length fits in many.
pub const MAX_FRAME: usize = 256 * 1024;
/// Bytes of the frame `start`: all that a command line may have on Linux, each byte of it escaped
/// as `\u0001` at worst.
const MAX_START: usize = 6 * ExecLimits::MAX_COMMAND_BYTES + 64 * 1024;
/// Bytes of a frame beyond which the connection breaks; up to it we can still say what is wrong.
const MAX_READ: usize = 16 * 1024 * 1024;
/// Frames of input that wait for the program to read.
pub(crate) const INPUT_QUEUE: usize = 16;
/// Time for the first frame to come.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval of pings, which keep proxies from taking the connection for dead.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Time without a frame after which a client that has sent a ping is gone: it sends one every 15
/// seconds.
const CLIENT_SILENCE: Duration = Duration::from_secs(60);
/// Time for the client to take the last frame and to close.
const GOODBYE: Duration = Duration::from_secs(5);

pub(crate) type Sink = SplitSink<WebSocket, Message>;

/// Run a command as a stream
///
/// A WebSocket with text frames: `ExecClientMessage` to the server, the first one `start`;
/// `ExecServerMessage` from it, the last one `exit` or `error`. When the client hangs up, the
/// program is killed. A web page, which can send no header with the key, offers the subprotocols
/// `wrenn.v1` and `wrenn.bearer.` with the key behind it; it must be a page of this server.
#[utoipa::path(
    get, path = "/{id}/exec/stream", tag = "commands",
    responses(
        (status = 101, description = "The WebSocket is open"),
        (status = 409, description = "The sandbox does not run"),
    )
)]
pub async fn exec_stream(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    upgrade: std::result::Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response> {
    open_stream(app, principal, id, upgrade, None).await
}

/// Opens an exec stream, whose program runs as `default_user` unless its `start` names another one.
///
/// # Errors
/// The sandbox's state; a request that is no WebSocket's.
pub(crate) async fn open_stream(
    app: Arc<App>,
    principal: Principal,
    id: SandboxId,
    upgrade: std::result::Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    default_user: Option<&'static str>,
) -> Result<Response> {
    let upgrade = upgrade_of(upgrade)?;
    app.check_usable(&principal, &id).await?;
    Ok(upgrade.on_upgrade(move |socket| session(app, principal, id, socket, default_user)))
}

/// Returns the upgrade of a request, or an error for one that is no WebSocket's.
pub(crate) fn upgrade_of(
    upgrade: std::result::Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<WebSocketUpgrade> {
    let upgrade = upgrade.map_err(|error| {
        Error::invalid(format!(
            "this route speaks WebSocket (RFC 6455): {}",
            error.body_text().to_lowercase()
        ))
    })?;
    Ok(upgrade
        .protocols([web_socket::PROTOCOL])
        .max_message_size(MAX_READ)
        .max_frame_size(MAX_READ))
}

async fn session(
    app: Arc<App>,
    principal: Principal,
    id: SandboxId,
    mut socket: WebSocket,
    default_user: Option<&str>,
) {
    let begun = tokio::select! {
        begun = begin(&app, &principal, &id, &mut socket, default_user) => begun,
        () = app.shutdown.cancelled() => Err(Error::shutting_down()),
    };
    let (mut sink, mut frames) = socket.split();
    let last = match begun {
        Ok(Some((running, encoding))) => {
            converse(&app, running, encoding, &mut sink, &mut frames).await
        }
        Ok(None) => return,
        Err(error) => Err(error),
    };
    let last = match last {
        Ok(Some(exit)) => exit,
        // The client is gone.
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(sandbox = %id, error = error.chain(), "exec stream ended");
            let code = error.code.as_str().to_owned();
            ExecServerMessage::Error {
                code,
                data: error.message,
                exit_code: error.exit_code,
            }
        }
    };
    if let Some(last) = text_frame(&last) {
        say_goodbye(&mut sink, &mut frames, last).await;
    }
}

/// Sends the last message and closes. Closing with frames unread would reset the connection, and
/// the client might never see that message.
pub(crate) async fn say_goodbye(
    sink: &mut Sink,
    frames: &mut SplitStream<WebSocket>,
    last: Message,
) {
    let _ = timeout(GOODBYE, async {
        let _ = sink.send(last).await;
        let close = CloseFrame {
            code: close_code::NORMAL,
            reason: "".into(),
        };
        let _ = sink.send(Message::Close(Some(close))).await;
        while let Some(Ok(_)) = frames.next().await {}
    })
    .await;
}

/// Returns a message as a text frame of JSON.
pub(crate) fn text_frame(message: &impl Serialize) -> Option<Message> {
    serde_json::to_string(message).ok().map(Message::text)
}

/// Reads `start` and starts the program. `None` when the client went away instead.
async fn begin(
    app: &App,
    principal: &Principal,
    id: &SandboxId,
    socket: &mut WebSocket,
    default_user: Option<&str>,
) -> Result<Option<(Running, Encoding)>> {
    let late = |_| {
        Error::new(
            ErrorCode::Timeout,
            format!("no start frame came within {} s", START_TIMEOUT.as_secs()),
        )
    };
    let first = async {
        loop {
            match socket.recv().await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => return client_message(other, MAX_START),
            }
        }
    };
    let Some(message) = timeout(START_TIMEOUT, first).await.map_err(late)?? else {
        return Ok(None);
    };
    let ExecClientMessage::Start {
        cmd,
        args,
        timeout_sec,
        envs,
        cwd,
        user,
        stdin,
        terminal,
        encoding,
    } = message
    else {
        return Err(Error::invalid("the first frame must be start"));
    };
    let terminal = terminal.map(view::terminal_size);
    let command = Command {
        cmd,
        args,
        envs,
        cwd,
        user: user.or_else(|| default_user.map(str::to_owned)),
        timeout_sec,
        stdin,
        terminal,
    };
    let running = app.start_command(principal, id, command).await?;
    Ok(Some((running, encoding)))
}

/// Parses a message of the client; `None` when the client is gone.
fn client_message(
    frame: Option<std::result::Result<Message, axum::Error>>,
    limit: usize,
) -> Result<Option<ExecClientMessage>> {
    match frame {
        Some(Ok(Message::Text(text))) if text.len() > limit => Err(Error::new(
            ErrorCode::TooLarge,
            format!("a frame must be at most {limit} bytes"),
        )),
        Some(Ok(Message::Text(text))) => serde_json::from_str(&text).map(Some).map_err(|error| {
            Error::invalid(format!("a frame is not what this route reads: {error}"))
        }),
        Some(Ok(Message::Binary(_))) => Err(Error::invalid("frames must be text, not binary")),
        Some(Ok(_) | Err(_)) | None => Ok(None),
    }
}

/// Forwards messages until the program or the client ends, and returns the last message for the
/// client; `None` when the client is gone.
async fn converse(
    app: &App,
    mut running: Running,
    encoding: Encoding,
    sink: &mut Sink,
    frames: &mut SplitStream<WebSocket>,
) -> Result<Option<ExecServerMessage>> {
    let pid = running.wait_until_started().await?;
    if send(sink, &ExecServerMessage::Start { pid })
        .await
        .is_none()
    {
        return Ok(None);
    }
    let (queue, waiting) = mpsc::channel(INPUT_QUEUE);
    let process = running.process(pid);
    tokio::select! {
        ended = write_output(&mut running, encoding, sink) => ended,
        ended = read_frames(frames, &process, queue, read_message) => ended.map(|()| None),
        error = forward_input(&process, waiting) => Err(error),
        () = app.shutdown.cancelled() => Err(Error::shutting_down()),
    }
}

/// Sends a message to the client; `None` when the client is gone.
pub(super) async fn send(sink: &mut Sink, message: &impl Serialize) -> Option<()> {
    sink.send(text_frame(message)?).await.ok()
}

async fn write_output(
    running: &mut Running,
    encoding: Encoding,
    sink: &mut Sink,
) -> Result<Option<ExecServerMessage>> {
    let mut stdout = Utf8::default();
    let mut stderr = Utf8::default();
    let mut ping = tokio::time::interval(PING_INTERVAL);
    loop {
        let event = tokio::select! {
            event = running.next() => event?,
            _ = ping.tick() => {
                if sink.send(Message::Ping(bytes::Bytes::new())).await.is_err() {
                    return Ok(None);
                }
                continue;
            }
        };
        let sent = match event {
            Some(ExecEvent::Stdout(bytes)) => {
                let data = encode_output(encoding, &mut stdout, &bytes);
                send(sink, &ExecServerMessage::Stdout { data }).await
            }
            Some(ExecEvent::Stderr(bytes)) => {
                let data = encode_output(encoding, &mut stderr, &bytes);
                send(sink, &ExecServerMessage::Stderr { data }).await
            }
            Some(ExecEvent::Ended { exit_code, error }) => {
                if let Some(error) = error.filter(|_| exit_code == 0) {
                    return Err(Error::new(
                        ErrorCode::AgentError,
                        format!("the program did not run: {error}"),
                    ));
                }
                return Ok(rests(sink, stdout, stderr)
                    .await
                    .map(|()| ExecServerMessage::Exit { exit_code }));
            }
            Some(ExecEvent::Started { .. }) => Some(()),
            None => {
                return Err(Error::new(
                    ErrorCode::AgentError,
                    "the host agent ended the stream before the program ended",
                ));
            }
        };
        if sent.is_none() {
            return Ok(None);
        }
    }
}

pub(super) fn encode_output(encoding: Encoding, decoder: &mut Utf8, bytes: &[u8]) -> String {
    match encoding {
        Encoding::Base64 => STANDARD.encode(bytes),
        Encoding::Utf8 => decoder.push(bytes),
    }
}

/// Sends the incomplete characters at the ends of both streams, if any; `None` when the client is
/// gone.
async fn rests(sink: &mut Sink, mut stdout: Utf8, mut stderr: Utf8) -> Option<()> {
    let stdout = stdout.finish();
    let stderr = stderr.finish();
    if !stdout.is_empty() {
        send(sink, &ExecServerMessage::Stdout { data: stdout }).await?;
    }
    if !stderr.is_empty() {
        send(sink, &ExecServerMessage::Stderr { data: stderr }).await?;
    }
    Some(())
}

pub(crate) type Frame = std::result::Result<Message, axum::Error>;

/// Waits for a frame that is no ping. `None`: the client is gone.
async fn next_frame(
    frames: &mut (impl Stream<Item = Frame> + Unpin),
    sends_pings: &mut bool,
) -> Option<Frame> {
    loop {
        let frame = match sends_pings {
            false => frames.next().await,
            true => timeout(CLIENT_SILENCE, frames.next()).await.ok().flatten(),
        };
        match frame {
            Some(Ok(Message::Ping(_))) => *sends_pings = true,
            Some(Ok(Message::Pong(_))) => {}
            other => return other,
        }
    }
}

/// Wish of a client about a program that runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ClientWish {
    /// Waits until the program takes it.
    Input(CommandInput),
    /// Does not.
    Signal(ProcessSignal),
    Nothing,
}

impl ClientWish {
    /// Returns the wish for input, none if it has no bytes.
    pub(crate) fn write(data: Vec<u8>) -> Self {
        match data.is_empty() {
            true => Self::Nothing,
            false => Self::Input(CommandInput::Data(data)),
        }
    }

    /// Returns the wish for another size of the terminal.
    ///
    /// # Errors
    /// When no terminal has such a size.
    pub(crate) fn resize(size: api_types::TerminalSize) -> Result<Self> {
        let size = view::terminal_size(size);
        check_size(size)?;
        Ok(Self::Input(CommandInput::Resize(size)))
    }
}

/// Reads a frame of the client; `None` when the client is gone.
pub(crate) type ReadFrame = fn(Option<Frame>) -> Result<Option<ClientWish>>;

/// Reads the client's frames until it is gone, or sends an invalid one.
pub(crate) async fn read_frames(
    frames: &mut SplitStream<WebSocket>,
    process: &Process,
    queue: mpsc::Sender<CommandInput>,
    read: ReadFrame,
) -> Result<()> {
    let mut sends_pings = false;
    loop {
        let frame = next_frame(frames, &mut sends_pings).await;
        let input = match read(frame)? {
            Some(ClientWish::Input(input)) => input,
            Some(ClientWish::Signal(signal)) => {
                let sent = process.send_signal(signal.number()).await;
                sent.or_else(ignore_ended)?;
                continue;
            }
            Some(ClientWish::Nothing) => continue,
            None => return Ok(()),
        };
        if queue.send(input).await.is_err() {
            return Ok(());
        }
    }
}

/// Reads a frame of our own API.
pub(crate) fn read_message(frame: Option<Frame>) -> Result<Option<ClientWish>> {
    let Some(message) = client_message(frame, MAX_FRAME)? else {
        return Ok(None);
    };
    Ok(Some(match message {
        ExecClientMessage::Start { .. } => {
            return Err(Error::invalid(
                "start came twice, or a command was attached to; open another WebSocket",
            ));
        }
        ExecClientMessage::Signal { signal } => ClientWish::Signal(signal),
        ExecClientMessage::Stop => ClientWish::Signal(ProcessSignal::Kill),
        ExecClientMessage::Stdin { data, encoding } => ClientWish::write(decoded(data, encoding)?),
        ExecClientMessage::StdinClose => ClientWish::Input(CommandInput::EndOfFile),
        ExecClientMessage::Resize { size } => ClientWish::resize(size)?,
    }))
}

fn decoded(data: String, encoding: Encoding) -> Result<Vec<u8>> {
    match encoding {
        Encoding::Utf8 => Ok(data.into_bytes()),
        Encoding::Base64 => STANDARD
            .decode(data)
            .map_err(|error| Error::invalid(format!("data of stdin is not base64: {error}"))),
    }
}

/// Forwards input to the program in the order in which it came. Returns only on an error.
pub(crate) async fn forward_input(
    process: &Process,
    mut queue: mpsc::Receiver<CommandInput>,
) -> Error {
    while let Some(input) = queue.recv().await {
        let sent = process.send_input(input).await;
        if let Err(error) = sent.or_else(ignore_ended) {
            return error;
        }
    }
    std::future::pending().await
}

/// Ignores that input or a signal came too late: the end of the program is on its way.
fn ignore_ended(error: Error) -> Result<()> {
    match error.code {
        ErrorCode::NotFound | ErrorCode::InvalidState => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn client_that_stops_pings_is_gone() {
        for (first, is_gone) in [
            (Message::Ping("".into()), true),
            (Message::Pong("".into()), false),
        ] {
            let mut frames = stream::iter([Ok(first)]).chain(stream::pending());
            let mut sends_pings = false;
            let next = next_frame(&mut frames, &mut sends_pings);
            let ended = timeout(2 * CLIENT_SILENCE, next).await;
            assert_eq!(ended.is_ok_and(|frame| frame.is_none()), is_gone);
        }
    }
}
