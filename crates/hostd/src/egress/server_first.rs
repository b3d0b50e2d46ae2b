//! Protocols in which the server speaks first, such as SSH, SMTP, FTP and MySQL, at ports 80 and
//! 443, where everything comes through the proxy. They name no name, so they are judged by their
//! address, as at all other ports.
//!
//! ```text
//!   guest sends nothing, or neither TLS nor HTTP ──→ its address is one of an allowed name's? ──→ connect, and send the
//!   server nothing ──→ it speaks ──→ bytes are passed on
//!                      it does not, or like HTTP or TLS ──→ denied, with a line in the log
//! ```
//! This is safe because the server speaks before it has received a byte: web servers, where one
//! address has many names, never do, so no guest reaches another name's pages this way. Bytes of a
//! client that are neither TLS nor HTTP are not sent to a server that waits for them: web servers
//! accept more than what the proxy takes for HTTP.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{EgressPolicy, RuleCheck, reset};

/// Time for the server to send its first byte.
const SERVER_TIMEOUT: Duration = Duration::from_secs(5);
/// First bytes of web servers that answer a missing request with an error.
const HTTP: &[u8] = b"HTTP/";
/// Types of TLS records (RFC 8446, section 5.1).
const TLS_RECORDS: std::ops::RangeInclusive<u8> = 0x14..=0x18;

/// Serves a guest that has sent something which is neither TLS nor HTTP.
pub(super) async fn serve_other(
    policy: &EgressPolicy,
    stream: TcpStream,
    to: SocketAddr,
) -> io::Result<()> {
    if !policy.reaches_address(to.ip()) {
        policy.events.log_denied(&format!(
            "TCP to {to} that is neither TLS nor HTTP, at an address that no allowed name has"
        ));
        reset(&stream);
        return Ok(());
    }
    let server = policy.connect(to).await.inspect_err(|_| reset(&stream))?;
    if !speaks(&server).await {
        let why =
            "neither TLS nor HTTP, and its server does not speak first: its name cannot be told";
        policy
            .events
            .log_denied(&format!("TCP to {to} that is {why}"));
        reset(&stream);
        return Ok(());
    }
    copy_allowed(policy, stream, server, to).await
}

/// Connects to the server of a guest that sends nothing, and waits until one of them does. Returns
/// the connection if it was the server.
pub(super) async fn wait_for_server(
    policy: &EgressPolicy,
    stream: &TcpStream,
    to: SocketAddr,
) -> Option<TcpStream> {
    let waited = async {
        let server = policy.connect(to).await.ok()?;
        speaks(&server).await.then_some(server)
    };
    let mut first = [0];
    tokio::select! {
        server = waited => server,
        _ = stream.peek(&mut first) => None,
    }
}

/// Returns true if the server sends something, without having received anything, that is neither
/// HTTP nor TLS. Waits for [`SERVER_TIMEOUT`] at most.
async fn speaks(server: &TcpStream) -> bool {
    let mut first = [0; HTTP.len()];
    let Ok(Ok(length)) = timeout(SERVER_TIMEOUT, server.peek(&mut first)).await else {
        return false;
    };
    let is_web = HTTP.starts_with(&first[..length]) || TLS_RECORDS.contains(&first[0]);
    length > 0 && !is_web
}

/// Passes on bytes of both sides, as long as the rules allow the address.
pub(super) async fn copy_allowed(
    policy: &EgressPolicy,
    mut stream: TcpStream,
    mut server: TcpStream,
    to: SocketAddr,
) -> io::Result<()> {
    let copied = tokio::io::copy_bidirectional(&mut stream, &mut server);
    if policy
        .while_allowed(
            RuleCheck::AtOnce,
            |_| policy.reaches_address(to.ip()),
            copied,
        )
        .await
        .is_none()
    {
        policy.events.log_denied(&format!("TCP to {to}"));
        reset(&stream);
    }
    Ok(())
}
