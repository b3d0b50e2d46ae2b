//! Ports of sandboxes over HTTP: a reverse proxy in front of the API, on the same listener.
//!
//! ```text
//! request → address:            which port of which sandbox?   none: the API
//!         → access:             public, API key or signed URL? 403, or 401 below /v1
//!         → forward:            headers rewritten, pooled connections through tunnels of the host agent
//!         ← response_sanitizer: removes what may not act on our origin or on others'
//! ```
//!
//! Responses of guests are hostile: hyper parses them, their size in memory is bounded, redirects
//! are passed on and never followed, and a request goes nowhere but to the port of the sandbox that
//! it named. Nothing is kept on disk. Signed URLs are checked against a secret of the store, so
//! every control plane knows those of the others.
//!
//! Informational answers (1xx) but 100 and 101 are not passed on. hyper's client tells of them
//! (`hyper::ext::on_informational`), but a service of its server returns one answer for a request,
//! and has no way to send others before (hyper 1.12, `proto/h1/role.rs`).

mod access;
pub mod address;
mod connection_use;
mod connector;
mod error_response;
mod forward;
mod header_text;
mod health;
mod request_headers;
mod response_sanitizer;
mod retry;
mod signed_file;
mod token_route;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::app::App;
use crate::hosts::Hosts;
use address::PortAddress;
use connector::Connector;
use error_response::ProxyError;
use signed_file::UnnamedFile;
use token_route::UnnamedToken;

/// An open connection is activity of its sandbox, so an unused one is not kept for long; and not as
/// long as servers keep theirs (5 s: Node, uvicorn), so that a request rarely meets a connection
/// that is just being closed.
const POOL_IDLE: Duration = Duration::from_secs(3);
/// Connections that are kept for that time, for each port.
const POOL_SIZE: usize = 32;
/// Bytes of a guest's answer that are read ahead, its header fields included.
const MAX_BUFFER: usize = 256 * 1024;
/// Bytes of header fields of an answer over HTTP/2.
const MAX_H2_HEADERS: u32 = 64 * 1024;

/// State of the proxy. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Proxy {
    app: Arc<App>,
    clients: GuestClients,
}

/// HTTP clients whose connections are tunnels to ports.
#[derive(Debug, Clone)]
struct GuestClients {
    pooled: Client<Connector, Body>,
    /// Client that opens a connection for each request.
    unpooled: Client<Connector, Body>,
    /// Client for gRPC alone, which knows no other version.
    http2: Client<Connector, Body>,
}

impl Proxy {
    #[must_use]
    pub fn new(app: Arc<App>) -> Self {
        let clients = GuestClients::new(&app.hosts);
        Self { app, clients }
    }
}

impl GuestClients {
    fn new(hosts: &Hosts) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_SIZE)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .http1_max_buf_size(MAX_BUFFER)
            .http1_preserve_header_case(true)
            .http2_max_header_list_size(MAX_H2_HEADERS);
        let connector = Connector::new(hosts.clone());
        let pooled = builder.build(connector.clone());
        let unpooled = builder.pool_max_idle_per_host(0).build(connector.clone());
        let http2 = builder
            .pool_max_idle_per_host(POOL_SIZE)
            .http2_only(true)
            .build(connector);
        Self {
            pooled,
            unpooled,
            http2,
        }
    }
}

/// Serves requests to ports, and passes all others on: a layer around everything else.
pub async fn intercept(State(proxy): State<Proxy>, request: Request, next: Next) -> Response {
    match PortAddress::from_request(&request, &proxy.app.ports.settings.domain) {
        Ok(None) => serve_unnamed(&proxy, request, next).await,
        Ok(Some(address)) => forward::serve_request(&proxy, address, request).await,
        Err(wrong) => ProxyError::invalid(wrong.to_string()).to_response(&request),
    }
}

/// Serves a request that names no port: to the guest agent whose token it has or was signed with,
/// else to the API.
async fn serve_unnamed(proxy: &Proxy, request: Request, next: Next) -> Response {
    let app = &proxy.app;
    let found = if let Some(token) = UnnamedToken::from_request(&request) {
        token.find_address(app).await
    } else if let Some(file) = UnnamedFile::from_request(app, &request) {
        file.find_address(app).await
    } else if token_route::has_signature(request.uri()) {
        return ProxyError::unknown_signature().to_response(&request);
    } else {
        return next.run(request).await;
    };
    match found {
        Ok(address) => forward::serve_request(proxy, address, request).await,
        Err(refused) => refused.to_response(&request),
    }
}
