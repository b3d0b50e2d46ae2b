//! Connections to ports of sandboxes, through the agent of their host ([`host_rpc::tunnel`] has the
//! protocol). Each has a connection to the agent of its own, which is used for nothing else before
//! or after.

use std::time::Duration;

use bytes::Bytes;
use host_rpc::tunnel;
use http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use model::SandboxId;
use tokio::net::TcpStream;

use super::{CONNECT_TIMEOUT, Host, MAX_MESSAGE, RESUME_TIMEOUT};
use crate::error::Error;

/// Time for the guest to take the connection, after it was resumed.
const GUEST_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a refusal.
const MAX_REFUSAL: usize = 64 * 1024;

/// Reason why there is no connection to a port.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    #[error("{text}")]
    Refused { status: StatusCode, text: String },
    #[error(transparent)]
    Unreachable(Error),
}

impl Host {
    /// Connects to a port of a sandbox, which the host resumes for it if its spec allows that.
    ///
    /// # Errors
    /// The host's refusal; that the host cannot be reached.
    pub async fn open_tunnel(&self, id: &SandboxId, port: u16) -> Result<Upgraded, TunnelError> {
        let limit = RESUME_TIMEOUT + GUEST_CONNECT_TIMEOUT;
        tokio::time::timeout(limit, self.connect_tunnel(id, port))
            .await
            .unwrap_or_else(|_| {
                let text = format!(
                    "the sandbox took longer than {} s to answer",
                    limit.as_secs()
                );
                Err(TunnelError::Refused {
                    status: StatusCode::GATEWAY_TIMEOUT,
                    text,
                })
            })
    }

    async fn connect_tunnel(&self, id: &SandboxId, port: u16) -> Result<Upgraded, TunnelError> {
        let broken = |error: hyper::Error| {
            TunnelError::Unreachable(self.unreachable("the connection broke").because(error))
        };
        let token = self
            .connection
            .token()
            .map_or_else(|| self.read_token(), Ok)
            .map_err(TunnelError::Unreachable)?;
        let stream = self.connect_tcp().await.map_err(TunnelError::Unreachable)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        tokio::spawn(connection.with_upgrades());
        let authority = self
            .addr
            .url
            .parse::<Uri>()
            .ok()
            .and_then(|uri| uri.authority().cloned());
        let request = Request::get(tunnel::tunnel_path(id, port))
            .header(
                HOST,
                authority
                    .as_ref()
                    .map_or("", |authority| authority.as_str()),
            )
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, tunnel::PROTOCOL);
        let request = runtime::trace::headers()
            .into_iter()
            .fold(request, |request, (name, value)| {
                request.header(name, value)
            })
            .body(Empty::<Bytes>::new())
            .map_err(|error| {
                TunnelError::Unreachable(self.unreachable("its token is no text").because(error))
            })?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        match answer.status() {
            StatusCode::SWITCHING_PROTOCOLS => hyper::upgrade::on(answer).await.map_err(broken),
            StatusCode::UNAUTHORIZED => Err(TunnelError::Unreachable(
                self.unreachable("it refuses our token"),
            )),
            status => Err(TunnelError::Refused {
                status,
                text: refusal(answer.into_body()).await,
            }),
        }
    }

    async fn connect_tcp(&self) -> Result<TcpStream, Error> {
        let unreachable = || {
            self.unreachable("is wrenn-agent running? Try again when it is (CP_HOST_AGENT_ADDR)")
        };
        let uri: Uri = self
            .addr
            .url
            .parse()
            .map_err(|error: http::uri::InvalidUri| unreachable().because(error))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let connect = TcpStream::connect((host, uri.port_u16().unwrap_or(80)));
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .map_err(|error| unreachable().because(error))?;
        let stream = stream.map_err(|error| unreachable().because(error))?;
        listener::set_keepalive(&stream);
        // That it is a little slower is no reason to refuse.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// Reads the text of a refusal, which can in part come from a guest.
async fn refusal(body: Incoming) -> String {
    let body = Limited::new(body, MAX_REFUSAL)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes);
    let json: Option<serde_json::Value> = body
        .ok()
        .and_then(|body| serde_json::from_slice(&body).ok());
    let text = json
        .as_ref()
        .and_then(|json| json["message"].as_str())
        .unwrap_or("the host agent gave no reason");
    text.chars().take(MAX_MESSAGE).collect()
}
