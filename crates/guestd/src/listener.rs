//! The socket that the agent serves on.
//!
//! Everything inside the guest can connect too, token or not, and each connection costs the agent
//! memory and a descriptor. So those from inside are counted, and beyond [`INSIDE_LIMIT`] a new one
//! is closed at once: whatever user processes do, the host still gets in.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::connections::Ends;

/// Maximum number of connections from inside the guest at once.
pub const INSIDE_LIMIT: usize = 512;

/// Listener for `axum::serve`; see the module.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    inside: Arc<Semaphore>,
}

impl Listener {
    pub fn new(socket: TcpListener) -> Self {
        Self {
            socket,
            inside: Arc::new(Semaphore::new(INSIDE_LIMIT)),
        }
    }
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let (stream, peer) = axum::serve::Listener::accept(&mut self.socket).await;
            let place = if is_inside(&stream, peer) {
                let Ok(place) = self.inside.clone().try_acquire_owned() else {
                    continue;
                };
                Some(place)
            } else {
                None
            };
            // Answers are small and wanted now.
            drop(stream.set_nodelay(true));
            if let Err(e) = notice_silence(&stream) {
                tracing::info!("a peer that is gone will not be noticed: {e}");
            }
            return (
                Connection {
                    stream,
                    _place: place,
                },
                peer,
            );
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Seconds of silence after which the kernel asks the peer, seconds between questions, and
/// questions in vain that end the connection. A peer from before a restore answers none, or by a
/// reset.
const SILENCE: u32 = 60;
const AGAIN: u32 = 15;
const IN_VAIN: u32 = 4;

fn notice_silence(stream: &TcpStream) -> nix::Result<()> {
    setsockopt(stream, sockopt::TcpKeepIdle, &SILENCE)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &AGAIN)?;
    setsockopt(stream, sockopt::TcpKeepCount, &IN_VAIN)?;
    setsockopt(stream, sockopt::KeepAlive, &true)
}

/// Returns true if the peer is on this machine: packets to an own address come from an own address.
fn is_inside(stream: &TcpStream, peer: SocketAddr) -> bool {
    peer.ip().is_loopback() || stream.local_addr().is_ok_and(|own| own.ip() == peer.ip())
}

/// The connection that a request came on, for handlers that must tell it from others.
#[derive(Debug, Clone, Copy)]
pub struct Caller(pub Option<Ends>);

impl Connected<IncomingStream<'_, Listener>> for Caller {
    fn connect_info(incoming: IncomingStream<'_, Listener>) -> Self {
        let remote = *incoming.remote_addr();
        Self(
            incoming
                .io()
                .stream
                .local_addr()
                .ok()
                .map(|local| Ends { local, remote }),
        )
    }
}

/// A connection, with the place that it takes until it is closed.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    _place: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
