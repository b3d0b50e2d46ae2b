//! Connections to ports of sandboxes: raw bytes of one TCP connection, on an HTTP/1.1 connection to the host agent that
//! was upgraded (RFC 9110, 7.8).
//!
//! ```text
//! GET /tunnel/sb-…/8080        →
//! Upgrade: wrenn-tunnel           401 token   404 no such sandbox   409 it does not run
//! Authorization: Bearer …         429 too many   502 nothing listens   503 no room for it   504 no answer
//!                              ←  101, and bytes both ways from here on
//! ```
//!
//! The end of either direction is passed on, so half-closed connections work. A refusal has a JSON body with `message`.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use http::header::UPGRADE;
use model::SandboxId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Name of the protocol in `Upgrade`.
pub const PROTOCOL: &str = "wrenn-tunnel";
/// The agent's route, as axum writes it.
pub const ROUTE: &str = "/tunnel/{sandbox_id}/{port}";
/// Most connections to one sandbox at once, for each process on the way: each holds some descriptors and 128 KiB.
pub const MAX_CONNECTIONS: usize = 2048;
/// After one side has ended its direction: how long the other may be silent. Whoever left without a word looks like
/// one who only waits for an answer.
pub const HALF_CLOSED_IDLE: Duration = Duration::from_secs(120);

const BUFFER: usize = 64 * 1024;

/// Path of a request for a tunnel.
#[must_use]
pub fn path(id: &SandboxId, port: u16) -> String {
    format!("/tunnel/{id}/{port}")
}

/// Whether a request or an answer switches to this protocol.
#[must_use]
pub fn is_switch(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes()))
}

/// Carries bytes both ways until both sides have ended their direction, one of them breaks, or one has ended and the
/// other says nothing for `idle`.
///
/// # Errors
/// What broke; `TimedOut`.
pub async fn carry<A, B>(a: A, b: B, idle: Duration) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let moved = AtomicU64::new(0);
    let ((from_a, to_a), (from_b, to_b)) = (tokio::io::split(a), tokio::io::split(b));
    let (mut there, mut back) = (Box::pin(one_way(from_a, to_b, &moved)), Box::pin(one_way(from_b, to_a, &moved)));
    tokio::select! {
        ended = &mut there => { ended?; while_moving(back, &moved, idle).await }
        ended = &mut back => { ended?; while_moving(there, &moved, idle).await }
    }
}

async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
        moved.fetch_add(1, Ordering::Relaxed);
    }
}

async fn while_moving(
    mut rest: impl Future<Output = io::Result<()>> + Unpin,
    moved: &AtomicU64,
    idle: Duration,
) -> io::Result<()> {
    loop {
        let before = moved.load(Ordering::Relaxed);
        match tokio::time::timeout(idle, &mut rest).await {
            Ok(ended) => return ended,
            Err(_) if moved.load(Ordering::Relaxed) == before => return Err(io::ErrorKind::TimedOut.into()),
            Err(_) => {}
        }
    }
}

/// How many connections there are to each sandbox, so that one cannot take all descriptors of the process.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Mutex<HashMap<SandboxId, usize>>>);

/// One connection that is counted, until this is dropped.
#[derive(Debug)]
pub struct Counted {
    connections: Connections,
    id: SandboxId,
}

impl Connections {
    /// `None`: there are [`MAX_CONNECTIONS`] already.
    #[must_use]
    pub fn begin(&self, id: &SandboxId) -> Option<Counted> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(id.clone()).or_default();
        if *count >= MAX_CONNECTIONS {
            return None;
        }
        *count += 1;
        Some(Counted { connections: self.clone(), id: id.clone() })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut all = self.connections.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn ends_of_directions_are_passed_on() {
        let ((mut client, a), (b, mut server)) = (duplex(8), duplex(8));
        let carried = tokio::spawn(carry(a, b, Duration::from_secs(60)));
        let question = async {
            client.write_all(b"a question that does not fit").await.unwrap();
            client.shutdown().await.unwrap();
        };
        let mut heard = String::new();
        let (_, read) = tokio::join!(question, server.read_to_string(&mut heard));
        assert_eq!((read.unwrap(), heard.as_str()), (28, "a question that does not fit"));
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "answer");
        carried.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_left_without_a_word_is_not_waited_for_for_ever() {
        let ((client, a), (b, _server)) = (duplex(8), duplex(8));
        drop(client);
        let ended = carry(a, b, Duration::from_secs(60)).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn connections_are_counted_while_they_live() {
        let (connections, id) = (Connections::default(), SandboxId::random());
        let mut all: Vec<_> = (0..MAX_CONNECTIONS).map(|_| connections.begin(&id).unwrap()).collect();
        assert!(connections.begin(&id).is_none() && connections.begin(&SandboxId::random()).is_some());
        all.pop();
        assert!(connections.begin(&id).is_some());
        drop(all);
        assert!(connections.0.lock().unwrap().is_empty());
    }
}
