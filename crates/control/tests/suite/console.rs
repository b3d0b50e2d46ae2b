//! The test console's files, and the key that its page sends on WebSockets.

use futures::{SinkExt, StreamExt};
use http::header::{ETAG, HOST, IF_NONE_MATCH, LOCATION, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use http::{Method, StatusCode};
use model::ApiKey;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::raw::address;
use crate::support::{Plane, one};

#[tokio::test]
async fn page_needs_no_key() {
    let (_host, _ground, plane) = one().await;
    let page = plane.bare(Method::GET, "/test").send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("script-src 'self'"), "{policy}");
    let etag = page.headers()[ETAG].clone();
    let again = plane
        .bare(Method::GET, "/test")
        .header(IF_NONE_MATCH, etag)
        .send()
        .await
        .unwrap();
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    let script = plane
        .bare(Method::GET, "/test/main.js")
        .send()
        .await
        .unwrap();
    assert_eq!(
        script.headers()["content-type"],
        "text/javascript; charset=utf-8"
    );
    for missing in [
        "/test/none.js",
        "/test/vendor/none.mjs",
        "/test/..%2Fmain.js",
    ] {
        let answer = plane.bare(Method::GET, missing).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{missing}");
    }
}

#[tokio::test]
async fn slash_leads_to_page() {
    let (_host, _ground, plane) = one().await;
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let url = format!("http://{}/test/", address(&plane));
    let answer = client.get(url).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(answer.headers()[LOCATION], "../test");
}

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// Opens `exec/stream` as a page of `origin` does; the status where it is refused.
async fn open(plane: &Plane, id: &str, key: &str, origin: &str) -> Result<Socket, StatusCode> {
    let host = address(plane).to_string();
    let url = format!("ws://{host}/v1/sandboxes/{id}/exec/stream");
    let mut request = url.into_client_request().unwrap();
    let protocols = format!("wrenn.v1, wrenn.bearer.{key}");
    let headers = request.headers_mut();
    headers.insert(SEC_WEBSOCKET_PROTOCOL, protocols.parse().unwrap());
    headers.insert(ORIGIN, origin.parse().unwrap());
    assert_eq!(headers[HOST], host);
    match tokio_tungstenite::connect_async(request).await {
        Ok((socket, answer)) => {
            assert_eq!(answer.headers()[SEC_WEBSOCKET_PROTOCOL], "wrenn.v1");
            Ok(socket)
        }
        Err(tungstenite::Error::Http(refused)) => Err(refused.status()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn page_sends_key_as_subprotocol() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let own = format!("http://{}", address(&plane));
    let mut socket = open(&plane, &id, &plane.key, &own).await.unwrap();
    let start = json!({ "type": "start", "cmd": "print", "args": ["out", "err", "7"] });
    socket.send(Message::text(start.to_string())).await.unwrap();
    let mut last = Value::Null;
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Text(text) = message {
            last = serde_json::from_str(&text).unwrap();
        }
    }
    assert_eq!(last, json!({ "type": "exit", "exit_code": 7 }));

    let refused = open(&plane, &id, &ApiKey::random().expose(), &own).await;
    assert_eq!(refused.unwrap_err(), StatusCode::UNAUTHORIZED);
    for foreign in ["http://evil.example", "http://localhost:1", "null"] {
        let refused = open(&plane, &id, &plane.key, foreign).await;
        assert_eq!(refused.unwrap_err(), StatusCode::FORBIDDEN, "{foreign}");
    }
}
