//! A guest agent for tests: it speaks the real protocol over TCP, runs nothing, and answers a call
//! wrongly where it is told to.
//!
//! Each connection carries one request. The head of the request names the [`Call`]; a [`Fault`]
//! that is set for it is played byte by byte on the bare connection, so that it can be anything,
//! also what no HTTP library would send.

mod answer;
mod call;
mod fault;
mod script;

use std::net::IpAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub use answer::HELLO;
pub use call::Call;
pub use fault::Fault;

/// Longest head of a request that is read.
const MAX_HEAD: usize = 64 * 1024;

/// Serves for as long as the runtime lives. `fault` tells by the address that was called which call
/// is answered wrongly, and how.
pub async fn serve<F>(listener: TcpListener, fault: F)
where
    F: Fn(IpAddr, Call) -> Option<Fault> + Send + Sync + 'static,
{
    let fault = Arc::new(fault);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let fault = Arc::clone(&fault);
        tokio::spawn(async move {
            // The caller may hang up at any time.
            let _ = answer_one(stream, &*fault).await;
        });
    }
}

async fn answer_one(
    mut stream: TcpStream,
    fault: &(impl Fn(IpAddr, Call) -> Option<Fault> + Sync),
) -> std::io::Result<()> {
    let address = stream.local_addr()?.ip();
    let (head, mut body) = read_head(&mut stream).await?;
    let Some(call) = Call::from_head(&head) else {
        return stream
            .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .await;
    };
    if let Some(fault) = fault(address, call) {
        return script::play_script(script::for_fault(call, fault), stream).await;
    }
    if has_body(&head) {
        read_body(&head, &mut body, &mut stream).await?;
    }
    stream
        .write_all(&answer::for_call(call).to_last_bytes())
        .await?;
    stream.shutdown().await
}

/// Returns the head of a request, and the bytes after it.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let body = read.split_off(end + 4);
            return Ok((read, body));
        }
        if read.len() > MAX_HEAD || stream.read_buf(&mut read).await? == 0 {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    }
}

fn header(head: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
}

fn has_body(head: &[u8]) -> bool {
    header(head, "content-length").is_some_and(|length| length != "0")
        || header(head, "transfer-encoding").is_some()
}

/// Reads a request's body to its end; the content does not matter.
async fn read_body(head: &[u8], body: &mut Vec<u8>, stream: &mut TcpStream) -> std::io::Result<()> {
    let length = header(head, "content-length").and_then(|length| length.parse().ok());
    loop {
        let whole = match length {
            Some(length) => body.len() >= length,
            None => body.ends_with(b"0\r\n\r\n"),
        };
        if whole || stream.read_buf(body).await? == 0 {
            return Ok(());
        }
    }
}
