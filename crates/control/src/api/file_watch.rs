//! `/v1/sandboxes/{id}/files/watch`: changes below a directory over a WebSocket.
//!
//! A client that does not read stops the call to the host, upon which changes stay in the guest;
//! where its kernel has no room for more, the client is told that some were lost.

use std::sync::Arc;

use api_types::WatchServerMessage;
use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use futures::stream::SplitStream;
use futures::{SinkExt, StreamExt};
use model::{ErrorCode, SandboxId};
use serde::Deserialize;
use utoipa::IntoParams;

use super::exec_stream::{PING_INTERVAL, Sink, say_goodbye, send, text_frame, upgrade_of};
use super::extract::{Id, Query};
use crate::app::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{ChangeStream, FileChange, FileEvent, GuestPath};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WatchQuery {
    /// Directory. Relative paths start at the image's working directory, else at the user's home.
    #[param(min_length = 1, max_length = 4096)]
    path: String,
    /// Also all directories below, and those that are made later. Default false.
    #[serde(default)]
    recursive: bool,
    /// User in the guest; the template's default user where absent.
    user: Option<String>,
}

/// Watch a directory
///
/// A WebSocket with text frames, `WatchServerMessage`: first `started`, from which on every change
/// is reported, last `ended` or `error`. Frames of the client are ignored. The watch counts as use of
/// the sandbox. A client that reads too slowly misses changes and is told so (`lost`). When the
/// sandbox is paused, the last frame is an `error` with `invalid_state`: watch again, and list.
#[utoipa::path(
    get, path = "/{id}/files/watch", tag = "files",
    params(WatchQuery),
    responses(
        (status = 101, description = "The WebSocket is open"),
        (status = 403, description = "The user may not look there"),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
        (status = 504, description = "The guest did not answer in time"),
    )
)]
pub async fn watch_files(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(query): Query<WatchQuery>,
    upgrade: std::result::Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response> {
    let upgrade = upgrade_of(upgrade)?;
    let WatchQuery {
        path,
        recursive,
        user,
    } = query;
    let path = GuestPath { path, user };
    let changes = app.watch_dir(&principal, &id, path, recursive).await?;
    Ok(upgrade.on_upgrade(move |socket| session(app, id, changes, socket)))
}

async fn session(app: Arc<App>, id: SandboxId, mut changes: ChangeStream, socket: WebSocket) {
    let (mut sink, mut frames) = socket.split();
    let last = tokio::select! {
        last = write_changes(&mut changes, &mut sink) => last,
        () = wait_until_gone(&mut frames) => return,
        () = app.shutdown.cancelled() => Err(Error::shutting_down()),
    };
    let last = match last {
        Ok(Some(ended)) => ended,
        // The client is gone.
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(sandbox = %id, error = error.chain(), "watch ended");
            WatchServerMessage::Error {
                code: error.code.as_str().to_owned(),
                data: error.message,
            }
        }
    };
    drop(changes);
    if let Some(last) = text_frame(&last) {
        say_goodbye(&mut sink, &mut frames, last).await;
    }
}

/// Reads what the client sends, until it is gone.
async fn wait_until_gone(frames: &mut SplitStream<WebSocket>) {
    while let Some(Ok(frame)) = frames.next().await {
        if matches!(frame, Message::Close(_)) {
            return;
        }
    }
}

/// Writes changes to the client. Returns the last message; `None` when the client is gone.
async fn write_changes(
    changes: &mut ChangeStream,
    sink: &mut Sink,
) -> Result<Option<WatchServerMessage>> {
    if send(sink, &WatchServerMessage::Started).await.is_none() {
        return Ok(None);
    }
    let mut ping = tokio::time::interval(PING_INTERVAL);
    loop {
        let event = tokio::select! {
            event = changes.next() => event?,
            _ = ping.tick() => {
                if sink.send(Message::Ping(bytes::Bytes::new())).await.is_err() {
                    return Ok(None);
                }
                continue;
            }
        };
        let messages = match event {
            Some(FileEvent::Changes(changes)) => changes.into_iter().map(message).collect(),
            Some(FileEvent::Lost(data)) => vec![WatchServerMessage::Lost { data }],
            Some(FileEvent::Ended(data)) => return Ok(Some(WatchServerMessage::Ended { data })),
            None => {
                return Err(Error::new(
                    ErrorCode::AgentError,
                    "the host agent ended the watch; watch again",
                ));
            }
        };
        for message in messages {
            if send(sink, &message).await.is_none() {
                return Ok(None);
            }
        }
    }
}

fn message(change: FileChange) -> WatchServerMessage {
    match change {
        FileChange::Create { path, is_directory } => {
            WatchServerMessage::Create { path, is_directory }
        }
        FileChange::Write { path } => WatchServerMessage::Write { path },
        FileChange::Remove { path, is_directory } => {
            WatchServerMessage::Remove { path, is_directory }
        }
        FileChange::Rename {
            from,
            path,
            is_directory,
        } => WatchServerMessage::Rename {
            from,
            path,
            is_directory,
        },
        FileChange::Chmod { path, is_directory } => {
            WatchServerMessage::Chmod { path, is_directory }
        }
    }
}
