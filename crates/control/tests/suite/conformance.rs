//! Protocols through the port proxy, against the same server asked directly: whatever a client
//! sends, both answer alike. The cases follow the sections of the Autobahn test suite (WebSocket)
//! and of h2spec (HTTP/2).

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::guest_server::{PORT, name, serve};
use crate::raw::{address, contains, read_head, text};
use crate::support::{Plane, one};

/// Most that a server may take for an answer. It ends each case itself, by closing.
const PATIENCE: Duration = Duration::from_secs(20);

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FINAL: u8 = 0x80;

/// A frame with the mask that clients have to use.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut all = vec![first];
    match payload.len() {
        length @ 0..126 => all.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..0x10000 => {
            all.push(0x80 | 126);
            all.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            all.push(0x80 | 127);
            all.extend_from_slice(&u64::try_from(length).unwrap().to_be_bytes());
        }
    }
    all.extend_from_slice(&mask);
    all.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    all
}

fn whole(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame(FINAL | opcode, payload)
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    whole(CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// Frames of a client, section by section. What does not end by a close of its own gets one.
fn web_socket_cases() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut case = |name: String, frames: &[Vec<u8>]| all.push((name, frames.concat()));
    for length in [0, 1, 125, 126, 127, 128, 65_535, 65_536, 300_000] {
        case(
            format!("1: text of {length}"),
            &[whole(TEXT, &vec![b'*'; length])],
        );
        case(
            format!("1: binary of {length}"),
            &[whole(BINARY, &vec![0xfe; length])],
        );
    }
    for payload in [&b""[..], b"x", &[0xff, 0, 1], &[7; 125], &[7; 126]] {
        case(
            format!("2: ping of {}", payload.len()),
            &[whole(PING, payload)],
        );
        case(
            format!("2: pong of {}", payload.len()),
            &[whole(PONG, payload), whole(TEXT, b"after")],
        );
    }
    for reserved in [0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70] {
        case(
            format!("3: reserved bits {reserved:x}"),
            &[whole(TEXT, b"before"), frame(FINAL | reserved | TEXT, b"x")],
        );
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        case(
            format!("4: opcode {opcode}"),
            &[
                whole(TEXT, b"before"),
                whole(opcode, b"x"),
                whole(PING, b""),
            ],
        );
    }
    case(
        "5: fragments".to_owned(),
        &[frame(TEXT, b"a"), frame(0, b"b"), frame(FINAL, b"c")],
    );
    case(
        "5: ping between fragments".to_owned(),
        &[frame(TEXT, b"a"), whole(PING, b"p"), frame(FINAL, b"c")],
    );
    case(
        "5: fragmented ping".to_owned(),
        &[frame(PING, b"a"), frame(FINAL, b"b")],
    );
    case(
        "5: continuation of nothing".to_owned(),
        &[frame(FINAL, b"b"), whole(TEXT, b"x")],
    );
    case(
        "5: two beginnings".to_owned(),
        &[frame(TEXT, b"a"), whole(TEXT, b"b")],
    );
    for (number, bytes) in [
        &b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"[..],
        b"\xce\xba\xed\xa0\x80edited",
        b"\xf4\x90\x80\x80",
        b"\xc0\xaf",
        b"\xff",
        b"\xf0\x9f\xa6",
    ]
    .iter()
    .enumerate()
    {
        case(format!("6: text {number}"), &[whole(TEXT, bytes)]);
        let (first, second) = bytes.split_at(bytes.len() / 2);
        case(
            format!("6: text {number} in fragments"),
            &[frame(TEXT, first), frame(FINAL, second)],
        );
    }
    for code in [
        0, 999, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1011, 1015, 1016, 2999, 3000, 4999,
        5000, 65535,
    ] {
        case(format!("7: close {code}"), &[close(code, b"bye")]);
    }
    case("7: close without a code".to_owned(), &[whole(CLOSE, b"")]);
    case("7: close of one byte".to_owned(), &[whole(CLOSE, b"x")]);
    case(
        "7: close with a long reason".to_owned(),
        &[close(1000, &[b'x'; 124])],
    );
    case(
        "7: close that is no text".to_owned(),
        &[close(1000, b"\xff")],
    );
    case(
        "7: data after a close".to_owned(),
        &[close(1000, b""), whole(TEXT, b"late")],
    );
    case(
        "7: two closes".to_owned(),
        &[close(1000, b""), close(1000, b"")],
    );
    case(
        "9: many messages".to_owned(),
        &vec![whole(TEXT, b"again"); 500],
    );
    case(
        "10: an unmasked frame".to_owned(),
        &[vec![FINAL | TEXT, 1, b'x']],
    );
    all
}

/// All bytes that a server sends after its handshake, in answer to `frames`, written in pieces of
/// `chop`.
async fn web_socket_answer(to: SocketAddr, head: &str, frames: &[u8], chop: usize) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let handshake = read_head(&mut stream).await.unwrap();
    assert!(
        handshake.starts_with(b"HTTP/1.1 101 "),
        "{}",
        text(&handshake)
    );
    assert!(contains(
        &handshake.to_ascii_lowercase(),
        b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"
    ));
    let (mut reader, mut writer) = stream.into_split();
    let end = close(1000, b"");
    let write = async {
        for piece in frames.chunks(chop).chain([end.as_slice()]) {
            if writer.write_all(piece).await.is_err() {
                return;
            }
        }
        // An answer that is not read keeps the connection open.
        std::future::pending::<()>().await;
    };
    let mut heard = Vec::new();
    let read = async {
        // After an error of the client's the server may reset the connection.
        let _ = reader.read_to_end(&mut heard).await;
    };
    tokio::time::timeout(PATIENCE, async {
        tokio::select! {
            () = write => {}
            () = read => {}
        }
    })
    .await
    .expect("the server ends it");
    heard
}

fn handshake(target: &str, host: &str, key: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {key}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

#[tokio::test]
async fn web_sockets_conform_as_asked_directly() {
    let (host, _ground, plane) = one().await;
    let direct = serve(&host).await;
    let id = plane.create().await.id;
    let by_name = handshake("/ws", &name(&id, PORT), &plane.key);
    let by_path = handshake(
        &format!("/v1/sandboxes/{id}/ports/{PORT}/ws"),
        "localhost",
        &plane.key,
    );
    let alone = handshake("/ws", "a", "none");
    let cases = web_socket_cases();
    assert!(cases.len() > 80, "{}", cases.len());
    for (name, frames) in &cases {
        let right = web_socket_answer(direct, &alone, frames, frames.len().max(1)).await;
        for (head, chop) in [
            (&by_name, frames.len().max(1)),
            (&by_path, frames.len().div_ceil(7).max(1)),
        ] {
            let got = web_socket_answer(address(&plane), head, frames, chop).await;
            assert!(
                got == right,
                "{name}: {} instead of {}",
                text(&got),
                text(&right)
            );
        }
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn http2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Connections that a server has to end, and how it does (RFC 9113). Each begins after both
/// settings.
fn http2_cases() -> Vec<(&'static str, Vec<u8>)> {
    // `:method: GET`, `:scheme: http`, `:path: /`, of the static table.
    let head = [0x82, 0x86, 0x84];
    vec![
        (
            "4.2: a frame over the limit",
            http2_frame(0, 0, 1, &[0; 16_385]),
        ),
        (
            "4.3: a head that cannot be read",
            http2_frame(1, 5, 1, &[0xff; 12]),
        ),
        ("5.1: data on an idle stream", http2_frame(0, 1, 1, b"x")),
        (
            "5.1: reset of an idle stream",
            http2_frame(3, 0, 1, &[0, 0, 0, 8]),
        ),
        (
            "5.1.1: a stream of the server's number",
            http2_frame(1, 5, 2, &head),
        ),
        ("6.1: data without a stream", http2_frame(0, 1, 0, b"x")),
        (
            "6.1: padding over the payload",
            http2_frame(0, 8, 1, &[9, 1]),
        ),
        ("6.2: a head without a stream", http2_frame(1, 5, 0, &head)),
        ("6.4: a reset of 3 bytes", http2_frame(3, 0, 1, &[0; 3])),
        ("6.5: settings on a stream", http2_frame(4, 0, 1, &[])),
        ("6.5: settings of 5 bytes", http2_frame(4, 0, 0, &[0; 5])),
        (
            "6.5: an answer with settings",
            http2_frame(4, 1, 0, &[0; 6]),
        ),
        (
            "6.5.2: a window over the limit",
            http2_frame(4, 0, 0, &[0, 4, 0x80, 0, 0, 0]),
        ),
        (
            "6.5.2: frames under the limit",
            http2_frame(4, 0, 0, &[0, 5, 0, 0, 0, 1]),
        ),
        ("6.7: a ping on a stream", http2_frame(6, 0, 1, &[0; 8])),
        ("6.7: a ping of 7 bytes", http2_frame(6, 0, 0, &[0; 7])),
        ("6.8: a farewell on a stream", http2_frame(7, 0, 1, &[0; 8])),
        ("6.9: a window of nothing", http2_frame(8, 0, 0, &[0; 4])),
        (
            "6.9.1: a window over the limit",
            http2_frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).repeat(2),
        ),
        (
            "6.10: a continuation of nothing",
            http2_frame(9, 4, 1, &head),
        ),
        (
            "6.10: a frame within a head",
            [http2_frame(1, 1, 1, &head), http2_frame(6, 0, 0, &[0; 8])].concat(),
        ),
    ]
}

/// The errors with which a server ends a connection: the kind of each last frame and its code.
async fn http2_end(to: SocketAddr, name: &str, frames: &[u8]) -> Vec<(u8, u32)> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream
        .write_all(&[PREFACE, &http2_frame(4, 0, 0, &[]), frames].concat())
        .await
        .unwrap();
    let mut ends = Vec::new();
    let read = async {
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if stream.read_exact(&mut payload).await.is_err() {
                break;
            }
            let at = match head[3] {
                3 => 0,
                7 => 4,
                _ => continue,
            };
            ends.push((
                head[3],
                u32::from_be_bytes(payload[at..at + 4].try_into().unwrap()),
            ));
        }
    };
    tokio::time::timeout(PATIENCE, read)
        .await
        .unwrap_or_else(|_| panic!("{name}: the connection does not end"));
    ends
}

#[tokio::test]
async fn http2_errors_end_as_asked_directly() {
    let (host, _ground, plane) = one().await;
    let direct = serve(&host).await;
    for (name, frames) in http2_cases() {
        let here = http2_end(address(&plane), name, &frames).await;
        let there = http2_end(direct, name, &frames).await;
        assert_eq!(here, there, "{name}");
        assert!(
            here.iter().all(|(_, code)| *code != 0) && !here.is_empty(),
            "{name}: {here:?}"
        );
    }
    still_serves(&plane).await;
}

async fn still_serves(plane: &Plane) {
    assert_eq!(
        plane
            .bare(Method::GET, "/health")
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
}
