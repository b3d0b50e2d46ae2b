//! Programs that the fake server plays:
//!
//! - `print OUT ERR CODE`: writes the two and exits.
//! - `cat`: gives its input back. `bytes`: writes each byte value once. `size`: writes each size of
//!   its terminal.
//! - `sleep`: until a signal ends it. `deaf`: the same, and reads nothing. `stubborn`: until
//!   SIGKILL. `careful`: cleans up upon a signal, exits with 3.
//! - `flood`: writes until nobody reads any more. `late`: is ended for its time.
//! - `hex`: writes its arguments and its environment in hexadecimal digits.
//! - `/bin/sh`: the program that its last argument names, with the words behind it.
//! - `vanish`: the stream ends without an exit. `script` is there and cannot be executed; anything
//!   else is not there.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::types::{
    Encoding, ExecClientMessage, ExecRequest, ExecResult, ExecServerMessage, ProcessSignal,
    SignalRequest, TerminalSize,
};
use tokio::sync::mpsc;

use super::{Shared, World, refusal};

pub async fn exec(
    State(world): Shared,
    Path(id): Path<String>,
    Json(request): Json<ExecRequest>,
) -> Response {
    if !world.lock().expect("the world").sandboxes.contains_key(&id) {
        return refusal(404, "not_found", &format!("no sandbox {id}"));
    }
    let argument = |index: usize| request.args.get(index).cloned().unwrap_or_default();
    let result = ExecResult {
        sandbox_id: id,
        cmd: request.cmd.clone(),
        stdout: argument(0),
        stderr: argument(1),
        exit_code: argument(2).parse().unwrap_or(0),
        duration_ms: 1,
        encoding: Encoding::Utf8,
        truncated: false,
    };
    Json(result).into_response()
}

pub async fn stream(
    State(world): Shared,
    Path(id): Path<String>,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !world.lock().expect("the world").sandboxes.contains_key(&id) {
        return refusal(404, "not_found", &format!("no sandbox {id}"));
    }
    upgrade.on_upgrade(move |socket| async move {
        let mut peer = Peer(socket);
        if play(&mut peer, &world).await.is_some() {
            peer.close().await;
        }
    })
}

pub async fn signal(
    State(world): Shared,
    Path(_): Path<String>,
    Json(request): Json<SignalRequest>,
) -> StatusCode {
    assert_eq!(request.pid, PID);
    let mut world = world.lock().expect("the world");
    world.signals.push(request.signal);
    if let Some(listener) = &world.listener {
        let _ = listener.send(request.signal);
    }
    StatusCode::NO_CONTENT
}

/// Of every program.
const PID: u32 = 42;

struct Peer(WebSocket);

impl Peer {
    /// `None` when the client is gone.
    async fn hear(&mut self) -> Option<ExecClientMessage> {
        loop {
            match self.0.recv().await?.ok()? {
                Message::Text(text) => {
                    return Some(serde_json::from_str(&text).expect("a client message"));
                }
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    async fn say(&mut self, message: &ExecServerMessage) -> Option<()> {
        let text = serde_json::to_string(message).expect("JSON");
        self.0.send(Message::text(text)).await.ok()
    }

    /// Reads until the client has closed, as the real server does: closing with frames unread
    /// resets the connection, and the client loses what it has not read yet.
    async fn close(&mut self) {
        let _ = self.0.send(Message::Close(None)).await;
        while let Some(Ok(_)) = self.0.recv().await {}
    }

    async fn stdout(&mut self, data: &[u8]) -> Option<()> {
        self.say(&ExecServerMessage::Stdout {
            data: STANDARD.encode(data),
        })
        .await
    }
}

async fn play(peer: &mut Peer, world: &std::sync::Mutex<World>) -> Option<()> {
    let ExecClientMessage::Start {
        cmd,
        args,
        envs,
        encoding,
        terminal,
        stdin,
        ..
    } = peer.hear().await?
    else {
        panic!("the first message is start");
    };
    let (cmd, args) = match (cmd.as_str(), args.last()) {
        ("/bin/sh", Some(line)) => {
            let mut words = line.split(' ').map(str::to_owned);
            (words.next().unwrap_or_default(), words.collect())
        }
        _ => (cmd, args),
    };
    assert_eq!(encoding, Encoding::Base64);
    if let Some((exit_code, reason)) = not_started(&cmd) {
        let data = format!("cannot start '{cmd}': {reason}");
        let code = "invalid_request".to_owned();
        return peer
            .say(&ExecServerMessage::Error {
                code,
                data,
                exit_code: Some(exit_code),
            })
            .await;
    }
    let (listener, signals) = mpsc::unbounded_channel();
    world.lock().expect("the world").listener = Some(listener);
    peer.say(&ExecServerMessage::Start { pid: PID }).await?;
    let argument = |index: usize| args.get(index).cloned().unwrap_or_default();
    let exit_code = match cmd.as_str() {
        "print" => {
            peer.stdout(argument(0).as_bytes()).await?;
            peer.say(&ExecServerMessage::Stderr {
                data: STANDARD.encode(argument(1)),
            })
            .await?;
            argument(2).parse().unwrap_or(0)
        }
        "bytes" => {
            peer.stdout(&(0..=255).collect::<Vec<u8>>()).await?;
            0
        }
        "cat" if stdin => cat(peer).await?,
        "cat" => 0,
        "size" => sizes(peer, terminal?, signals).await?,
        "deaf" => deaf(peer, signals).await?,
        "sleep" | "stubborn" | "careful" => sleep(peer, world, &cmd, signals).await?,
        "late" => {
            let code = "timeout".to_owned();
            let data = "the program took longer than 1 s".to_owned();
            return peer
                .say(&ExecServerMessage::Error {
                    code,
                    data,
                    exit_code: None,
                })
                .await;
        }
        "hex" => {
            peer.stdout(hex(&args, &envs).as_bytes()).await?;
            0
        }
        "flood" => loop {
            peer.stdout(&[b'x'; 32 * 1024]).await?;
            world.lock().expect("the world").flooded += 32 * 1024;
        },
        _ => return None,
    };
    peer.say(&ExecServerMessage::Exit { exit_code }).await
}

async fn cat(peer: &mut Peer) -> Option<i32> {
    loop {
        match peer.hear().await? {
            ExecClientMessage::Stdin {
                data,
                encoding: Encoding::Base64,
            } => {
                peer.say(&ExecServerMessage::Stdout { data }).await?;
            }
            ExecClientMessage::StdinClose => return Some(0),
            other => panic!("{other:?}"),
        }
    }
}

async fn sizes(
    peer: &mut Peer,
    mut size: TerminalSize,
    mut signals: mpsc::UnboundedReceiver<ProcessSignal>,
) -> Option<i32> {
    loop {
        peer.stdout(format!("{}x{}\n", size.cols, size.rows).as_bytes())
            .await?;
        tokio::select! {
            message = peer.hear() => match message? {
                ExecClientMessage::Resize { size: changed } => size = changed,
                _ => return Some(0),
            },
            signal = signals.recv() => return Some(128 + i32::try_from(signal?.number()).ok()?),
        }
    }
}

/// Exit code and reason for a program that cannot be started.
fn not_started(cmd: &str) -> Option<(i32, &'static str)> {
    let programs = [
        "print", "bytes", "cat", "size", "sleep", "stubborn", "careful", "deaf", "late", "hex",
        "flood", "vanish",
    ];
    match cmd {
        "script" => Some((126, "Permission denied (os error 13)")),
        cmd if programs.contains(&cmd) => None,
        _ => Some((127, "No such file or directory (os error 2)")),
    }
}

/// Arguments, then variables, one a line, as the bytes that they stand for.
fn hex(args: &[String], envs: &BTreeMap<String, String>) -> String {
    let digits = |text: &str| {
        client::bytes::from_text(text)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let args = args.iter().map(|arg| digits(arg) + "\n");
    let envs = envs
        .iter()
        .map(|(name, value)| format!("{}={}\n", digits(name), digits(value)));
    args.chain(envs).collect()
}

/// Leaves its input on the wire.
async fn deaf(peer: &mut Peer, mut signals: mpsc::UnboundedReceiver<ProcessSignal>) -> Option<i32> {
    peer.stdout(b"asleep\n").await?;
    Some(128 + i32::try_from(signals.recv().await?.number()).ok()?)
}

async fn sleep(
    peer: &mut Peer,
    world: &std::sync::Mutex<World>,
    cmd: &str,
    mut signals: mpsc::UnboundedReceiver<ProcessSignal>,
) -> Option<i32> {
    peer.stdout(b"asleep\n").await?;
    loop {
        let signal = tokio::select! {
            signal = signals.recv() => signal?,
            message = peer.hear() => match message? {
                ExecClientMessage::Stop => {
                    world.lock().expect("the world").stopped += 1;
                    return Some(137);
                }
                // Input that it leaves alone.
                _ => continue,
            },
        };
        match (cmd, signal) {
            ("stubborn", signal) if signal != ProcessSignal::Kill => {
                peer.stdout(format!("{signal:?} ignored\n").as_bytes())
                    .await?;
            }
            ("careful", signal) if signal != ProcessSignal::Kill => {
                peer.stdout(b"cleaned up\n").await?;
                return Some(3);
            }
            (_, signal) => return Some(128 + i32::try_from(signal.number()).ok()?),
        }
    }
}
