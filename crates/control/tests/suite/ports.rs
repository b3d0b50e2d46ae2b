//! Ports of sandboxes: HTTP in all its forms, and raw connections.

use std::time::Duration;

use api_types::{CreateSandbox, SandboxStatus};
use axum::body::Body;
use bytes::Bytes;
use client::Client;
use futures::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::guest_server::{AGENT, PORT, name, with_server};
use crate::support::{Plane, eventually};

const CLOSED: u16 = 3001;

async fn mirrored(request: reqwest::RequestBuilder) -> (Value, reqwest::header::HeaderMap) {
    let answer = request.send().await.unwrap();
    let headers = answer.headers().clone();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    (
        serde_json::from_str(&answer.text().await.unwrap()).unwrap(),
        headers,
    )
}

fn sent<'a>(seen: &'a Value, name: &str) -> Vec<&'a str> {
    let all = seen["headers"].as_array().unwrap().iter();
    all.filter(|pair| pair[0] == name)
        .map(|pair| pair[1].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_port_has_three_addresses() {
    let (_host, _ground, plane, id) = with_server().await;
    let by_host = plane
        .request(Method::PUT, "/a%2Fb//?x=1&wrenn-link=")
        .header("host", name(&id, PORT));
    let (seen, answered) = mirrored(
        by_host
            .header("x-forwarded-for", "8.8.8.8")
            .header("cookie", "a=b"),
    )
    .await;
    assert_eq!(
        (seen["method"].as_str(), seen["uri"].as_str()),
        (Some("PUT"), Some("/a%2Fb//?x=1"))
    );
    assert_eq!(sent(&seen, "host"), [name(&id, PORT)]);
    assert_eq!(sent(&seen, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(sent(&seen, "cookie"), ["a=b"]);
    assert!(sent(&seen, "x-api-key").is_empty());
    assert_eq!(answered["set-cookie"], "theirs=1; Path=/");

    let by_headers = plane
        .request(Method::GET, "/v1/sandboxes")
        .header("E2b-Sandbox-Id", &id);
    let (seen, answered) = mirrored(by_headers.header("E2b-Sandbox-Port", PORT)).await;
    assert_eq!(seen["uri"], "/v1/sandboxes");
    assert!(
        !answered.contains_key("set-cookie") && answered.contains_key("content-security-policy")
    );

    for kind in ["sandboxes", "capsules"] {
        let path = format!("/v1/{kind}/{id}/ports/{PORT}");
        let (seen, answered) = mirrored(plane.request(Method::POST, &format!("{path}/x?y"))).await;
        assert_eq!(
            (seen["method"].as_str(), seen["uri"].as_str()),
            (Some("POST"), Some("/x?y"))
        );
        assert_eq!(sent(&seen, "x-forwarded-prefix"), [path.as_str()]);
        assert!(
            answered["content-security-policy"]
                .to_str()
                .unwrap()
                .starts_with("sandbox ")
        );
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_in_the_words_of_the_contract() {
    let (host, _ground, plane, id) = with_server().await;
    let ask = |id: &str, port: u16| {
        plane
            .request(Method::GET, "/")
            .header("host", name(id, port))
    };
    let told = |request: reqwest::RequestBuilder| async move {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/json");
        (
            answer.status().as_u16(),
            answer.json::<Value>().await.unwrap(),
        )
    };
    let (status, body) = told(ask(&id, CLOSED)).await;
    assert_eq!(
        (status, body["code"].as_u64(), body["port"].as_u64()),
        (502, Some(502), Some(u64::from(CLOSED)))
    );
    assert_eq!(
        body["message"],
        "The sandbox is running but port is not open"
    );
    let (status, body) = told(ask("sb-00000000000000000000", PORT)).await;
    assert_eq!(
        (status, body["message"].as_str()),
        (502, Some("The sandbox was not found"))
    );
    assert_eq!(body["sandboxId"], "sb-00000000000000000000");
    let page = ask(&id, CLOSED)
        .header("accept", "text/html,*/*")
        .send()
        .await
        .unwrap();
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let page = page.text().await.unwrap();
    assert!(
        page.contains(&format!("Nothing listens on port {CLOSED}")) && page.contains(&id),
        "{page}"
    );
    let half = plane
        .request(Method::GET, "/")
        .header("E2b-Sandbox-Id", &id);
    let (status, body) = told(half).await;
    assert!(
        status == 400
            && body["message"]
                .as_str()
                .unwrap()
                .contains("e2b-sandbox-port"),
        "{body}"
    );
    host.stop();
    assert_eq!(told(ask(&id, PORT)).await.0, 503);
}

#[tokio::test]
async fn a_paused_sandbox_wakes_for_a_request_where_it_lets_itself() {
    let (_host, _ground, plane, id) = with_server().await;
    plane.client().pause(&id).await.unwrap();
    mirrored(
        plane
            .request(Method::GET, "/")
            .header("host", name(&id, PORT)),
    )
    .await;
    eventually("running", || async {
        (plane.client().get(&id).await.unwrap().status == SandboxStatus::Running).then_some(())
    })
    .await;
    let spec = CreateSandbox {
        auto_resume: Some(false),
        ..Default::default()
    };
    let id = plane.client().create(&spec).await.unwrap().id;
    plane.client().pause(&id).await.unwrap();
    let answer = plane
        .request(Method::GET, "/")
        .header("host", name(&id, PORT))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 502);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["message"], "The sandbox was not found");
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .contains(&format!("wrenn resume {id}")),
        "{body}"
    );
}

/// A WebSocket to a path of the control plane, with these headers.
async fn socket(
    plane: &Plane,
    path: &str,
    headers: &[(&'static str, &str)],
) -> tokio_tungstenite::WebSocketStream<TcpStream> {
    let address = plane.url.strip_prefix("http://").unwrap();
    let mut request = format!("ws://{address}{path}")
        .into_client_request()
        .unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(address).await.unwrap();
    tokio_tungstenite::client_async(request, stream)
        .await
        .unwrap()
        .0
}

#[tokio::test]
async fn web_sockets_pass_and_end_with_either_side() {
    let (host, _ground, plane, id) = with_server().await;
    let host_name = name(&id, PORT);
    let by_path = format!("/v1/sandboxes/{id}/ports/{PORT}/ws");
    let key = plane.key.clone();
    for (path, headers) in [
        (
            "/ws",
            vec![("host", host_name.as_str()), ("x-api-key", key.as_str())],
        ),
        (by_path.as_str(), vec![("x-api-key", key.as_str())]),
    ] {
        let mut socket = socket(&plane, path, &headers).await;
        for text in ["one", "two"] {
            socket.send(Message::text(text)).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
        }
        assert_eq!(host.world().open_tunnels, 1);
        socket.close(None).await.unwrap();
        while socket.next().await.is_some() {}
        eventually("the end", || async {
            (host.world().open_tunnels == 0).then_some(())
        })
        .await;
    }
    let mut socket = socket(&plane, "/ws", &[("host", &host_name), ("x-api-key", &key)]).await;
    socket.send(Message::text("last")).await.unwrap();
    socket.next().await.unwrap().unwrap();
    plane.stop().await;
    while let Some(Ok(_)) = socket.next().await {}
}

#[tokio::test]
async fn events_come_as_they_are_sent_and_uploads_stream() {
    let (host, _ground, plane, id) = with_server().await;
    let mut answer = plane
        .request(Method::GET, "/events")
        .header("host", name(&id, PORT))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "data: 1\n\n");
    drop(answer);
    eventually("the end", || async {
        (host.world().open_tunnels == 0).then_some(())
    })
    .await;

    const PIECES: usize = 64;
    let piece = Bytes::from(vec![7; 256 * 1024]);
    let pieces =
        futures::stream::iter((0..PIECES).map(move |_| Ok::<_, std::io::Error>(piece.clone())));
    let upload = plane
        .request(Method::POST, "/count")
        .header("host", name(&id, PORT));
    let answer = upload
        .body(reqwest::Body::wrap_stream(pieces))
        .send()
        .await
        .unwrap();
    assert_eq!(
        answer.text().await.unwrap(),
        (PIECES * 256 * 1024).to_string()
    );
}

#[tokio::test]
async fn http_2_without_tls_works() {
    let (_host, _ground, plane, id) = with_server().await;
    let stream = TcpStream::connect(plane.url.strip_prefix("http://").unwrap())
        .await
        .unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let ask = |path: &str| {
        let uri = format!("http://{}{path}", name(&id, PORT));
        http::Request::post(uri)
            .header("x-api-key", &plane.key)
            .body(Body::from("four"))
            .unwrap()
    };
    let mut call = ask("/package.Service/Method");
    call.headers_mut()
        .insert("content-type", "application/grpc".parse().unwrap());
    let called = sender
        .send_request(call)
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap();
    assert_eq!(called.trailers().unwrap()["grpc-status"], "0");
    let one = sender.send_request(ask("/count"));
    let two = sender.send_request(ask("/mirror"));
    let (one, two) = tokio::join!(one, two);
    assert_eq!(
        one.unwrap().into_body().collect().await.unwrap().to_bytes(),
        "4"
    );
    let seen = two.unwrap().into_body().collect().await.unwrap().to_bytes();
    let seen: Value = serde_json::from_slice(&seen).unwrap();
    assert_eq!(
        (sent(&seen, "host"), sent(&seen, "content-length")),
        (vec![name(&id, PORT).as_str()], vec!["4"])
    );
}

#[tokio::test]
async fn raw_connections_have_two_halves() {
    let (host, _ground, plane, id) = with_server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    host.world()
        .ports
        .insert(5432, listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"hello ").await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream
            .write_all(format!("{} bytes", all.len()).as_bytes())
            .await
            .unwrap();
    });
    let (mut user, local) = tokio::io::duplex(1024);
    let connection = plane.client().connect_port(&id, 5432).await.unwrap();
    let carried = tokio::spawn(connection.carry(local));
    user.write_all(&vec![1; 300_000]).await.unwrap();
    user.shutdown().await.unwrap();
    let mut heard = String::new();
    user.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "hello 300000 bytes");
    carried.await.unwrap().unwrap();
    server.await.unwrap();
    eventually("the end", || async {
        (host.world().open_tunnels == 0).then_some(())
    })
    .await;

    let refused = plane.client().connect_port(&id, CLOSED).await.unwrap_err();
    assert!(
        refused.code() == Some("agent_error") && refused.to_string().contains("nothing listens"),
        "{refused}"
    );
    let stranger = Client::new(&plane.url, &model::ApiKey::random().expose()).unwrap();
    assert_eq!(
        stranger.connect_port(&id, 5432).await.unwrap_err().code(),
        Some("unauthorized")
    );
}

#[tokio::test]
async fn connections_that_nobody_uses_do_not_keep_a_sandbox_awake() {
    let (host, _ground, plane, id) = with_server().await;
    for _ in 0..3 {
        mirrored(
            plane
                .request(Method::GET, "/")
                .header("host", name(&id, PORT)),
        )
        .await;
    }
    assert_eq!(host.calls("Tunnel"), 1, "requests share a connection");
    let began = std::time::Instant::now();
    eventually("the end", || async {
        (host.world().open_tunnels == 0).then_some(())
    })
    .await;
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn guest_agent_sees_its_token_and_no_key() {
    let (_host, _ground, plane, id) = with_server().await;
    let ask = || {
        plane
            .request(Method::GET, "/files")
            .header("E2b-Sandbox-Id", &id)
            .header("E2b-Sandbox-Port", AGENT)
    };
    let (seen, _) = mirrored(ask()).await;
    assert!(sent(&seen, "x-access-token").is_empty());
    // The agent itself says what is wrong with a token.
    let (seen, _) = mirrored(ask().header("x-access-token", "theirs")).await;
    assert_eq!(sent(&seen, "x-access-token"), ["theirs"]);
    assert!(sent(&seen, "x-api-key").is_empty());
}
