//! Ways in: standard input and output, and HTTP.

use std::sync::Arc;
use std::time::Duration;

use client::Client;
use rmcp::ServiceExt;
use rmcp::transport::StreamableHttpServerConfig;
use rmcp::transport::streamable_http_server::StreamableHttpService;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use tokio_util::sync::CancellationToken;

use crate::server::SandboxServer;
use crate::session::{Options, Session};

/// Time without a request after which an HTTP session is over: its user may be away for a while.
pub const IDLE: Duration = Duration::from_hours(2);

/// The service below `/mcp`. Requests carry their [`Caller`](crate::Caller) as an extension.
pub type HttpService = StreamableHttpService<SandboxServer, LocalSessionManager>;

/// Serves one client over standard input and output, until it closes them. Nothing else may write
/// there.
///
/// # Errors
/// A sandbox of the options is not there; the client speaks another protocol.
pub async fn serve_stdio(
    client: Client,
    options: Options,
    stopping: impl Future<Output = ()>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let server = SandboxServer::new(Session::of_program(client, options));
    let session = Arc::clone(&server.session);
    let serving = async {
        session.attach_given().await?;
        let service = server.serve(rmcp::transport::stdio()).await?;
        service.waiting().await?;
        Ok(())
    };
    let served = tokio::select! {
        served = serving => served,
        () = stopping => Ok(()),
    };
    session.end().await;
    served
}

/// Builds the service for HTTP. `shutdown` ends its sessions.
///
/// The name in `Host` is not checked as rmcp does by default: that protects servers without
/// authentication, and here each request needs a key.
#[must_use]
pub fn http_service(shutdown: CancellationToken) -> HttpService {
    let mut sessions = LocalSessionManager::default();
    sessions.session_config.keep_alive = Some(IDLE);
    let config = StreamableHttpServerConfig::default()
        .disable_allowed_hosts()
        .with_cancellation_token(shutdown);
    let server = || Ok(SandboxServer::new(Session::default()));
    StreamableHttpService::new(server, sessions.into(), config)
}
