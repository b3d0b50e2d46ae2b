//! The proxy in a sandbox's namespace to which the kernel redirects connections to TCP ports 80 and
//! 443, where a rule has a name. It reads the name that the connection asks for, without decrypting
//! anything, and connects to the original destination if the rules allow that name and the address
//! is one of the name's.
//!
//! ```text
//!   connection ─┬─ begins like TLS ──→ name of the ClientHello ──→ bytes are passed on
//!               ├─ begins like HTTP/1 ──→ the name of each request ([`super::http`])
//!               └─ else, or sends nothing ──→ does its server speak first? ([`super::server_first`])
//! ```
//! What is not allowed is reset, or answered with 403 where it speaks HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::denial::denial_text;
use super::{EgressPolicy, HELLO_TIMEOUT, RuleCheck, http, reset, server_first, tls};

/// Most connections of one sandbox at one time.
pub(crate) const CONNECTIONS: usize = 512;
/// Time after which a guest that has sent nothing may be waiting for its server to speak first.
const SILENCE: Duration = Duration::from_secs(1);
/// First bytes of an SSH client (RFC 4253, section 4.2), with which no method of HTTP begins.
const SSH: &[u8; 4] = b"SSH-";
/// Pause after an accept that failed, as with too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// First byte of a TLS record with a handshake in it (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 0x16;

/// Serves connections until the future is dropped; then all of them end.
pub(super) async fn serve(policy: Arc<EgressPolicy>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            policy.events.log_denied(&format!(
                "more than {CONNECTIONS} connections to ports 80 and 443 at one time"
            ));
            reset(&stream);
            continue;
        };
        let policy = Arc::clone(&policy);
        connections.spawn(async move {
            if let Err(error) = pass_on(&policy, stream).await {
                tracing::debug!(slot = policy.context.slot.number(), %error, "a connection through the proxy ended");
            }
            drop(place);
        });
    }
}

async fn pass_on(policy: &Arc<EgressPolicy>, stream: TcpStream) -> io::Result<()> {
    let to = original_destination(&stream)?;
    stream.set_nodelay(true)?;
    match tokio::time::timeout(SILENCE, first_byte(&stream)).await {
        Ok(Some(first)) => spoken(policy, stream, to, first).await,
        Ok(None) => {
            reset(&stream);
            Ok(())
        }
        Err(_) => silent(policy, stream, to).await,
    }
}

/// Serves a connection whose guest has sent its first byte.
async fn spoken(
    policy: &Arc<EgressPolicy>,
    stream: TcpStream,
    to: SocketAddr,
    first: u8,
) -> io::Result<()> {
    match first {
        HANDSHAKE => secure(policy, stream, to).await,
        first if first.is_ascii_uppercase() && !begins_with(&stream, SSH).await => {
            http::serve(policy, stream, to).await
        }
        _ => server_first::serve_other(policy, stream, to).await,
    }
}

/// Serves a connection whose guest has sent nothing for [`SILENCE`]: it waits for its server, or
/// will send something later.
async fn silent(policy: &Arc<EgressPolicy>, stream: TcpStream, to: SocketAddr) -> io::Result<()> {
    let first = if policy.reaches_address(to.ip()) {
        match server_first::wait_for_server(policy, &stream, to).await {
            Some(server) => return server_first::copy_allowed(policy, stream, server, to).await,
            None => tokio::time::timeout(HELLO_TIMEOUT, first_byte(&stream)).await,
        }
    } else {
        tokio::time::timeout(HELLO_TIMEOUT, first_byte(&stream)).await
    };
    match first {
        Ok(Some(first)) => spoken(policy, stream, to, first).await,
        _ => {
            policy
                .events
                .log_denied(&format!("TCP to {to} that says nothing, and no name"));
            reset(&stream);
            Ok(())
        }
    }
}

async fn first_byte(stream: &TcpStream) -> Option<u8> {
    let mut first = [0];
    matches!(stream.peek(&mut first).await, Ok(1)).then_some(first[0])
}

/// Returns true if the first bytes are those, as far as they have come.
async fn begins_with(stream: &TcpStream, bytes: &[u8; 4]) -> bool {
    let mut first = [0; 4];
    let length = stream.peek(&mut first).await.unwrap_or_default();
    length > 0 && bytes.starts_with(&first[..length])
}

/// Returns the address to which the guest connected, before the kernel redirected it here.
fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let to = if stream.local_addr()?.is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    to?.as_socket()
        .ok_or_else(|| io::Error::other("it was going to no IP address"))
}

async fn secure(policy: &EgressPolicy, mut stream: TcpStream, to: SocketAddr) -> io::Result<()> {
    let hello = tokio::time::timeout(HELLO_TIMEOUT, tls::read_hello(&mut stream)).await??;
    let name = hello.name.unwrap_or_default();
    if !policy.is_allowed(&name, to.ip()).await {
        policy.events.log_denied(&denial_text("TLS", &name, to));
        reset(&stream);
        return Ok(());
    }
    // The rules are watched while connecting, too: the server decides how long that takes.
    let passed = async {
        let mut server = policy.connect(to).await?;
        tokio::io::AsyncWriteExt::write_all(&mut server, &hello.bytes).await?;
        // A connection may end in any way; that is no error of the proxy.
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
        Ok(())
    };
    let passed = policy
        .while_allowed(
            RuleCheck::AtOnce,
            |rules| rules.name_reaches(&name, to.ip()),
            passed,
        )
        .await;
    if passed.is_none() {
        policy.events.log_denied(&denial_text("TLS", &name, to));
    }
    if !matches!(passed, Some(Ok(()))) {
        reset(&stream);
    }
    passed.unwrap_or(Ok(()))
}
