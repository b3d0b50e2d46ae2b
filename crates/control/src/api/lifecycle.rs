//! Handlers of `/v1/sandboxes/{id}` about the life of a whole sandbox: pause,
//! resume, fork, wait, ping.

use std::sync::Arc;
use std::time::Duration;

use api_types::{ForkSandbox, Sandbox, SandboxStatus};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use http::{HeaderMap, StatusCode};

use super::extract::{Id, NoQuery, OptionalJson, Query};
use super::sandboxes::read_idempotency;
use super::view;
use crate::app::sandbox_fork::ForkRequest;
use crate::app::sandbox_wait::{DEFAULT_WAIT_SEC, MAX_WAIT_SEC, WaitRequest};
use crate::app::{App, spawn_detached};
use crate::auth::Principal;
use crate::error::{Error, Result};

/// Pause a sandbox
///
/// Saves memory and disk, and answers when both are safe; the paused sandbox uses no memory and no
/// CPU. If it fails, the sandbox runs on. One that is paused already stays so.
#[utoipa::path(
    post, path = "/{id}/pause", tag = "sandboxes",
    responses(
        (status = 200, description = "The sandbox is paused", body = Sandbox),
        (status = 409, description = "It neither runs nor is paused"),
        (status = 502, description = "The host failed; it runs on"),
        (status = 504, description = "It did not end in time; the host goes on with it"),
        (status = 507, description = "The disk of the host is full; it runs on"),
    )
)]
pub async fn pause_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Sandbox>> {
    let paused = async move { app.pause_sandbox(&principal, &id).await };
    Ok(Answer(view::sandbox(spawn_detached(paused).await?)))
}

/// Resume a sandbox
///
/// Answers when it runs again, where it was paused. If it fails, the sandbox stays paused. One that
/// runs already goes on. Programs and files of a paused sandbox can also be reached without this
/// where `auto_resume` is set.
#[utoipa::path(
    post, path = "/{id}/resume", tag = "sandboxes",
    responses(
        (status = 200, description = "The sandbox is running", body = Sandbox),
        (status = 409, description = "It neither runs nor is paused"),
        (status = 502, description = "The host or the guest failed; it stays paused"),
        (status = 504, description = "It did not end in time; the host goes on with it"),
        (status = 507, description = "The disk of the host is full; it stays paused"),
    )
)]
pub async fn resume_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Sandbox>> {
    let resumed = async move { app.resume_sandbox(&principal, &id).await };
    Ok(Answer(view::sandbox(spawn_detached(resumed).await?)))
}

/// Ping a sandbox
///
/// Asks the guest agent of a running sandbox whether it answers. Counts as use. One that is paused
/// is not resumed.
#[utoipa::path(
    post, path = "/{id}/ping", tag = "sandboxes",
    responses(
        (status = 204, description = "The sandbox answers"),
        (status = 409, description = "It does not run"),
        (status = 502, description = "The guest agent does not answer"),
        (status = 504, description = "The host does not answer in time"),
    )
)]
pub async fn ping_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode> {
    app.ping_sandbox(&principal, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Keep a sandbox alive
///
/// Counts as use of a running sandbox: the time until it is idle begins again. Its guest is not
/// asked.
#[utoipa::path(
    post, path = "/{id}/keep-alive", tag = "sandboxes",
    responses(
        (status = 204, description = "The sandbox counts as used"),
        (status = 409, description = "It does not run"),
        (status = 504, description = "The host does not answer in time"),
    )
)]
pub async fn keep_sandbox_alive(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode> {
    app.keep_sandbox_alive(&principal, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `read_wait` reads")]
pub struct WaitQuery {
    /// Status to wait for. May come several times: one of them is enough.
    status: Option<Vec<SandboxStatus>>,
    /// True to wait until the sandbox is deleted. This or a status is needed.
    deleted: Option<bool>,
    /// Seconds to wait at most. Default 60.
    #[param(minimum = 1, maximum = 300)]
    timeout_sec: Option<u32>,
}

fn read_wait(pairs: Vec<(String, String)>) -> Result<WaitRequest> {
    let mut request = WaitRequest {
        states: Vec::new(),
        deleted: false,
        timeout: Duration::from_secs(DEFAULT_WAIT_SEC.into()),
    };
    for (name, value) in pairs {
        match name.as_str() {
            "status" => request.states.push(value.parse()?),
            "deleted" => {
                let deleted = value.parse();
                request.deleted =
                    deleted.map_err(|_| Error::invalid("deleted must be true or false"))?;
            }
            "timeout_sec" => {
                let seconds = value.parse().ok();
                let seconds = seconds.filter(|seconds| (1..=MAX_WAIT_SEC).contains(seconds));
                let seconds = seconds.ok_or_else(|| {
                    Error::invalid(format!("timeout_sec must be from 1 to {MAX_WAIT_SEC}"))
                })?;
                request.timeout = Duration::from_secs(seconds.into());
            }
            _ => {
                let name: String = name.chars().take(64).collect();
                let text =
                    format!("the query is not what this route reads: unknown field `{name}`");
                return Err(Error::invalid(text));
            }
        }
    }
    if request.states.is_empty() && !request.deleted {
        return Err(Error::invalid(
            "say what to wait for: status=running, or deleted=true",
        ));
    }
    Ok(request)
}

/// Wait for a sandbox
///
/// Answers once the sandbox has the status, at once if it has it already. After 504 the request can
/// be sent again.
#[utoipa::path(
    get, path = "/{id}/wait", tag = "sandboxes", params(WaitQuery),
    responses(
        (status = 200, description = "The sandbox has the status", body = Sandbox),
        (status = 204, description = "The sandbox is deleted"),
        (status = 409, description = "It has stopped, and will never have the status"),
        (status = 504, description = "It does not have the status yet"),
    )
)]
pub async fn wait_for_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response> {
    let request = read_wait(pairs)?;
    Ok(
        match app.wait_for_sandbox(&principal, &id, &request).await? {
            Some(row) => Answer(view::sandbox(row)).into_response(),
            None => StatusCode::NO_CONTENT.into_response(),
        },
    )
}

/// Fork a sandbox
///
/// Makes children that go on from one instant of it, each with a copy of its memory and disk, and
/// answers when all of them run. If one does not, none is left. The sandbox, which may also be
/// paused, goes on as it was. A request that comes again with the same `Idempotency-Key` and count
/// makes no more children: it gets the first ones.
#[utoipa::path(
    post, path = "/{id}/fork", tag = "sandboxes",
    params(("Idempotency-Key" = Option<String>, Header,
        description = "At most 255 printable ASCII characters; remembered as long as the children are there")),
    request_body = ForkSandbox,
    responses(
        (status = 201, description = "The children are running", body = Vec<Sandbox>),
        (status = 409, description = "It neither runs nor is paused, or a child was deleted"),
        (status = 422, description = "The idempotency key came before for another sandbox or count"),
        (status = 502, description = "The host or a guest failed; there are no children"),
        (status = 504, description = "It did not end in time; there will be no children"),
        (status = 507, description = "The disk of the host is full; there are no children"),
    )
)]
pub async fn fork_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(source): Id,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    OptionalJson(body): OptionalJson<ForkSandbox>,
) -> Result<(StatusCode, Answer<Vec<Sandbox>>)> {
    let count = body.count.unwrap_or(1);
    let idempotency = read_idempotency(&headers, &(source.as_str(), count))?;
    let fork = ForkRequest {
        source,
        count,
        run_ms: None,
        idempotency,
    };
    let forked = async move { app.fork_sandbox(&principal, fork).await };
    let children = spawn_detached(forked).await?;
    Ok((
        StatusCode::CREATED,
        Answer(children.into_iter().map(view::sandbox).collect()),
    ))
}
