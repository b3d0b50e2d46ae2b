//! Serves HTTP/1 and HTTP/2 on a TCP listener, within bounds that hold before anything is known of
//! the client.
//!
//! ```text
//! accept → table:  admitted, or closed at once; a full table evicts the connection of the lowest rank
//!        → stream: passes bytes, notes the first one, breaks when the connection is evicted
//!        → serve:  hyper, with the deadlines below
//! ```
//!
//! Each connection is in one of these states ([`table`]), from the one that is evicted first to the
//! one that never is:
//!
//! | state | until |
//! |---|---|
//! | new: no request has come | `first_byte`, and `request_head` for the whole first request |
//! | idle: no request is in flight, and none had credentials | `idle`; HTTP/1 `request_head` |
//! | busy: a request is in flight, or the protocol was switched; none had credentials | the peer ends it |
//! | idle, trusted | `idle`; HTTP/1 `request_head` |
//! | busy, trusted | the peer ends it |
//!
//! A handler that has found valid credentials calls [`ConnectionHandle::trust`]. So clients
//! without any can only take places from others without. Nothing is kept on disk; a connection ends
//! with the process.

mod body;
mod stream;
mod table;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use body::GuardedBody;
use stream::AdmittedStream;
use table::{ConnectionTable, Due, RefusalLog};

pub use table::ConnectionHandle;

/// Time without traffic after which TCP sends keepalives. With Linux's nine probes, a peer that is
/// gone is noticed after about two minutes, also on a half-closed connection.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum size of a request line with its header fields, bytes.
const MAX_HEADERS: usize = 64 * 1024;
/// Maximum number of concurrent requests on one HTTP/2 connection.
const MAX_STREAMS: u32 = 250;
/// Pause after the system refused a connection: usually it has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Timeout for the graceful shutdown of an idle connection.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// Share of the process's open files that connections may take: a connection to a port takes two,
/// the rest is for disks, databases and VMs.
const OPEN_FILES_SHARE: usize = 4;

/// Bounds of one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Connections at once; at most a quarter of the files that the process may open.
    pub connections: usize,
    /// Connections at once from one address (IPv6: one /64) on which no request had credentials.
    /// Loopback has no such bound: what connects from there is a proxy or another part of the
    /// installation.
    pub per_address: Option<usize>,
    /// Timeout from the connection to its first byte.
    pub first_byte: Duration,
    /// Timeout of the head of a request, and between two requests of an HTTP/1 connection.
    pub request_head: Duration,
    /// Timeout without a request in flight.
    pub idle: Duration,
}

impl ListenerLimits {
    pub const DEFAULT_CONNECTIONS: usize = 16 * 1024;
    /// An eighth: many users can stand behind one address.
    pub const DEFAULT_PER_ADDRESS: usize = 2 * 1024;

    fn within_open_files(self) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let files = limit.map_or(usize::MAX, |files| {
            usize::try_from(files).unwrap_or(usize::MAX)
        });
        let connections = self.connections.min((files / OPEN_FILES_SHARE).max(1));
        if connections < self.connections {
            tracing::info!(
                connections,
                files,
                "the limit of open files bounds the connections (ulimit -n, LimitNOFILE=)"
            );
        }
        Self {
            connections,
            ..self
        }
    }
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            connections: Self::DEFAULT_CONNECTIONS,
            per_address: Some(Self::DEFAULT_PER_ADDRESS),
            first_byte: Duration::from_secs(10),
            request_head: Duration::from_secs(60),
            idle: Duration::from_secs(5 * 60),
        }
    }
}

/// Serves until `stopping`, and then until every request that is in flight has its answer. Requests
/// carry [`ConnectInfo`] and a [`ConnectionHandle`].
pub async fn serve(
    listener: TcpListener,
    service: Router,
    limits: ListenerLimits,
    stopping: impl Future<Output = ()>,
) {
    let limits = limits.within_open_files();
    let table = Arc::new(ConnectionTable::new(limits));
    let builder = Arc::new(connection_builder(&limits));
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let mut refusals = RefusalLog::default();
    let mut stopping = std::pin::pin!(stopping);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stopping => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match table.admit(peer.ip(), Instant::now()) {
            Ok(connection) => {
                set_socket_options(&stream);
                let serving = Serving {
                    service: service.clone(),
                    builder: Arc::clone(&builder),
                    stop: stop.clone(),
                };
                tasks.spawn(serving.run(stream, peer, connection));
            }
            Err(refused) => refusals.note_refusal(refused, peer, &limits),
        }
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

fn connection_builder(limits: &ListenerLimits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request_head)
        .max_buf_size(MAX_HEADERS)
        // Some programs read names in the spelling of browsers only.
        .preserve_header_case(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEADERS).unwrap_or(u32::MAX));
    builder
}

/// Sets socket options, so that small answers leave at once, and dead peers are noticed. A socket
/// that refuses either works all the same.
fn set_socket_options(stream: &TcpStream) {
    set_keepalive(stream);
    let _ = stream.set_nodelay(true);
}

/// Enables TCP keepalives, which find a peer that is gone. Also for connections that this process
/// makes.
pub fn set_keepalive(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE_INTERVAL);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// Task that serves one connection.
struct Serving {
    service: Router,
    builder: Arc<Builder<TokioExecutor>>,
    stop: CancellationToken,
}

impl Serving {
    async fn run(self, stream: TcpStream, peer: SocketAddr, handle: ConnectionHandle) {
        let stream = AdmittedStream::new(stream, handle.clone());
        let service = service_fn(|request| {
            handle_request(self.service.clone(), request, peer, handle.clone())
        });
        let mut connection = std::pin::pin!(
            self.builder
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
        );
        let mut closing = None;
        loop {
            let due = closing.unwrap_or_else(|| handle.next_deadline());
            tokio::select! {
                // An error ends only this connection, and its peer sees it.
                _ = connection.as_mut() => break,
                () = self.stop.cancelled(), if closing.is_none() => {
                    connection.as_mut().graceful_shutdown();
                    // Requests in flight are waited for as long as the caller of `serve` waits.
                    let _ = connection.as_mut().await;
                    break;
                }
                () = tokio::time::sleep_until(due) => match handle.check_deadlines(Instant::now()) {
                    _ if closing.is_some() => return,
                    Due::Later => {}
                    Due::NoRequest => return,
                    Due::Idle => {
                        connection.as_mut().graceful_shutdown();
                        closing = Some(Instant::now() + SHUTDOWN_TIMEOUT);
                    }
                },
            }
        }
        // After a switch of protocols an `Upgraded` owns the stream. Otherwise the stream is dropped at
        // the end of this function, and its entry in the table with it.
        handle.note_switched();
    }
}

async fn handle_request(
    service: Router,
    mut request: http::Request<Incoming>,
    peer: SocketAddr,
    handle: ConnectionHandle,
) -> Result<Response<GuardedBody>, std::convert::Infallible> {
    let in_flight = handle.begin_request();
    request.extensions_mut().insert(ConnectInfo(peer));
    request.extensions_mut().insert(handle);
    let response = service.oneshot(request.map(Body::new)).await?;
    Ok(response.map(|body| GuardedBody::new(body, in_flight)))
}

#[cfg(test)]
mod tests;
