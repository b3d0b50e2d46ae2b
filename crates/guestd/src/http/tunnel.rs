//! `GET /tunnel/{port}`: a connection to a program that listens on the guest's own loopback only,
//! for the host, which reaches every other program by itself. After the 101 the connection carries
//! bytes of that program.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use axum::extract::{Path, Request};
use axum::response::{IntoResponse, Response};
use guest_rpc::http::TUNNEL_PROTOCOL;
use http::StatusCode;
use http::header::{CONNECTION, UPGRADE};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::error::HttpError;

/// Loopback answers at once, unless the backlog of the program is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Handles `/tunnel/{port}`.
pub async fn tunnel(Path(port): Path<u16>, mut request: Request) -> Result<Response, HttpError> {
    let asked = request
        .headers()
        .get(UPGRADE)
        .is_some_and(|to| to.as_bytes() == TUNNEL_PROTOCOL.as_bytes());
    if !asked || port == 0 {
        return Err(HttpError::bad_request(format!(
            "ask for /tunnel/PORT with the header Upgrade: {TUNNEL_PROTOCOL}"
        )));
    }
    let mut stream = connect(port).await?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(host) = upgrade.await else { return };
        // However it ends, both ends are closed then.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(host), &mut stream).await;
    });
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, TUNNEL_PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

async fn connect(port: u16) -> Result<TcpStream, HttpError> {
    for address in [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ] {
        if let Ok(Ok(stream)) =
            tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((address, port))).await
        {
            // That it is a little slower is no reason to refuse.
            let _ = stream.set_nodelay(true);
            return Ok(stream);
        }
    }
    Err(HttpError::new(
        StatusCode::BAD_GATEWAY,
        format!("nothing listens on port {port}"),
    ))
}
