use std::net::{IpAddr, Ipv4Addr};

use axum::routing::get;
use http_body_util::BodyExt;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::table::Refused;

const SOON: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_secs(600);

fn limits(connections: usize) -> ListenerLimits {
    ListenerLimits {
        connections,
        per_address: None,
        first_byte: LATE,
        request_head: LATE,
        idle: LATE,
    }
}

/// A listener whose `/` answers, whose `/key` trusts, and whose `/switch` switches to an echo.
async fn start(limits: ListenerLimits) -> SocketAddr {
    let router = Router::new()
        .route("/", get(|| async { "here" }))
        .route(
            "/key",
            get(async |request: axum::extract::Request| trust(&request)),
        )
        .route("/switch", get(switch));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, router, limits, std::future::pending()));
    address
}

fn trust(request: &axum::extract::Request) {
    request
        .extensions()
        .get::<ConnectionHandle>()
        .unwrap()
        .trust();
}

async fn switch(mut request: axum::extract::Request) -> impl axum::response::IntoResponse {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
        tokio::io::copy(&mut reader, &mut writer).await
    });
    (
        http::StatusCode::SWITCHING_PROTOCOLS,
        [("connection", "upgrade"), ("upgrade", "echo")],
    )
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// Sends a request on an HTTP/1 connection and reads the head of the answer.
async fn ask(stream: &mut TcpStream, head: &str) -> String {
    stream
        .write_all(format!("{head}\r\nhost: a\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut all = Vec::new();
    while !all.windows(4).any(|four| four == b"\r\n\r\n") {
        assert_ne!(
            stream.read_buf(&mut all).await.unwrap(),
            0,
            "{}",
            String::from_utf8_lossy(&all)
        );
    }
    String::from_utf8(all).unwrap()
}

/// Waits until the other side closes the connection.
async fn closed(stream: &mut TcpStream) {
    let mut all = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut all).await;
}

#[tokio::test]
async fn silent_connection_is_closed() {
    let address = start(ListenerLimits {
        first_byte: SOON,
        ..limits(16)
    })
    .await;
    closed(&mut connect(address).await).await;
    assert!(
        ask(&mut connect(address).await, "GET / HTTP/1.1")
            .await
            .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test]
async fn unfinished_first_request_is_closed() {
    let address = start(ListenerLimits {
        request_head: SOON,
        ..limits(16)
    })
    .await;
    for begin in [
        "P",
        "PRI * HTTP/2.0\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/1.1\r\nhost:",
    ] {
        let mut stream = connect(address).await;
        stream.write_all(begin.as_bytes()).await.unwrap();
        closed(&mut stream).await;
    }
}

#[tokio::test]
async fn idle_http2_connection_is_closed() {
    let address = start(ListenerLimits {
        idle: SOON,
        ..limits(16)
    })
    .await;
    let stream = TokioIo::new(connect(address).await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::get(format!("http://{address}/"))
        .body(String::new())
        .unwrap();
    let answer = sender
        .send_request(request)
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap();
    assert_eq!(answer.to_bytes(), "here");
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn full_table_closes_oldest_silent_connection() {
    let address = start(limits(4)).await;
    let mut trusted = connect(address).await;
    ask(&mut trusted, "GET /key HTTP/1.1").await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(connect(address).await);
    }
    for number in 0..3 {
        let mut other = connect(address).await;
        assert!(
            ask(&mut other, "GET / HTTP/1.1")
                .await
                .starts_with("HTTP/1.1 200")
        );
        closed(&mut silent[number]).await;
        silent.push(other);
    }
    assert!(
        ask(&mut trusted, "GET / HTTP/1.1")
            .await
            .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test]
async fn switched_connection_is_busy_until_its_end() {
    let address = start(limits(2)).await;
    let switched = "GET /switch HTTP/1.1\r\nconnection: upgrade\r\nupgrade: echo";
    let mut first = connect(address).await;
    let mut idle = connect(address).await;
    assert!(ask(&mut first, switched).await.starts_with("HTTP/1.1 101"));
    ask(&mut idle, "GET / HTTP/1.1").await;
    // The idle one goes before the busy one.
    let mut third = connect(address).await;
    ask(&mut third, switched).await;
    closed(&mut idle).await;
    first.write_all(b"still here").await.unwrap();
    let mut heard = [0; 10];
    first.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
    // Neither has credentials: the older one goes for a newer connection.
    ask(&mut connect(address).await, "GET / HTTP/1.1").await;
    closed(&mut first).await;
}

fn table(connections: usize, per_address: Option<usize>) -> Arc<ConnectionTable> {
    Arc::new(ConnectionTable::new(ListenerLimits {
        per_address,
        ..limits(connections)
    }))
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

#[test]
fn one_address_has_a_share() {
    let table = table(100, Some(2));
    let now = Instant::now();
    let guards: Vec<_> = (0..2)
        .map(|_| table.admit(ip(1), now).unwrap().begin_request())
        .collect();
    assert_eq!(table.admit(ip(1), now).unwrap_err(), Refused::Address);
    table.admit(ip(2), now).unwrap();
    drop(guards);
    let known = table.admit(ip(1), now).unwrap();
    known.trust();
    for _ in 0..2 {
        table.admit(ip(1), now).unwrap();
    }
    assert!(!known.is_evicted());
    for _ in 0..50 {
        drop(table.admit(Ipv4Addr::LOCALHOST.into(), now).unwrap());
    }
}

#[test]
fn one_network_of_a_site_has_a_share() {
    let table = table(100, Some(1));
    let now = Instant::now();
    let first = table.admit("2001:db8::1".parse().unwrap(), now).unwrap();
    table.admit("2001:db8::2".parse().unwrap(), now).unwrap();
    assert!(first.is_evicted());
    let other = table
        .admit("2001:db8:0:1::1".parse().unwrap(), now)
        .unwrap();
    assert!(!other.is_evicted());
    let mapped = table
        .admit("::ffff:192.0.2.1".parse().unwrap(), now)
        .unwrap();
    table.admit(ip(1), now).unwrap();
    assert!(mapped.is_evicted());
}

proptest! {
    #[test]
    fn trusted_requests_are_never_evicted(steps in prop::collection::vec((0..6_u8, 0..8_usize, 0..3_u8), 1..200)) {
        let table = table(4, Some(3));
        let now = Instant::now();
        let mut open: Vec<(ConnectionHandle, Vec<crate::table::RequestGuard>, bool)> = Vec::new();
        for (step, at, from) in steps {
            let at = at % open.len().max(1);
            match (step, open.get_mut(at)) {
                (0 | 1, _) | (_, None) => {
                    if let Ok(handle) = table.admit(ip(from), now) {
                        open.push((handle, Vec::new(), false));
                    }
                }
                (2 | 3, Some((handle, guards, _))) => guards.push(handle.begin_request()),
                (4, Some((_, guards, _))) => drop(guards.pop()),
                (_, Some((handle, _, trusted))) => {
                    handle.trust();
                    *trusted = !handle.is_evicted();
                }
            }
            prop_assert!(table.len() <= 4);
            let busy = |(_, guards, trusted): &&(_, Vec<_>, bool)| *trusted && !guards.is_empty();
            prop_assert!(open.iter().filter(busy).all(|(handle, ..)| !handle.is_evicted()));
            open.retain(|(handle, ..)| !handle.is_evicted());
        }
        for (handle, guards, _) in open {
            drop(guards);
            handle.remove();
        }
        prop_assert_eq!(table.len(), 0);
    }
}
