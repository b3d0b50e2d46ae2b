//! Connections of users to ports of their sandboxes ([`host_rpc::tunnel`] has the protocol).
//!
//! A connection counts as activity as long as it is open, and ends when the current VM does. The
//! only destination is the guest of the named sandbox: no name is looked up, no redirect followed.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use host_rpc::tunnel::{self, Connections, Counted};
use http::StatusCode;
use http::header::{CONNECTION, UPGRADE};
use hyper_util::rt::TokioIo;
use serde_json::json;

use super::alive;
use crate::guest;
use crate::sandbox::activity::Active;
use crate::sandbox::{Handle, Manager, SandboxError};

/// Error of a connection: a status of the protocol, and a text.
struct NoTunnel(StatusCode, String);

#[derive(Clone)]
struct Tunnels {
    manager: Arc<Manager>,
    open: Connections,
}

/// A connection that is ready, with values that have to live as long as it does.
struct Ready {
    handle: Handle,
    connection: guest::Connection,
    _kept: (Active, Counted),
}

pub(super) fn router(manager: Arc<Manager>) -> axum::Router {
    let tunnels = Tunnels {
        manager,
        open: Connections::default(),
    };
    axum::Router::new()
        .route(tunnel::ROUTE, get(open))
        .with_state(tunnels)
}

async fn open(
    State(tunnels): State<Tunnels>,
    Path((id, port)): Path<(String, u16)>,
    mut request: Request,
) -> Result<Response, NoTunnel> {
    if !tunnel::is_switch(request.headers()) || port == 0 {
        let text = format!(
            "ask with the header Upgrade: {}, for a port from 1 to 65535",
            tunnel::PROTOCOL
        );
        return Err(NoTunnel(StatusCode::BAD_REQUEST, text));
    }
    let ready = tunnels.connect(&id, port).await?;
    let upgrade = hyper::upgrade::on(&mut request);
    // Outside of the request's trace: the control plane uses the connection for other requests, too.
    tokio::spawn(async move {
        let Ready {
            handle,
            connection,
            _kept,
        } = ready;
        // The caller may be gone by now.
        let Ok(caller) = upgrade.await else { return };
        tokio::select! {
            ended = tunnel::copy_both_ways(TokioIo::new(caller), connection) => {
                tracing::debug!(sandbox = %handle.id, port, ?ended, "a connection ended");
            }
            _ = alive::wait_until_ended(&handle) => {}
        }
    });
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, tunnel::PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

impl Tunnels {
    async fn connect(&self, id: &str, port: u16) -> Result<Ready, NoTunnel> {
        let id = id.parse().map_err(|error: model::InvalidValue| {
            NoTunnel(StatusCode::NOT_FOUND, error.to_string())
        })?;
        let counted = self.open.begin(&id).ok_or_else(|| {
            let text = format!(
                "there are {} connections to the sandbox already",
                tunnel::MAX_CONNECTIONS
            );
            NoTunnel(StatusCode::TOO_MANY_REQUESTS, text)
        })?;
        let (handle, active) = self.manager.find_running(&id).await?;
        let connect = async { Ok(handle.guest().connect_port(port).await) };
        let connection = alive::while_up(&handle, connect).await.map_err(|error| {
            let stands_still = error.code == connectrpc::ErrorCode::ResourceExhausted;
            let status = if stands_still {
                StatusCode::SERVICE_UNAVAILABLE
            } else {
                StatusCode::CONFLICT
            };
            NoTunnel(status, error.message.unwrap_or_default())
        })??;
        Ok(Ready {
            handle,
            connection,
            _kept: (active, counted),
        })
    }
}

impl From<SandboxError> for NoTunnel {
    fn from(refused: SandboxError) -> Self {
        let status = match refused {
            SandboxError::Unknown(_) => StatusCode::NOT_FOUND,
            SandboxError::Paused
            | SandboxError::NotRunning { .. }
            | SandboxError::ResumeBackoff(_) => StatusCode::CONFLICT,
            SandboxError::Full(_) | SandboxError::Stalled(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, stdx::error::chain(&refused))
    }
}

impl From<guest::Error> for NoTunnel {
    fn from(error: guest::Error) -> Self {
        let status = match error {
            guest::Error::Closed(_) => StatusCode::BAD_GATEWAY,
            _ => StatusCode::GATEWAY_TIMEOUT,
        };
        Self(status, error.to_string())
    }
}

impl IntoResponse for NoTunnel {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "message": self.1 }))).into_response()
    }
}
