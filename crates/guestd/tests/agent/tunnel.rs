//! Connections to programs that listen on the guest's own loopback.

use guest_rpc::http::TUNNEL_PROTOCOL;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::support::Agent;

/// Asks for a port; the first line of the answer, and the connection behind its head.
async fn ask(agent: &Agent, port: u16, upgrade: &str) -> (String, BufReader<TcpStream>) {
    let address = agent.url.strip_prefix("http://").expect("a URL");
    let mut stream = BufReader::new(TcpStream::connect(address).await.expect("connects"));
    let request = format!(
        "GET /tunnel/{port} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {upgrade}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("is sent");
    let mut first = String::new();
    let mut line = String::new();
    stream.read_line(&mut first).await.expect("an answer");
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).await.expect("a head");
    }
    (first, stream)
}

#[tokio::test]
async fn tunnel_passes_bytes_to_both_loopbacks() {
    let agent = Agent::open().await;
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).await.expect("listens");
        let port = listener.local_addr().expect("an address").port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.write_all(b"first ").await.expect("is sent");
            let mut heard = String::new();
            stream.read_to_string(&mut heard).await.expect("is heard");
            stream.write_all(heard.as_bytes()).await.expect("is sent");
        });
        let (line, mut stream) = ask(&agent, port, TUNNEL_PROTOCOL).await;
        assert!(line.contains(" 101 "), "{line}");
        stream.write_all(b"echo").await.expect("is sent");
        stream.shutdown().await.expect("a half can be closed");
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.expect("is heard");
        assert_eq!(heard, "first echo");
        server.await.expect("the server ends");
    }
}

#[tokio::test]
async fn what_is_not_open_is_refused() {
    let agent = Agent::open().await;
    let port = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("listens")
        .local_addr()
        .expect("an address")
        .port();
    assert!(ask(&agent, port, TUNNEL_PROTOCOL).await.0.contains(" 502 "));
    assert!(ask(&agent, port, "websocket").await.0.contains(" 400 "));
    assert!(ask(&agent, 0, TUNNEL_PROTOCOL).await.0.contains(" 400 "));
    let closed = Agent::start(&[]).await;
    assert!(
        ask(&closed, port, TUNNEL_PROTOCOL)
            .await
            .0
            .contains(" 401 "),
        "it needs the token"
    );
}
