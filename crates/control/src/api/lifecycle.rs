//! Handlers of `/v1/sandboxes/{id}` that change the state of a whole sandbox: pause, resume, fork.

use std::sync::Arc;

use api_types::{ForkSandbox, Sandbox};
use axum::extract::State;
use axum::{Extension, Json as Answer};
use http::{HeaderMap, StatusCode};

use super::extract::{Id, NoQuery, OptionalJson, Query};
use super::sandboxes::read_idempotency;
use super::view;
use crate::app::sandbox_fork::ForkRequest;
use crate::app::{App, spawn_detached};
use crate::auth::Principal;
use crate::error::Result;

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
        idempotency,
    };
    let forked = async move { app.fork_sandbox(&principal, fork).await };
    let children = spawn_detached(forked).await?;
    Ok((
        StatusCode::CREATED,
        Answer(children.into_iter().map(view::sandbox).collect()),
    ))
}
