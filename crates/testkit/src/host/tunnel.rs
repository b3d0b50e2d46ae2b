//! Connections to ports of sandboxes: whatever listens where the test says.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use connectrpc::ErrorCode;
use host_rpc::tunnel;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

use super::{Shared, lifecycle};

pub(super) fn router(shared: Arc<Shared>) -> axum::Router {
    axum::Router::new()
        .route(tunnel::ROUTE, get(open))
        .with_state(shared)
}

async fn open(
    State(shared): State<Arc<Shared>>,
    Path((id, port)): Path<(String, u16)>,
    mut request: Request,
) -> Response {
    assert!(tunnel::is_switch(request.headers()), "{request:?}");
    let stream = match connect(&shared, &id, port).await {
        Ok(stream) => stream,
        Err((status, text)) => return (status, Json(json!({ "message": text }))).into_response(),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        shared.world().open_tunnels += 1;
        if let Ok(caller) = upgrade.await {
            let _ = tunnel::copy_both_ways(TokioIo::new(caller), stream).await;
        }
        shared.world().open_tunnels -= 1;
    });
    (
        StatusCode::SWITCHING_PROTOCOLS,
        [("connection", "upgrade"), ("upgrade", tunnel::PROTOCOL)],
    )
        .into_response()
}

async fn connect(shared: &Shared, id: &str, port: u16) -> Result<TcpStream, (StatusCode, String)> {
    let refused = |error: connectrpc::ConnectError| {
        let status = match error.code {
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::FailedPrecondition => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, error.message.unwrap_or_default())
    };
    shared
        .script
        .meet_barrier("Tunnel")
        .await
        .map_err(refused)?;
    lifecycle::usable(shared, id).map_err(refused)?;
    let address = shared.world().ports.get(&port).copied();
    let closed = || {
        (
            StatusCode::BAD_GATEWAY,
            format!("nothing listens on port {port}"),
        )
    };
    TcpStream::connect(address.ok_or_else(closed)?)
        .await
        .map_err(|_| closed())
}
