//! Background commands: what is typed comes back, and what was said before is said again.
//!
//! `count N` writes N lines of numbers; its first attach breaks off after half of them. `cat` gives
//! its input back until it is closed, `sleep` runs until a signal.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::types::{
    AttachServerMessage, Command, CommandList, CommandOutput, CommandSignal, CommandState,
    Encoding, ExecClientMessage, StartCommand, SupervisedCommand, Supervision,
};
use futures::StreamExt;

use super::{Shared, refusal};

pub async fn start(State(world): Shared, Json(start): Json<StartCommand>) -> Response {
    let mut world = world.lock().expect("the world");
    let is_taken = start.name.is_some()
        && world
            .commands
            .iter()
            .any(|command| command.name == start.name && command.exit_code.is_none());
    if is_taken {
        return refusal(409, "conflict", "a command of that name runs");
    }
    let number = u32::try_from(world.commands.len()).expect("few");
    let command = Command {
        id: format!("cmd-{number:08x}"),
        name: start.name,
        pid: 100 + number,
        cmd: start.cmd,
        args: start.args,
        args_truncated: false,
        state: CommandState::Running,
        exit_code: None,
        signal: None,
        timed_out: false,
        terminal: start.terminal.is_some(),
        keep_alive: start.keep_alive,
        started_at: "2026-01-01T00:00:00Z".to_owned(),
        ended_at: None,
        output: CommandOutput {
            start: 0,
            end: 0,
            dropped: 0,
        },
        supervision: None,
    };
    world.commands.push(command.clone());
    (StatusCode::CREATED, Json(command)).into_response()
}

/// Returns a start command that has failed twice and waits.
pub fn restarting(start: &SupervisedCommand) -> Command {
    Command {
        id: "cmd-57a27000".to_owned(),
        name: Some("start".to_owned()),
        pid: 0,
        cmd: start.cmd.clone(),
        args: start.args.clone(),
        args_truncated: false,
        state: CommandState::Restarting,
        exit_code: None,
        signal: None,
        timed_out: false,
        terminal: false,
        keep_alive: false,
        started_at: "2026-01-01T00:00:00Z".to_owned(),
        ended_at: None,
        output: CommandOutput {
            start: 0,
            end: 0,
            dropped: 0,
        },
        supervision: Some(Supervision {
            restart: start.restart,
            max_retries: start.max_retries,
            restarts: 1,
            last_exit_code: Some(3),
            next_start_at: Some("2026-01-01T00:00:02Z".to_owned()),
        }),
    }
}

pub async fn list(State(world): Shared) -> Json<CommandList> {
    let commands = world.lock().expect("the world").commands.clone();
    Json(CommandList { commands })
}

fn find(world: &super::World, reference: &str) -> Option<usize> {
    world
        .commands
        .iter()
        .position(|command| command.id == reference || command.name.as_deref() == Some(reference))
}

fn missing(reference: &str) -> Response {
    refusal(404, "not_found", &format!("no command '{reference}' runs"))
}

pub async fn get(State(world): Shared, Path((_, reference)): Path<(String, String)>) -> Response {
    let world = world.lock().expect("the world");
    match find(&world, &reference) {
        Some(at) => Json(world.commands[at].clone()).into_response(),
        None => missing(&reference),
    }
}

pub async fn signal(
    State(world): Shared,
    Path((_, reference)): Path<(String, String)>,
    Json(body): Json<CommandSignal>,
) -> Response {
    let mut world = world.lock().expect("the world");
    let Some(at) = find(&world, &reference) else {
        return missing(&reference);
    };
    world.signals.push(body.signal);
    let number = body.signal.number();
    world.commands[at].exit_code = Some(128 + i32::try_from(number).expect("small"));
    world.commands[at].state = CommandState::Exited;
    if let Some(listener) = &world.listener {
        let _ = listener.send(body.signal);
    }
    StatusCode::NO_CONTENT.into_response()
}

pub async fn attach(
    State(world): Shared,
    Path((_, reference)): Path<(String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let number = |name: &str| {
        query
            .get(name)
            .map(|n| n.parse::<usize>().expect("a number"))
    };
    let (offset, tail) = (number("offset"), number("tail_bytes"));
    assert_ne!(offset.is_some(), tail.is_some(), "one of them: {query:?}");
    // Programs have written nothing when a client attaches to their tail.
    let offset = offset.unwrap_or_default();
    assert_eq!(query["encoding"], "base64");
    let (command, attaches, signalled) = {
        let mut world = world.lock().expect("the world");
        let Some(at) = find(&world, &reference) else {
            return missing(&reference);
        };
        let (sender, signalled) = tokio::sync::mpsc::unbounded_channel();
        world.listener = Some(sender);
        world.attaches.push(offset);
        (world.commands[at].clone(), world.attaches.len(), signalled)
    };
    upgrade.on_upgrade(async move |socket| play(socket, command, offset, attaches, signalled).await)
}

async fn say(socket: &mut WebSocket, message: &AttachServerMessage) {
    let text = serde_json::to_string(message).expect("JSON");
    let _ = socket.send(Message::text(text)).await;
}

async fn play(
    mut socket: WebSocket,
    command: Command,
    offset: usize,
    attaches: usize,
    mut signalled: tokio::sync::mpsc::UnboundedReceiver<client::types::ProcessSignal>,
) {
    let stdout = |data: &[u8], next: usize| AttachServerMessage::Stdout {
        data: STANDARD.encode(data),
        next_offset: next as u64,
    };
    let cmd = command.cmd.clone();
    let count: usize = command
        .args
        .first()
        .map_or(0, |n| n.parse().expect("a number"));
    let attached = AttachServerMessage::Attached {
        command: Box::new(command),
    };
    say(&mut socket, &attached).await;
    let exit_code = match cmd.as_str() {
        "count" => {
            let all: String = (0..count).map(|n| format!("{n}\n")).collect();
            // In the middle of a line.
            let end = if attaches == 1 {
                all.len() / 2
            } else {
                all.len()
            };
            for at in offset..end {
                let byte = &all.as_bytes()[at..=at];
                say(&mut socket, &stdout(byte, at + 1)).await;
            }
            if end < all.len() {
                return;
            }
            3
        }
        "cat" => {
            let mut next = offset;
            loop {
                let text = match socket.next().await {
                    Some(Ok(Message::Text(text))) => text,
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    _ => return,
                };
                match serde_json::from_str(&text).expect("a frame") {
                    ExecClientMessage::Stdin { data, encoding } => {
                        assert_eq!(encoding, Encoding::Base64);
                        let data = STANDARD.decode(data).expect("base64");
                        next += data.len();
                        say(&mut socket, &stdout(&data, next)).await;
                    }
                    ExecClientMessage::StdinClose => break 0,
                    _ => {}
                }
            }
        }
        _ => {
            let Some(signal) = signalled.recv().await else {
                return;
            };
            128 + i32::try_from(signal.number()).expect("small")
        }
    };
    let exit = AttachServerMessage::Exit {
        exit_code,
        signal: None,
    };
    say(&mut socket, &exit).await;
    let _ = socket.send(Message::Close(None)).await;
}
