//! What reaches a port of a sandbox and what comes back, byte by byte.

use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::guest_server::{PORT, name};
use crate::raw::{
    address, contains, exchange, read_all, read_head, start_recorder, start_server, text,
};
use crate::support::{Plane, eventually, one};

const EMPTY: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// A request by the port's own name, with the key, on a connection that ends after it.
fn request(plane: &Plane, id: &str, line: &str, fields: &[&[u8]]) -> Vec<u8> {
    let mut all = format!(
        "{line} HTTP/1.1\r\nhost: {}\r\nx-api-key: {}\r\n",
        name(id, PORT),
        plane.key
    )
    .into_bytes();
    for field in fields {
        all.extend_from_slice(field);
        all.extend_from_slice(b"\r\n");
    }
    all.extend_from_slice(b"\r\n");
    all
}

#[tokio::test]
async fn header_bytes_above_127_pass() {
    let (host, _ground, plane) = one().await;
    let answer = b"HTTP/1.1 302 Found\r\nlocation: /caf\xc3\xa9\r\nset-cookie: n=Jos\xe9; Path=/\r\nx-own: \xff\r\n\
        content-length: 0\r\nconnection: close\r\n\r\n";
    let heads = start_recorder(&host, PORT, answer).await;
    let id = plane.create().await.id;
    let fields: [&[u8]; 4] = [
        b"cookie: a=\xe9; b=2",
        b"x-own: \xfe\x80",
        b"referer: /caf\xc3\xa9",
        b"connection: close",
    ];
    let by_host = exchange(&plane, &request(&plane, &id, "GET /?a=&&b", &fields)).await;
    for line in [
        &b"location: /caf\xc3\xa9\r\n"[..],
        b"set-cookie: n=Jos\xe9; Path=/\r\n",
        b"x-own: \xff\r\n",
    ] {
        assert!(contains(&by_host, line), "{}", text(&by_host));
    }
    let path = format!("/v1/sandboxes/{id}/ports/{PORT}");
    let by_path = format!(
        "GET {path}/ HTTP/1.1\r\nhost: a\r\nx-api-key: {}\r\nconnection: close\r\n\r\n",
        plane.key
    );
    let by_path = exchange(&plane, by_path.as_bytes()).await;
    let right = [b"location: ", path.as_bytes(), b"/caf\xc3\xa9\r\n"].concat();
    assert!(contains(&by_path, &right), "{}", text(&by_path));
    let heads = heads.lock().unwrap();
    for line in [
        &b"GET /?a=&&b HTTP/1.1\r\n"[..],
        b"cookie: a=\xe9; b=2\r\n",
        b"x-own: \xfe\x80\r\n",
        fields[2],
    ] {
        assert!(contains(&heads[0], line), "{}", text(&heads[0]));
    }
}

#[tokio::test]
async fn http2_upgrade_reaches_no_guest() {
    let (host, _ground, plane) = one().await;
    let heads = start_recorder(&host, PORT, EMPTY).await;
    let id = plane.create().await.id;
    let fields: [&[u8]; 3] = [
        b"connection: Upgrade, HTTP2-Settings, close",
        b"upgrade: h2c",
        b"http2-settings: AAMAAABk",
    ];
    let answer = exchange(&plane, &request(&plane, &id, "GET /", &fields)).await;
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", text(&answer));
    let heads = heads.lock().unwrap();
    let head = String::from_utf8_lossy(&heads[0]).to_lowercase();
    assert!(
        !head.contains("upgrade")
            && !head.contains("http2-settings")
            && !head.contains("connection"),
        "{head}"
    );
}

#[tokio::test]
async fn switch_on_our_origin_sets_nothing() {
    let (host, _ground, plane) = one().await;
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-accept: x\r\nset-cookie: wrenn-link=x; Domain=localhost\r\nset-cookie: a=1; Domain=localhost\r\n\
        strict-transport-security: max-age=9\r\nclear-site-data: \"cookies\"\r\n\r\n";
    let heads = start_recorder(&host, PORT, answer).await;
    let id = plane.create().await.id;
    let switch: [&[u8]; 4] = [
        b"connection: Upgrade",
        b"upgrade: foo/1",
        b"Upgrade: WebSocket",
        b"sec-websocket-key: x",
    ];
    let by_host = exchange(&plane, &request(&plane, &id, "GET /", &switch)).await;
    assert!(by_host.starts_with(b"HTTP/1.1 101 "), "{}", text(&by_host));
    assert!(
        contains(&by_host, b"set-cookie: a=1\r\n") && !contains(&by_host, b"wrenn-link"),
        "{}",
        text(&by_host)
    );
    let by_path = request(
        &plane,
        &id,
        &format!("GET /v1/sandboxes/{id}/ports/{PORT}/"),
        &switch,
    );
    let by_path = String::from_utf8(by_path)
        .unwrap()
        .replace(&name(&id, PORT), "localhost");
    let by_path = text(&exchange(&plane, by_path.as_bytes()).await).to_lowercase();
    assert!(
        by_path.starts_with("http/1.1 101 ") && by_path.contains("sec-websocket-accept: x\n"),
        "{by_path}"
    );
    for field in ["set-cookie", "strict-transport-security", "clear-site-data"] {
        assert!(!by_path.contains(field), "{by_path}");
    }
    assert!(contains(
        &heads.lock().unwrap()[0],
        b"upgrade: foo/1, WebSocket\r\n"
    ));
}

/// Answers one request on its first connection, and closes that one when the next request is there;
/// then serves.
async fn start_impatient_server(host: &testkit::host::FakeHost) {
    start_server(host, PORT, |number, mut stream| async move {
        while let Some(head) = read_head(&mut stream).await {
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
                .await;
            if !head.starts_with(b"HEAD") {
                let _ = stream.write_all(b"here").await;
            }
            if number == 0 {
                let _ = read_head(&mut stream).await;
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn get_on_closing_connection_is_sent_again() {
    for (method, status) in [
        (Method::GET, 200),
        (Method::HEAD, 200),
        (Method::DELETE, 200),
        (Method::POST, 502),
    ] {
        let (host, _ground, plane) = one().await;
        start_impatient_server(&host).await;
        let id = plane.create().await.id;
        let ask = |method: &Method| {
            plane
                .request(method.clone(), "/")
                .header("host", name(&id, PORT))
                .send()
        };
        assert_eq!(
            ask(&Method::GET).await.unwrap().text().await.unwrap(),
            "here"
        );
        assert_eq!(ask(&method).await.unwrap().status(), status, "{method}");
    }
}

#[tokio::test]
async fn silent_server_gets_a_request_once() {
    let (host, _ground, plane) = one().await;
    start_server(&host, PORT, |_, mut stream| async move {
        drop(read_head(&mut stream).await)
    })
    .await;
    let id = plane.create().await.id;
    let answer = plane
        .request(Method::GET, "/")
        .header("host", name(&id, PORT))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 502);
    assert_eq!(host.calls("Tunnel"), 1);
}

#[tokio::test]
async fn early_answer_to_big_upload_arrives() {
    let (host, _ground, plane) = one().await;
    start_server(&host, PORT, |_, mut stream| async move {
        read_head(&mut stream).await;
        let answer =
            b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig";
        let _ = stream.write_all(answer).await;
    })
    .await;
    let id = plane.create().await.id;
    for chunked in [false, true] {
        let framing = if chunked {
            "transfer-encoding: chunked"
        } else {
            "content-length: 50000000"
        };
        let head = request(&plane, &id, "POST /", &[framing.as_bytes()]);
        let stream = TcpStream::connect(address(&plane)).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let upload = tokio::spawn(async move {
            let _ = writer.write_all(&head).await;
            let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
            let piece = if chunked {
                &chunk[..]
            } else {
                &chunk[7..7 + 0x10000]
            };
            for _ in 0..700 {
                if writer.write_all(piece).await.is_err() {
                    break;
                }
            }
            writer
        });
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nbig") {
            assert_ne!(
                reader.read_buf(&mut answer).await.expect("an answer"),
                0,
                "{}",
                text(&answer)
            );
        }
        assert!(answer.starts_with(b"HTTP/1.1 413 "), "{}", text(&answer));
        drop(reader);
        drop(upload.await.unwrap());
    }
}

#[tokio::test]
async fn continue_waits_for_the_reader() {
    let (host, _ground, plane) = one().await;
    start_server(&host, PORT, |_, mut stream| async move {
        read_head(&mut stream).await;
        let mut body = vec![0; 100_000];
        stream.read_exact(&mut body).await.unwrap();
        stream.write_all(EMPTY).await.unwrap();
    })
    .await;
    let id = plane.create().await.id;
    let fields: [&[u8]; 3] = [
        b"expect: 100-continue",
        b"content-length: 100000",
        b"connection: close",
    ];
    let head = request(&plane, &id, "POST /", &fields);
    let mut stream = TcpStream::connect(address(&plane)).await.unwrap();
    stream.write_all(&head).await.unwrap();
    let first = read_head(&mut stream).await.unwrap();
    assert!(first.starts_with(b"HTTP/1.1 100 "), "{}", text(&first));
    stream.write_all(&vec![1; 100_000]).await.unwrap();
    assert!(read_all(&mut stream).await.starts_with(b"HTTP/1.1 200 "));
    // Whoever is refused is told so instead.
    let stranger = String::from_utf8(head)
        .unwrap()
        .replace("x-api-key", "x-other");
    let refused = exchange(&plane, stranger.as_bytes()).await;
    assert!(refused.starts_with(b"HTTP/1.1 403 "), "{}", text(&refused));
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let (host, _ground, plane) = one().await;
    start_server(&host, PORT, |_, mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        let body = read_head(&mut stream).await.unwrap();
        let right = contains(&head, b"trailer: x-sum\r\n") && contains(&body, b"\r\n0\r\nx-sum: 7\r\n\r\n");
        let status = if right && contains(&head, b"te: trailers\r\n") { "200 OK" } else { "400 Bad" };
        let answer = format!(
            "HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\nconnection: close\r\n\r\n\
             1\r\na\r\n0\r\nx-end: 8\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let id = plane.create().await.id;
    let fields: [&[u8]; 4] = [
        b"te: trailers",
        b"trailer: x-sum",
        b"transfer-encoding: chunked",
        b"connection: close, te",
    ];
    let mut all = request(&plane, &id, "POST /", &fields);
    all.extend_from_slice(b"1\r\nb\r\n0\r\nx-sum: 7\r\n\r\n");
    let answer = exchange(&plane, &all).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 200 ") && contains(&answer, b"\r\nx-end: 8\r\n"),
        "{}",
        text(&answer)
    );
}

#[tokio::test]
async fn client_death_harms_no_other_transfer() {
    let (host, _ground, plane) = one().await;
    start_server(&host, PORT, |_, mut stream| async move {
        if read_head(&mut stream)
            .await
            .is_some_and(|head| head.starts_with(b"GET /small "))
        {
            let _ = stream.write_all(EMPTY).await;
            return;
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'x'; 65_536]).await.is_ok() {}
    })
    .await;
    let id = plane.create().await.id;
    for _ in 0..5 {
        let mut stream = TcpStream::connect(address(&plane)).await.unwrap();
        stream
            .write_all(&request(&plane, &id, "GET /endless", &[]))
            .await
            .unwrap();
        stream.read_exact(&mut vec![0; 1_000_000]).await.unwrap();
        drop(stream);
        let answer = exchange(
            &plane,
            &request(&plane, &id, "GET /small", &[b"connection: close"]),
        )
        .await;
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", text(&answer));
    }
    eventually("the ends", || async {
        (host.world().open_tunnels == 0).then_some(())
    })
    .await;
}
