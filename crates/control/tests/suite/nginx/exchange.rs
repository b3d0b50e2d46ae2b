//! One request and its answer through a proxy, as both ends saw them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::corpus::Case;
use crate::raw::read_head;

/// For an end that does not close its connection.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of one connection, or a proxy's own words.
const OWN_FIELDS: [&[u8]; 11] = [
    b"connection:",
    b"date:",
    b"host:",
    b"keep-alive:",
    b"server:",
    b"x-forwarded-for:",
    b"x-forwarded-host:",
    b"x-forwarded-port:",
    b"x-forwarded-proto:",
    b"x-real-ip:",
    b"trailer:",
];

const ANEW: [&[u8]; 3] = [b"content-length", b"content-type", b"transfer-encoding"];

/// First line, other lines in order of their names, body; nothing where nothing came.
type Lines = Vec<Vec<u8>>;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// As the guest saw it.
    pub request: Lines,
    /// As the client saw it.
    pub answer: Lines,
}

#[derive(Debug, Default)]
struct State {
    answer: Vec<u8>,
    request: Lines,
}

/// A server that answers as the case of now wants.
pub struct Guest {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Guest {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    let Some(request) = read_message(&mut stream, true).await else {
                        return;
                    };
                    let answer = {
                        let mut state = state.lock().unwrap();
                        state.request = request;
                        state.answer.clone()
                    };
                    let _ = stream.write_all(&answer).await;
                });
            }
        });
        Self { address, state }
    }

    pub async fn pass(&self, case: &Case, proxy: SocketAddr) -> Passed {
        *self.state.lock().unwrap() = State {
            answer: case.answer.clone(),
            request: Vec::new(),
        };
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        stream.write_all(&case.request).await.unwrap();
        let is_head = case.request.starts_with(b"HEAD ");
        let mut answer = read_message(&mut stream, is_head).await.unwrap_or_default();
        while answer.first().is_some_and(|line| {
            line.starts_with(b"HTTP/1.1 1") && !line.starts_with(b"HTTP/1.1 101")
        }) {
            answer = read_message(&mut stream, is_head).await.unwrap_or_default();
        }
        // The words of an error of a proxy's own are its own.
        let mut request = std::mem::take(&mut self.state.lock().unwrap().request);
        if request.is_empty() || case.answer_is_refused(&answer) {
            let status = answer
                .first()
                .and_then(|line| line.get(9..10))
                .unwrap_or_default();
            answer = vec![[status, b"xx"].concat()];
        }
        if case
            .request
            .to_ascii_lowercase()
            .windows(18)
            .any(|part| part == b"transfer-encoding:")
        {
            // nginx tells the length where it has read the whole body in time.
            request.retain(|line| {
                !line.starts_with(b"transfer-encoding:") && !line.starts_with(b"content-length:")
            });
        }
        Passed { request, answer }
    }
}

/// Reads one message. `without_length`: it has no body unless it says so.
async fn read_message(stream: &mut TcpStream, without_length: bool) -> Option<Lines> {
    let head = tokio::time::timeout(PATIENCE, read_head(stream))
        .await
        .ok()??;
    let text = String::from_utf8_lossy(&head).to_lowercase();
    let first = text.lines().next().unwrap_or_default();
    let is_bodiless = ["http/1.1 204", "http/1.1 304", "http/1.1 1"]
        .iter()
        .any(|start| first.starts_with(start));
    let length = text.lines().find_map(|line| {
        line.strip_prefix("content-length:")?
            .trim()
            .parse::<usize>()
            .ok()
    });
    let is_answer = first.starts_with("http/");
    let body = if is_bodiless || (is_answer && without_length) {
        Vec::new()
    } else if text
        .lines()
        .any(|line| line.starts_with("transfer-encoding:"))
    {
        read_chunks(stream).await
    } else if let Some(length) = length {
        let mut body = vec![0; length];
        let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut body)).await;
        if matches!(read, Ok(Ok(_))) {
            body
        } else {
            b"cut off".to_vec()
        }
    } else if is_answer {
        let mut body = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut body)).await;
        body
    } else {
        Vec::new()
    };
    Some(normal(&head, &body))
}

async fn read_chunks(stream: &mut TcpStream) -> Vec<u8> {
    let read = async {
        let mut body = Vec::new();
        loop {
            let line = read_line(stream).await?;
            let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
            let size = usize::from_str_radix(std::str::from_utf8(size).ok()?.trim(), 16).ok()?;
            if size == 0 {
                while !read_line(stream).await?.is_empty() {}
                return Some(body);
            }
            let start = body.len();
            body.resize(start + size, 0);
            stream.read_exact(&mut body[start..]).await.ok()?;
            read_line(stream).await?;
        }
    };
    tokio::time::timeout(PATIENCE, read)
        .await
        .ok()
        .flatten()
        .unwrap_or_else(|| b"cut off".to_vec())
}

async fn read_line(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await.ok()?);
    }
    line.truncate(line.len() - 2);
    Some(line)
}

/// Without what belongs to one connection, fields in the order of their names.
fn normal(head: &[u8], body: &[u8]) -> Lines {
    let head = head.strip_suffix(b"\r\n\r\n").unwrap_or(head);
    let mut lines = head
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line).to_vec());
    let mut all = vec![lines.next().unwrap_or_default()];
    let mut fields: Lines = lines
        .map(|mut line| {
            let name = line.iter().position(|byte| *byte == b':').unwrap_or(0);
            // Proxies write these anew.
            let is_anew = ANEW
                .iter()
                .any(|anew| line[..name].eq_ignore_ascii_case(anew));
            line[..name]
                .iter_mut()
                .filter(|_| is_anew)
                .for_each(|byte| *byte = byte.to_ascii_lowercase());
            let value = line[name..]
                .strip_prefix(b":")
                .unwrap_or_default()
                .trim_ascii()
                .to_vec();
            [&line[..name], b": ", &value].concat()
        })
        .filter(|line| {
            !OWN_FIELDS
                .iter()
                .any(|own| line.to_ascii_lowercase().starts_with(own))
        })
        .collect();
    fields.sort_by_key(|line| name_of(line));
    all.append(&mut fields);
    all.push([b"body: ", body].concat());
    all
}

fn name_of(line: &[u8]) -> Vec<u8> {
    line.split(|byte| *byte == b':')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase()
}
