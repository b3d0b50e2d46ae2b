//! `/v1/sandboxes/{id}/port-links` and `/v1/sandboxes/{id}/tunnel`. The ports themselves are served
//! by `crate::proxy`, below `/v1/sandboxes/{id}/ports/{port}/` and on names of their own.

use std::sync::Arc;

use api_types::{PortLink, PortLinkRequest};
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::Response;
use axum::{Extension, Json as Answer};
use http::HeaderMap;
use http::header::HOST;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Id, Json, NoQuery, Query};
use super::{tunnel, view};
use crate::app::App;
use crate::app::ports::PortUrl;
use crate::auth::{Principal, web_socket};
use crate::error::{Error, Result};

/// Create a signed URL for a port
///
/// The URL opens the port over HTTP until it expires or the sandbox is deleted. Without a
/// link, requests to the port need an API key. Of a sandbox with `public_ports` the link holds no
/// secret and does not expire.
#[utoipa::path(
    post, path = "/{id}/port-links", tag = "ports", request_body = PortLinkRequest,
    responses((status = 200, description = "The link", body = PortLink))
)]
pub async fn create_port_link(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    Json(body): Json<PortLinkRequest>,
) -> Result<Answer<PortLink>> {
    let asked = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let PortUrl {
        url,
        path_url,
        token,
        expires_at,
    } = app
        .create_port_url(&principal, &id, body.port, body.expires_in_sec, asked)
        .await?;
    let expires_at = expires_at.map(|seconds| view::format_time(seconds.saturating_mul(1000)));
    Ok(Answer(PortLink {
        url,
        path_url,
        token,
        expires_at,
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TunnelQuery {
    #[param(minimum = 1, maximum = 65535)]
    port: u16,
}

/// Connect to a port
///
/// A WebSocket with binary frames, which carry the bytes of one TCP connection to the port, both
/// ways. An empty frame ends its direction, as a half-closed connection does; closing the WebSocket
/// closes the connection. Web pages send their key as for `exec/stream`.
#[utoipa::path(
    get, path = "/{id}/tunnel", tag = "ports", params(TunnelQuery),
    responses(
        (status = 101, description = "The connection is open"),
        (status = 409, description = "The sandbox does not run"),
        (status = 429, description = "There are too many connections to the sandbox"),
        (status = 502, description = "Nothing listens on the port"),
        (status = 504, description = "The guest does not answer"),
    )
)]
pub async fn tunnel(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(query): Query<TunnelQuery>,
    upgrade: std::result::Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response> {
    let upgrade = upgrade.map_err(|error| {
        Error::invalid(format!(
            "this route speaks WebSocket (RFC 6455): {}",
            error.body_text().to_lowercase()
        ))
    })?;
    let (connection, counted) = app.open_port_tunnel(&principal, &id, query.port).await?;
    let shutdown = app.shutdown.clone();
    let upgrade = upgrade
        .protocols([web_socket::PROTOCOL])
        .max_message_size(tunnel::MAX_READ)
        .max_frame_size(tunnel::MAX_READ);
    Ok(upgrade.on_upgrade(async move |socket| {
        tokio::select! {
            () = tunnel::carry(socket, TokioIo::new(connection)) => {}
            () = shutdown.cancelled() => {}
        }
        drop(counted);
    }))
}
