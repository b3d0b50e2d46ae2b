//! Ports of sandboxes over HTTP: a reverse proxy in front of the API, on the same listener.
//!
//! ```text
//! request → address: which port of which sandbox?   none: the API
//!         → access:  open, key or link?             403, or 401 below /v1
//!         → forward: headers cleaned, pooled connections through tunnels of the host agent
//!         ← confine: what an answer may not do to our origin or to others'
//! ```
//!
//! What comes back is hostile: it is parsed by hyper, its size in memory is bounded, its redirects
//! are passed on and never followed, and the only place that a request can go to is the port of the
//! sandbox that it named. Nothing is kept on disk; links are checked against a secret of the store,
//! so that every control plane knows those of the others.

mod access;
pub mod address;
mod answer;
mod confine;
mod connector;
mod forward;
pub mod guest_tokens;
mod headers;
pub mod link;
mod retry;
mod text;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use host_rpc::tunnel::Connections;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::app::App;
use crate::hosts::Hosts;
use address::Address;
use answer::Failure;
use connector::Connector;
use guest_tokens::GuestTokens;
use link::Signer;

pub use access::{LINK_PARAMETER, TOKEN_HEADER};

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

/// Where users find ports, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSettings {
    /// Ports are at `{port}-{sandbox}.{domain}`.
    pub domain: String,
    /// Whether somebody set it, so that the names are known to lead here from everywhere.
    pub is_domain_set: bool,
    /// As in `https://wrenn.example.com`, where that is not what requests say.
    pub public_url: Option<String>,
}

impl PortSettings {
    /// Returns true where browsers say which page made a request (Fetch Metadata), without which a
    /// link in a cookie would work for every page.
    #[must_use]
    pub fn takes_cookies(&self) -> bool {
        let is_secure = self
            .public_url
            .as_deref()
            .is_some_and(|url| url.starts_with("https://"));
        is_secure || self.domain == "localhost" || self.domain.ends_with(".localhost")
    }
}

impl Default for PortSettings {
    fn default() -> Self {
        Self {
            domain: "localhost".to_owned(),
            is_domain_set: false,
            public_url: None,
        }
    }
}

/// What the proxy works with.
#[derive(Debug)]
pub struct Ports {
    pub settings: PortSettings,
    pub signer: Signer,
    pub guest_tokens: GuestTokens,
    client: Client<Connector, Body>,
    /// Makes a connection for each request.
    client_unpooled: Client<Connector, Body>,
    /// For gRPC alone, which knows no other version.
    client_h2: Client<Connector, Body>,
    pub connections: Connections,
}

impl Ports {
    #[must_use]
    pub fn new(settings: PortSettings, secret: [u8; 32], hosts: &Hosts) -> Self {
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
        let client = builder.build(connector.clone());
        let client_unpooled = builder.pool_max_idle_per_host(0).build(connector.clone());
        let client_h2 = builder
            .pool_max_idle_per_host(POOL_SIZE)
            .http2_only(true)
            .build(connector);
        let signer = Signer::new(secret);
        let guest_tokens = GuestTokens::default();
        let connections = Connections::default();
        Self {
            settings,
            signer,
            guest_tokens,
            client,
            client_unpooled,
            client_h2,
            connections,
        }
    }
}

/// A layer around everything else: requests to ports leave here, all others go on.
pub async fn intercept(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match Address::of(&request, &app.ports.settings.domain) {
        Ok(None) => next.run(request).await,
        Ok(Some(address)) => forward::serve(&app, address, request).await,
        Err(wrong) => Failure::invalid(wrong).respond(&request),
    }
}
