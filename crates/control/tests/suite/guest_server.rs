//! A web server that plays the programs in a sandbox, and the names of its ports.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::extract::ws::{Message as Frame, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use bytes::Bytes;
use futures::StreamExt;
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use serde_json::json;
use testkit::host::FakeHost;
use tokio::net::TcpListener;

use crate::support::{Ground, Plane, one};

pub const PORT: u16 = 3000;
/// Port of the guest agent.
pub const AGENT: u16 = 49983;

/// Tells what it was asked.
async fn mirror(request: Request) -> Response {
    let headers: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| json!([name.as_str(), value.to_str().unwrap()]))
        .collect();
    let body = json!({ "method": request.method().as_str(), "uri": request.uri().to_string(), "headers": headers });
    let mut response = body.to_string().into_response();
    response.headers_mut().insert(
        "set-cookie",
        "theirs=1; Path=/; Domain=localhost".parse().unwrap(),
    );
    response
}

async fn echo(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async |mut socket| {
        while let Some(Ok(frame)) = socket.recv().await {
            if matches!(frame, Frame::Text(_) | Frame::Binary(_))
                && socket.send(frame).await.is_err()
            {
                break;
            }
        }
    })
}

/// Sends two events, the second one after a request to `/go`.
async fn events() -> Response {
    let waits =
        futures::stream::once(async { Ok::<_, std::io::Error>(Bytes::from("data: 1\n\n")) })
            .chain(futures::stream::pending());
    (
        [("content-type", "text/event-stream")],
        Body::from_stream(waits),
    )
        .into_response()
}

/// As gRPC has it: an answer whose end is told in trailers.
async fn grpc(request: Request) -> Response {
    assert_eq!(
        (request.version(), &request.headers()["te"]),
        (http::Version::HTTP_2, &"trailers".parse().unwrap())
    );
    let trailers =
        http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let body = Full::new(Bytes::from("message")).with_trailers(async { Some(Ok(trailers)) });
    ([("content-type", "application/grpc")], Body::new(body)).into_response()
}

async fn count(body: Body) -> String {
    let mut data = body.into_data_stream();
    let mut total = 0;
    while let Some(piece) = data.next().await {
        total += piece.unwrap().len();
    }
    total.to_string()
}

/// Starts the server that runs in the sandboxes of `host`, and returns its address.
pub async fn serve(host: &FakeHost) -> SocketAddr {
    let router = Router::new()
        .route("/ws", get(echo))
        .route("/events", get(events))
        .route("/count", post(count))
        .route("/package.Service/Method", post(grpc))
        .route(
            "/away",
            get(|| async { (StatusCode::FOUND, [("location", "/login")]) }),
        )
        .fallback(any(mirror));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    host.world()
        .ports
        .extend([(PORT, address), (AGENT, address)]);
    address
}

/// A server in a sandbox.
pub async fn with_server() -> (FakeHost, Ground, Plane, String) {
    let (host, ground, plane) = one().await;
    serve(&host).await;
    let id = plane.create().await.id;
    (host, ground, plane, id)
}

pub fn name(id: &str, port: u16) -> String {
    format!("{port}-{id}.localhost:8000")
}
