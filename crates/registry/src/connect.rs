//! Connections to addresses that were checked. A name is looked up for each connection, so that
//! what it means a moment later makes no difference.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;

use crate::policy::{RegistryPolicy, host_of};

/// Time for a connection to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects as the operator allows.
#[derive(Debug, Clone)]
pub(crate) struct CheckedConnector {
    pub(crate) policy: Arc<RegistryPolicy>,
}

/// A name that leads to an address which is not allowed. The address is in the log alone: it would
/// tell users what names of the operator's networks mean.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} leads to an address that is not of the public internet; the operator of the host can allow its network with \
     AGENT_REGISTRY_NETWORKS"
)]
pub(crate) struct ForbiddenAddress(String);

impl Service<Uri> for CheckedConnector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let policy = Arc::clone(&self.policy);
        Box::pin(async move { connect_checked(&policy, &uri).await.map(TokioIo::new) })
    }
}

async fn connect_checked(policy: &RegistryPolicy, uri: &Uri) -> io::Result<TcpStream> {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let is_tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let host = host_of(authority);
    let found = tokio::net::lookup_host((host, port)).await?;
    let found: Vec<SocketAddr> = found.collect();
    let may_connect = |address: &SocketAddr| policy.may_connect(address.ip());
    let mut failure = match found.first() {
        None => io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")),
        Some(first) => {
            if !found.iter().any(may_connect) {
                tracing::info!(host, address = %first.ip(), "a registry leads to an address that is not allowed");
            }
            io::Error::new(
                io::ErrorKind::PermissionDenied,
                ForbiddenAddress(authority.to_owned()),
            )
        }
    };
    for address in found.into_iter().filter(may_connect) {
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => failure = error,
            Err(_) => failure = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failure)
}
