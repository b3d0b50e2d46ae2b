//! Lets answers to uploads arrive that come before the upload is complete, at each server on its
//! way. If a server answered and closed the connection with data unread, the kernel would reset it,
//! and the client might never see the answer. So what a handler leaves unread is read and thrown
//! away for a while.
//!
//! A client that asked whether to send its body (`Expect: 100-continue`) is told to only when a
//! handler begins to read.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures::Stream;
use http::header::{CONTENT_LENGTH, EXPECT};
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

/// Smaller bodies are in the socket's buffer anyway, and need no task of their own.
const SMALL: u64 = 64 * 1024;
const LINGER: Duration = Duration::from_secs(5);

type Piece = Result<Frame<Bytes>, axum::Error>;

/// Reads request bodies to their end after the response: a layer for [`axum::middleware::from_fn`].
pub async fn linger(request: Request, next: Next) -> Response {
    let length = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let is_small = match length {
        Some(length) => length <= SMALL,
        None => request.body().is_end_stream(),
    };
    if is_small {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let size = body.size_hint();
    // One piece at a time: a handler that does not read stops the sender.
    let (sender, receiver) = mpsc::channel(1);
    let (start, started) = oneshot::channel();
    let is_asked = parts.headers.contains_key(EXPECT);
    tokio::spawn(async move {
        match started.await {
            Ok(()) => carry(body, sender).await,
            Err(_) if is_asked => {}
            Err(_) => discard(body).await,
        }
    });
    let body = CarriedBody {
        start: Some(start),
        pieces: ReceiverStream::new(receiver),
        size,
    };
    next.run(Request::from_parts(parts, Body::new(body))).await
}

async fn carry(mut body: Body, sender: mpsc::Sender<Piece>) {
    loop {
        let piece = tokio::select! {
            piece = next_piece(&mut body) => piece,
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
    discard(body).await;
}

async fn discard(mut body: Body) {
    let _ = tokio::time::timeout(LINGER, async {
        while let Some(Ok(_)) = next_piece(&mut body).await {}
    })
    .await;
}

async fn next_piece(body: &mut Body) -> Option<Piece> {
    std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

/// Body that a handler reads: the same frames, of the same length.
struct CarriedBody {
    /// Sender that is told when the handler begins to read.
    start: Option<oneshot::Sender<()>>,
    pieces: ReceiverStream<Piece>,
    size: SizeHint,
}

impl http_body::Body for CarriedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        if let Some(start) = self.start.take() {
            // An error means that the body has ended, which the pieces tell.
            let _ = start.send(());
        }
        Pin::new(&mut self.pieces).poll_next(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}
