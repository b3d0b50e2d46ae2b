//! Programs that the fake server plays:
//!
//! - `print OUT ERR CODE`: writes the two and exits.
//! - `cat`: gives its input back. `bytes`: writes each byte value once. `size`: writes each size of its terminal.
//! - `sleep`: until it is told to stop. `flood`: writes until nobody reads any more.
//! - `vanish`: the stream ends without an exit. Anything else does not exist.

use axum::Json;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::types::{Encoding, ExecClientMessage, ExecRequest, ExecResult, ExecServerMessage, TerminalSize};

use super::{Shared, World, refusal};

pub async fn exec(State(world): Shared, Path(id): Path<String>, Json(request): Json<ExecRequest>) -> Response {
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
    };
    Json(result).into_response()
}

pub async fn stream(State(world): Shared, Path(id): Path<String>, upgrade: WebSocketUpgrade) -> Response {
    if !world.lock().expect("the world").sandboxes.contains_key(&id) {
        return refusal(404, "not_found", &format!("no sandbox {id}"));
    }
    upgrade.on_upgrade(move |socket| async move { play(Peer(socket), &world).await.unwrap_or_default() })
}

struct Peer(WebSocket);

impl Peer {
    /// `None` when the client is gone.
    async fn hear(&mut self) -> Option<ExecClientMessage> {
        loop {
            match self.0.recv().await?.ok()? {
                Message::Text(text) => return Some(serde_json::from_str(&text).expect("a client message")),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    async fn say(&mut self, message: &ExecServerMessage) -> Option<()> {
        let text = serde_json::to_string(message).expect("JSON");
        self.0.send(Message::text(text)).await.ok()
    }

    async fn stdout(&mut self, data: &[u8]) -> Option<()> {
        self.say(&ExecServerMessage::Stdout { data: STANDARD.encode(data) }).await
    }
}

async fn play(mut peer: Peer, world: &std::sync::Mutex<World>) -> Option<()> {
    let ExecClientMessage::Start { cmd, args, encoding, terminal, stdin, .. } = peer.hear().await? else {
        panic!("the first message is start");
    };
    assert_eq!(encoding, Encoding::Base64);
    peer.say(&ExecServerMessage::Start { pid: 42 }).await?;
    let argument = |index: usize| args.get(index).cloned().unwrap_or_default();
    let exit_code = match cmd.as_str() {
        "print" => {
            peer.stdout(argument(0).as_bytes()).await?;
            peer.say(&ExecServerMessage::Stderr { data: STANDARD.encode(argument(1)) }).await?;
            argument(2).parse().unwrap_or(0)
        }
        "bytes" => {
            peer.stdout(&(0..=255).collect::<Vec<u8>>()).await?;
            0
        }
        "cat" if stdin => cat(&mut peer).await?,
        "cat" => 0,
        "size" => sizes(&mut peer, terminal?).await?,
        "sleep" => sleep(&mut peer, world).await?,
        "flood" => loop {
            peer.stdout(&[b'x'; 32 * 1024]).await?;
            world.lock().expect("the world").flooded += 32 * 1024;
        },
        "vanish" => return None,
        _ => {
            let data = format!("{cmd}: no such program");
            return peer.say(&ExecServerMessage::Error { code: "not_found".to_owned(), data }).await;
        }
    };
    peer.say(&ExecServerMessage::Exit { exit_code }).await
}

async fn cat(peer: &mut Peer) -> Option<i32> {
    loop {
        match peer.hear().await? {
            ExecClientMessage::Stdin { data, encoding: Encoding::Base64 } => {
                peer.say(&ExecServerMessage::Stdout { data }).await?;
            }
            ExecClientMessage::StdinClose => return Some(0),
            other => panic!("{other:?}"),
        }
    }
}

async fn sizes(peer: &mut Peer, mut size: TerminalSize) -> Option<i32> {
    loop {
        peer.stdout(format!("{}x{}\n", size.cols, size.rows).as_bytes()).await?;
        match peer.hear().await? {
            ExecClientMessage::Resize { size: changed } => size = changed,
            _ => return Some(0),
        }
    }
}

async fn sleep(peer: &mut Peer, world: &std::sync::Mutex<World>) -> Option<i32> {
    peer.stdout(b"asleep\n").await?;
    while let Some(message) = peer.hear().await {
        if matches!(message, ExecClientMessage::Stop) {
            world.lock().expect("the world").stopped += 1;
            return Some(137);
        }
    }
    None
}
