//! Lets hyper's client with its pool reach ports of sandboxes. Its names are
//! `{sandbox}.h{number of the host}:{port}`, and they never leave this process: no name is ever
//! looked up.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use http::uri::PathAndQuery;
use hyper::upgrade::Upgraded;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use model::ErrorCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::Service;

use super::connection_use::ConnectionUse;
use crate::error::Error;
use crate::hosts::{Host, Hosts, TunnelError};
use crate::ports::PortTarget;

/// Connector to ports; see the module.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    hosts: Hosts,
}

/// Connection to a port of a sandbox. Notes what passes, for [`super::retry`].
#[derive(Debug)]
pub(super) struct NotedStream {
    stream: TokioIo<Upgraded>,
    used: Arc<ConnectionUse>,
}

impl Connector {
    pub(super) fn new(hosts: Hosts) -> Self {
        Self { hosts }
    }

    fn find(&self, uri: &Uri) -> Option<(Arc<Host>, PortTarget)> {
        let (id, host) = uri.host()?.split_once(".h")?;
        let host = self.hosts.all().get(host.parse::<usize>().ok()?)?;
        Some((
            Arc::clone(host),
            PortTarget {
                id: id.parse().ok()?,
                port: uri.port_u16()?,
            },
        ))
    }
}

/// Returns the URI of a path on a port of a sandbox on `host`; `None` if the host is not one of
/// `hosts`.
pub(super) fn uri(
    hosts: &Hosts,
    host: &Arc<Host>,
    target: &PortTarget,
    path: PathAndQuery,
) -> Option<Uri> {
    let number = hosts.all().iter().position(|one| Arc::ptr_eq(one, host))?;
    let authority = format!("{}.h{number}:{}", target.id, target.port);
    Uri::builder()
        .scheme("http")
        .authority(authority)
        .path_and_query(path)
        .build()
        .ok()
}

impl Service<Uri> for Connector {
    type Response = TokioIo<NotedStream>;
    type Error = TunnelError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, TunnelError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TunnelError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let found = self.find(&uri);
        Box::pin(async move {
            let nowhere = || {
                TunnelError::Unreachable(Error::new(
                    ErrorCode::InternalError,
                    "no port has such a name",
                ))
            };
            let (host, target) = found.ok_or_else(nowhere)?;
            let stream = TokioIo::new(host.open_tunnel(&target.id, target.port).await?);
            let used = Arc::default();
            Ok(TokioIo::new(NotedStream { stream, used }))
        })
    }
}

impl Connection for NotedStream {
    fn connected(&self) -> Connected {
        Connected::new().extra(Arc::clone(&self.used))
    }
}

impl AsyncRead for NotedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.used.note_received();
        }
        read
    }
}

impl AsyncWrite for NotedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.used.note_sent();
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.used.note_sent();
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}
