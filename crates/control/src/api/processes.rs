//! `/v1/sandboxes/{id}/processes`: background commands that run, as earlier clients of Wrenn know
//! them. Each route is one of `commands` in other words.

use std::sync::Arc;

use api_types::{Process, ProcessList, ProcessSignal};
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::Response;
use axum::{Extension, Json as Answer};
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::attach::{self, AttachQuery};
use super::extract::{CommandRef, Id, NoQuery, Query};
use crate::app::App;
use crate::auth::Principal;
use crate::error::Result;

/// List running background commands
///
/// `GET commands` says more.
#[utoipa::path(
    get, path = "/{id}/processes", tag = "commands",
    responses(
        (status = 200, description = "Those that run", body = ProcessList),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
    )
)]
pub async fn list_processes(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<ProcessList>> {
    let commands = app.list_commands(&principal, &id).await?;
    let running = commands
        .into_iter()
        .filter(|command| command.exit_code.is_none());
    let processes = running.map(|command| Process {
        pid: command.pid,
        tag: command.name.unwrap_or(command.id),
        cmd: command.cmd,
        args: command.args,
    });
    Ok(Answer(ProcessList {
        processes: processes.collect(),
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct KillQuery {
    /// SIGKILL without it.
    #[param(inline)]
    signal: Option<ProcessSignal>,
}

/// End a background command
///
/// `POST commands/{command}/signal` does the same.
#[utoipa::path(
    delete, path = "/{id}/processes/{command}", tag = "commands", params(KillQuery),
    responses(
        (status = 204, description = "The signal is sent"),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
    )
)]
pub async fn kill_process(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    CommandRef(command): CommandRef,
    Query(query): Query<KillQuery>,
) -> Result<StatusCode> {
    let signal = query.signal.unwrap_or(ProcessSignal::Kill);
    app.signal_command(&principal, &id, &command, signal.number())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stream a background command
///
/// The same as `commands/{command}/attach`.
#[utoipa::path(
    get, path = "/{id}/processes/{command}/stream", tag = "commands",
    params(AttachQuery),
    responses(
        (status = 101, description = "The WebSocket is open"),
        (status = 409, description = "The sandbox does not run"),
    )
)]
pub async fn stream_process(
    app: State<Arc<App>>,
    principal: Extension<Principal>,
    id: Id,
    command: CommandRef,
    query: Query<AttachQuery>,
    upgrade: std::result::Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response> {
    attach::attach_command(app, principal, id, command, query, upgrade).await
}
