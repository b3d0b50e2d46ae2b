//! Takes connections and serves each of them, within bounds: how many there are, how long a client may take for its
//! header fields and how many bytes they may have, and how much one connection may ask for at a time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;

/// A dead client is noticed after about a minute.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Between two requests, and for the header fields of one.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a request line and its header fields.
const MAX_HEADERS: usize = 64 * 1024;
const MAX_STREAMS: u32 = 250;
/// Connections at once, whatever they do. Each holds memory and descriptors.
const MAX_CONNECTIONS: usize = 16 * 1024;
/// After the system has refused one: mostly it has no descriptors left.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves until `stopping`, and then until every request that is on its way has its answer.
pub(super) async fn serve(listener: TcpListener, service: Router, stopping: impl Future<Output = ()>) {
    let (builder, graceful) = (builder(), GracefulShutdown::new());
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut stopping = std::pin::pin!(stopping);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = &mut stopping => break,
        };
        let Some((stream, peer, place)) = accepted else { continue };
        let service = service.clone();
        let answer = service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            service.clone().oneshot(request.map(Body::new))
        });
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), answer).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // What breaks here is the client's connection, of which it knows.
            let _ = connection.await;
            drop(place);
        });
    }
    graceful.shutdown().await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            prepare(&stream);
            Some((stream, peer, place))
        }
        Err(error) => {
            tracing::warn!(%error, "a connection was not taken");
            tokio::time::sleep(PAUSE).await;
            None
        }
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_TIMEOUT).max_buf_size(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEADERS).unwrap_or(u32::MAX));
    builder
}

/// Small answers leave at once, and dead clients are noticed. A socket that refuses either works all the same.
fn prepare(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
    let _ = stream.set_nodelay(true);
}
