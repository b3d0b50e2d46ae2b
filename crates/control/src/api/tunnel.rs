//! Carries a TCP connection in a WebSocket. Each direction waits for its reader, so nothing piles
//! up, and a reader may take as long as it likes.
//!
//! A client that is gone is noticed by TCP keep-alive (the listener's) and not by missing answers
//! to pings: a client whose reader is slow does not read our pings either.

use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes of one frame of the client.
pub(super) const MAX_READ: usize = 4 * 1024 * 1024;
/// Bytes of one frame of ours.
const FRAME: usize = 64 * 1024;
/// Interval of pings, which keep proxies from taking the connection for dead.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Time for the client to take the last frame and to close.
const GOODBYE: Duration = Duration::from_secs(5);

/// Signal that no more frames are read.
#[derive(Debug)]
struct ConnectionEnded;

/// The client's direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Open,
    /// The client ended it.
    Ended,
    /// The guest takes no more bytes. It may still send an answer.
    Refused,
}

/// Carries bytes until both directions have ended, or the WebSocket or the connection has.
pub(super) async fn carry(socket: WebSocket, connection: impl AsyncRead + AsyncWrite + Unpin) {
    let (sink, frames) = socket.split();
    carry_frames(sink, frames, connection).await;
}

async fn carry_frames(
    mut sink: impl Sink<Message> + Unpin,
    mut frames: impl Stream<Item = Result<Message, axum::Error>> + Unpin,
    connection: impl AsyncRead + AsyncWrite + Unpin,
) {
    let (reader, writer) = tokio::io::split(connection);
    let client_ended = Notify::new();
    {
        let mut from_client = std::pin::pin!(to_guest(&mut frames, writer, &client_ended));
        let ended = tokio::select! {
            ConnectionEnded = &mut from_client => return,
            ended = from_guest(&mut sink, reader) => ended,
        };
        if ended.is_err() {
            return;
        }
        tokio::select! {
            ConnectionEnded = &mut from_client => return,
            () = client_ended.notified() => {}
        }
    }
    // Closing with frames unread would reset the connection, and the client might never see the
    // last one.
    let _ = tokio::time::timeout(GOODBYE, async {
        let _ = sink.send(Message::Close(None)).await;
        while let Some(Ok(_)) = frames.next().await {}
    })
    .await;
}

/// Carries the client's direction and notes its end. Goes on reading after that, so that a client
/// that leaves is noticed while the guest still works on its answer.
async fn to_guest(
    frames: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin),
    mut guest: impl AsyncWrite + Unpin,
    ended: &Notify,
) -> ConnectionEnded {
    let mut state = Direction::Open;
    while let Some(Ok(frame)) = frames.next().await {
        let is_end = matches!(&frame, Message::Binary(bytes) if bytes.is_empty());
        let written = match (frame, state) {
            (Message::Binary(_), Direction::Open) if is_end => guest.shutdown().await,
            (Message::Binary(bytes), Direction::Open) => guest.write_all(&bytes).await,
            (Message::Binary(_), Direction::Refused) | (Message::Ping(_) | Message::Pong(_), _) => {
                Ok(())
            }
            _ => return ConnectionEnded,
        };
        if written.is_err() {
            state = Direction::Refused;
        } else if is_end {
            state = Direction::Ended;
        }
        if is_end || written.is_err() {
            ended.notify_one();
        }
    }
    ConnectionEnded
}

/// Returns when the guest has ended its direction.
async fn from_guest(
    sink: &mut (impl Sink<Message> + Unpin),
    mut guest: impl AsyncRead + Unpin,
) -> Result<(), ConnectionEnded> {
    let mut ping = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    let mut buffer = vec![0; FRAME];
    loop {
        let frame = tokio::select! {
            read = guest.read(&mut buffer) => match read.map_err(|_| ConnectionEnded)? {
                0 => break,
                length => Message::Binary(Bytes::copy_from_slice(&buffer[..length])),
            },
            _ = ping.tick() => Message::Ping(Bytes::new()),
        };
        sink.send(frame).await.map_err(|_| ConnectionEnded)?;
    }
    sink.send(Message::Binary(Bytes::new()))
        .await
        .map_err(|_| ConnectionEnded)
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc;
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A client's ends of a WebSocket, and a guest's end of a connection.
    fn start() -> (mpsc::Sender<Message>, mpsc::Receiver<Message>, DuplexStream) {
        let (to_proxy, frames) = mpsc::channel(0);
        let (sink, from_proxy) = mpsc::channel(0);
        let (connection, guest) = duplex(8);
        tokio::spawn(carry_frames(sink, frames.map(Ok), connection));
        (to_proxy, from_proxy, guest)
    }

    fn binary(bytes: &[u8]) -> Message {
        Message::Binary(Bytes::copy_from_slice(bytes))
    }

    async fn next_bytes(from_proxy: &mut mpsc::Receiver<Message>) -> Bytes {
        loop {
            match from_proxy.next().await.unwrap() {
                Message::Binary(bytes) => return bytes,
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_readers_lose_no_byte() {
        let (mut to_proxy, mut from_proxy, mut guest) = start();
        let upload = tokio::spawn(async move {
            to_proxy.send(binary(&[7; 1000])).await.unwrap();
            to_proxy.send(binary(&[])).await.unwrap();
            to_proxy
        });
        tokio::time::sleep(HOUR).await;
        let mut all = Vec::new();
        guest.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, [7; 1000]);
        let _client = upload.await.unwrap();
        let answer = tokio::spawn(async move { guest.write_all(&[8; 1000]).await.unwrap() });
        tokio::time::sleep(HOUR).await;
        let mut heard = Vec::new();
        while heard.len() < 1000 {
            heard.extend_from_slice(&next_bytes(&mut from_proxy).await);
        }
        assert_eq!(heard, [8; 1000]);
        answer.await.unwrap();
        assert!(next_bytes(&mut from_proxy).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn guest_that_refuses_input_still_answers() {
        let (mut to_proxy, mut from_proxy, mut guest) = start();
        guest.write_all(b"no").await.unwrap();
        // All that the guest sent is there before its end of the connection goes.
        assert_eq!(next_bytes(&mut from_proxy).await, "no");
        drop(guest);
        for _ in 0..3 {
            to_proxy.send(binary(&[7; 100])).await.unwrap();
        }
        assert!(next_bytes(&mut from_proxy).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_leaves_ends_connection() {
        let (mut to_proxy, _from_proxy, mut guest) = start();
        to_proxy.send(binary(&[])).await.unwrap();
        let mut heard = Vec::new();
        guest.read_to_end(&mut heard).await.unwrap();
        to_proxy.send(Message::Close(None)).await.unwrap();
        let error = async { while guest.write_all(&[1; 100]).await.is_ok() {} };
        error.await;
    }
}
