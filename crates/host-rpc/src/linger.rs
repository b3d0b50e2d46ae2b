//! Lets refusals of uploads arrive, at each server on an upload's way. If one answered an upload and closed the
//! connection with data unread, the kernel would reset it, and the client might never see the answer. So what a
//! handler leaves unread is read and thrown away for a while.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header::CONTENT_LENGTH;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Smaller bodies are in the socket's buffer anyway, and need no task of their own.
const SMALL: u64 = 64 * 1024;
const LINGER: Duration = Duration::from_secs(5);

type Piece = Result<Bytes, axum::Error>;

/// A layer for [`axum::middleware::from_fn`].
pub async fn linger(request: Request, next: Next) -> Response {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let is_small = match length {
        Some(length) => length <= SMALL,
        None => http_body::Body::is_end_stream(request.body()),
    };
    if is_small {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    // One piece at a time: whoever does not read stops the sender.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(carry(body.into_data_stream(), sender));
    let body = Body::from_stream(ReceiverStream::new(receiver));
    next.run(Request::from_parts(parts, body)).await
}

async fn carry(mut body: impl Stream<Item = Piece> + Unpin, sender: mpsc::Sender<Piece>) {
    loop {
        let piece = tokio::select! {
            piece = body.next() => piece,
            () = sender.closed() => break,
        };
        let Some(piece) = piece else { return };
        let broke = piece.is_err();
        if sender.send(piece).await.is_err() {
            break;
        }
        if broke {
            return;
        }
    }
    let _ = tokio::time::timeout(LINGER, async { while let Some(Ok(_)) = body.next().await {} }).await;
}
