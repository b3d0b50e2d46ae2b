//! A server on loopback that answers as a test says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request: its line without the version, and its headers with names in lower case.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) headers: BTreeMap<String, String>,
}

/// An answer. `sent` bytes of the body are sent, and the connection is closed.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) sent: usize,
}

impl Answer {
    pub(crate) fn ok(body: &[u8]) -> Self {
        Self::new(200, body)
    }

    pub(crate) fn new(status: u16, body: &[u8]) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.to_vec(),
            sent: body.len(),
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A server that runs until the test ends.
pub(crate) struct FakeServer {
    pub(crate) name: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl FakeServer {
    /// Starts it. `answer` gets each request, and how many came before.
    pub(crate) async fn start(
        answer: impl Fn(&Asked, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&asked);
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let all = Arc::clone(&all);
                let answer = Arc::clone(&answer);
                tokio::spawn(async move { serve(stream, &all, &*answer).await });
            }
        });
        Self { name, asked }
    }

    /// Returns the requests that came.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    all: &Mutex<Vec<Asked>>,
    answer: &(dyn Fn(&Asked, usize) -> Answer + Send + Sync),
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let line = lines.next().unwrap_or_default().replace(" HTTP/1.1", "");
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let asked = Asked {
        line,
        headers: headers.collect(),
    };
    let before = {
        let mut all = all.lock().unwrap();
        all.push(asked.clone());
        all.len() - 1
    };
    let answer = answer(&asked, before);
    let mut text = format!(
        "HTTP/1.1 {} Test\r\nconnection: close\r\ncontent-length: {}\r\n",
        answer.status,
        answer.body.len()
    );
    for (name, value) in &answer.headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += "\r\n";
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.write_all(&answer.body[..answer.sent]).await;
    let _ = stream.shutdown().await;
}
