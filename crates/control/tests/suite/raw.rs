//! Bytes of HTTP as they stand on the wire: a client and servers that write what a test says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use testkit::host::FakeHost;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::Plane;

/// Reads a head, up to and with its empty line. `None` at the end of the connection.
pub async fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return None,
        }
    }
    Some(head)
}

pub async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // What came before a reset counts as well.
    let _ = stream.read_to_end(&mut all).await;
    all
}

/// A server in every sandbox of `host`, which hands each connection to `serve` with its number.
pub async fn start_server<F>(
    host: &FakeHost,
    port: u16,
    serve: impl Fn(usize, TcpStream) -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    host.world()
        .ports
        .insert(port, listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(number, stream));
            number += 1;
        }
    });
}

/// A server that notes what it reads, head by head, and answers with `answer`, then closes.
pub async fn start_recorder(
    host: &FakeHost,
    port: u16,
    answer: &'static [u8],
) -> Arc<Mutex<Vec<Vec<u8>>>> {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&heads);
    start_server(host, port, move |_, mut stream| {
        let noted = Arc::clone(&noted);
        async move {
            if let Some(head) = read_head(&mut stream).await {
                noted.lock().unwrap().push(head);
                let _ = stream.write_all(answer).await;
            }
        }
    })
    .await;
    heads
}

pub fn address(plane: &Plane) -> SocketAddr {
    plane.url.strip_prefix("http://").unwrap().parse().unwrap()
}

/// Sends bytes to the control plane, and returns the whole answer once it has closed the
/// connection.
pub async fn exchange(plane: &Plane, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address(plane)).await.unwrap();
    stream.write_all(request).await.unwrap();
    read_all(&mut stream).await
}

/// Whether `part` stands in `all`, by bytes.
pub fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

/// For messages.
pub fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\r\\n", "\n")
}
