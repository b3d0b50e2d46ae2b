//! Carries a TCP connection in a WebSocket. Each direction waits for its reader, so nothing piles up.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::app::now_ms;

/// Bytes of one frame of the client.
pub(super) const MAX_READ: usize = 4 * 1024 * 1024;
/// Bytes of one frame of ours.
const FRAME: usize = 64 * 1024;
/// Keeps proxies from taking the connection for dead.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Without any frame of the client, answers to pings included.
const SILENCE_MS: i64 = 2 * 60 * 1000;
/// For the client to take the last frame and to close.
const GOODBYE: Duration = Duration::from_secs(5);

/// Until both directions have ended, or the WebSocket or the connection has.
pub(super) async fn carry(socket: WebSocket, connection: impl AsyncRead + AsyncWrite + Unpin) {
    let (mut sink, mut frames) = socket.split();
    let (reader, writer) = tokio::io::split(connection);
    let heard = AtomicI64::new(now_ms());
    let both = async { tokio::try_join!(to_guest(&mut frames, writer, &heard), from_guest(&mut sink, reader, &heard)) };
    if both.await.is_err() {
        return;
    }
    // Closing with frames unread would reset the connection, and the client might never see the last one.
    let _ = tokio::time::timeout(GOODBYE, async {
        let _ = sink.send(Message::Close(None)).await;
        while let Some(Ok(_)) = frames.next().await {}
    })
    .await;
}

/// Returns when the client has ended its direction.
async fn to_guest(
    frames: &mut SplitStream<WebSocket>,
    mut guest: impl AsyncWrite + Unpin,
    heard: &AtomicI64,
) -> Result<(), ()> {
    let mut open = true;
    while open {
        let frame = frames.next().await.ok_or(())?.map_err(drop)?;
        heard.store(now_ms(), Ordering::Relaxed);
        match frame {
            Message::Binary(bytes) if bytes.is_empty() => {
                guest.shutdown().await.map_err(drop)?;
                open = false;
            }
            Message::Binary(bytes) => guest.write_all(&bytes).await.map_err(drop)?,
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Text(_) | Message::Close(_) => return Err(()),
        }
    }
    Ok(())
}

/// Returns when the guest has ended its direction.
async fn from_guest(
    sink: &mut SplitSink<WebSocket, Message>,
    mut guest: impl AsyncRead + Unpin,
    heard: &AtomicI64,
) -> Result<(), ()> {
    let mut ping = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    let mut buffer = vec![0; FRAME];
    loop {
        let frame = tokio::select! {
            read = guest.read(&mut buffer) => match read.map_err(drop)? {
                0 => break,
                length => Message::Binary(Bytes::copy_from_slice(&buffer[..length])),
            },
            _ = ping.tick() => {
                if now_ms() - heard.load(Ordering::Relaxed) > SILENCE_MS {
                    return Err(());
                }
                Message::Ping(Bytes::new())
            }
        };
        sink.send(frame).await.map_err(drop)?;
    }
    sink.send(Message::Binary(Bytes::new())).await.map_err(drop)
}
