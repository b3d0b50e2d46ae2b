//! Connections to ports of sandboxes: raw bytes of one TCP connection, on an HTTP/1.1 connection to
//! the host agent that was upgraded (RFC 9110, 7.8).
//!
//! ```text
//! GET /tunnel/sb-…/8080        →
//! Upgrade: wrenn-tunnel           401 token   404 no such sandbox   409 it does not run
//! Authorization: Bearer …         429 too many   502 nothing listens   503 no room for it   504 no answer
//!                              ←  101, and bytes both ways from here on
//! ```
//!
//! The end of either direction is passed on, so half-closed connections work. A refusal has a JSON
//! body with `message`.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::UPGRADE;
use model::SandboxId;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Name of the protocol in `Upgrade`.
pub const PROTOCOL: &str = "wrenn-tunnel";
/// The agent's route, as axum writes it.
pub const ROUTE: &str = "/tunnel/{sandbox_id}/{port}";
/// Maximum number of connections to one sandbox at once, for each process on the way: each holds
/// some descriptors and 128 KiB.
pub const MAX_CONNECTIONS: usize = 2048;
/// Interval between two probes of a silent peer.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);
/// Time for a client that goes on sending to a server that is gone to see the answer.
const LINGER: Duration = Duration::from_secs(5);

const BUFFER: usize = 64 * 1024;

/// Returns the path of a request for a tunnel.
#[must_use]
pub fn tunnel_path(id: &SandboxId, port: u16) -> String {
    format!("/tunnel/{id}/{port}")
}

/// Returns true if a request or a response switches to this protocol.
#[must_use]
pub fn is_switch(headers: &HeaderMap) -> bool {
    headers
        .get(UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes()))
}

/// Carries bytes between a client and a server until both have ended their direction, or one of
/// them is gone. A side that waits, or that has ended its direction and waits for the answer, may
/// do so for as long as it likes. When the server is gone, or takes no more bytes, the client still
/// gets what the server has sent.
///
/// # Errors
/// The error of either connection.
pub async fn copy_both_ways<A, B>(client: A, server: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    carry_until(client, server, None).await
}

/// Carries bytes as [`copy_both_ways`] does. Once the server has ended its direction, the client has
/// `goodbye` to end its own.
///
/// # Errors
/// The error of either connection; `TimedOut`.
pub async fn carry_until<A, B>(client: A, server: B, goodbye: Option<Duration>) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let error = {
        let mut there = Box::pin(one_way(&mut from_client, &mut to_server));
        let mut back = Box::pin(one_way(&mut from_server, &mut to_client));
        tokio::select! {
            ended = &mut there => match ended {
                Ok(()) => return back.await.map_err(Broken::into_inner),
                Err(Broken::Reading(error)) => return Err(error),
                Err(Broken::Writing(error)) => {
                    let _ = back.await;
                    error
                }
            },
            ended = &mut back => match ended {
                Ok(()) => {
                    let rest = match goodbye {
                        Some(goodbye) => tokio::time::timeout(goodbye, there).await?,
                        None => there.await,
                    };
                    match rest {
                        Ok(()) => return Ok(()),
                        Err(Broken::Reading(error)) => return Err(error),
                        Err(Broken::Writing(error)) => error,
                    }
                }
                Err(Broken::Reading(error)) => error,
                Err(Broken::Writing(error)) => return Err(error),
            },
        }
    };
    // The server is gone. If the client's connection were closed with bytes unread, it would be
    // reset, and the client might never see the last bytes of the answer.
    let _ = tokio::time::timeout(LINGER, async {
        to_client.shutdown().await?;
        discard(&mut from_client).await
    })
    .await;
    Err(error)
}

/// End of a direction that failed.
enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

impl Broken {
    fn into_inner(self) -> io::Error {
        match self {
            Self::Reading(error) | Self::Writing(error) => error,
        }
    }
}

/// Carries one direction. While its source is silent, the destination is tried now and then: a peer
/// that has ended its own direction and is gone looks like one that waits for an answer, until its
/// host is asked (by TCP keep-alive) and resets the connection; reads do not tell of that any more,
/// writes of no bytes do.
async fn one_way(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<(), Broken> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = loop {
            match tokio::time::timeout(PROBE_INTERVAL, from.read(&mut buffer)).await {
                Ok(length) => break length.map_err(Broken::Reading)?,
                Err(_) => drop(to.write(&[]).await.map_err(Broken::Writing)?),
            }
        };
        if length == 0 {
            return to.shutdown().await.map_err(Broken::Writing);
        }
        to.write_all(&buffer[..length])
            .await
            .map_err(Broken::Writing)?;
    }
}

async fn discard(from: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    while from.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// Number of connections to each sandbox, limited so that one cannot take all descriptors of the
/// process.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Mutex<HashMap<SandboxId, usize>>>);

/// Connection that counts until this is dropped.
#[derive(Debug)]
pub struct Counted {
    connections: Connections,
    id: SandboxId,
}

impl Connections {
    /// Counts a connection; `None` if there are [`MAX_CONNECTIONS`] already.
    #[must_use]
    pub fn begin(&self, id: &SandboxId) -> Option<Counted> {
        let mut all = self.0.lock();
        let count = all.entry(id.clone()).or_default();
        if *count >= MAX_CONNECTIONS {
            return None;
        }
        *count += 1;
        Some(Counted {
            connections: self.clone(),
            id: id.clone(),
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut all = self.connections.0.lock();
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
        let carried = tokio::spawn(copy_both_ways(a, b));
        let question = async {
            client
                .write_all(b"a question that does not fit")
                .await
                .unwrap();
            client.shutdown().await.unwrap();
        };
        let mut heard = String::new();
        let (_, read) = tokio::join!(question, server.read_to_string(&mut heard));
        assert_eq!(
            (read.unwrap(), heard.as_str()),
            (28, "a question that does not fit")
        );
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "answer");
        carried.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn peer_that_left_is_noticed() {
        let ((client, a), (b, _server)) = (duplex(8), duplex(8));
        drop(client);
        let ended = copy_both_ways(a, b).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test(start_paused = true)]
    async fn half_closed_peer_gets_late_answer() {
        let ((mut client, a), (b, mut server)) = (duplex(8), duplex(8));
        let carried = tokio::spawn(copy_both_ways(a, b));
        client.shutdown().await.unwrap();
        let mut heard = String::new();
        server.read_to_string(&mut heard).await.unwrap();
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        server.write_all(b"late").await.unwrap();
        drop(server);
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "late");
        carried.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn early_answer_survives_broken_upload() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let guest = tokio::net::TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let (mut client, a) = duplex(64 * 1024);
        let carried = tokio::spawn(copy_both_ways(a, guest));
        client.write_all(&[1; 100_000]).await.unwrap();
        server.write_all(b"413").await.unwrap();
        // With bytes unread: the connection is reset.
        drop(server);
        let (mut reader, mut writer) = tokio::io::split(client);
        let upload = async { while writer.write_all(&[1; 100_000]).await.is_ok() {} };
        let mut heard = String::new();
        tokio::select! {
            () = upload => {}
            read = reader.read_to_string(&mut heard) => drop(read.unwrap()),
        }
        assert_eq!(heard, "413");
        drop((reader, writer));
        carried.await.unwrap().unwrap_err();
    }

    #[test]
    fn connections_are_counted_while_they_live() {
        let connections = Connections::default();
        let id = SandboxId::random();
        let mut all: Vec<_> = (0..MAX_CONNECTIONS)
            .map(|_| connections.begin(&id).unwrap())
            .collect();
        assert!(
            connections.begin(&id).is_none() && connections.begin(&SandboxId::random()).is_some()
        );
        all.pop();
        assert!(connections.begin(&id).is_some());
        drop(all);
        assert!(connections.0.lock().is_empty());
    }
}
