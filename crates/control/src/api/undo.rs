//! `/v1/sandboxes/{id}/auto-checkpoint` and `/v1/sandboxes/{id}/undo`.

use std::sync::Arc;

use api_types::{AutoCheckpoint, History, UndoSandbox, Undone};
use axum::extract::State;
use axum::{Extension, Json as Answer};
use http::StatusCode;

use super::extract::{Id, Json, NoQuery, OptionalJson, Query};
use super::view;
use crate::app::{App, spawn_detached};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::UndoTarget;

/// Set when checkpoints are made automatically
///
/// Replaces the policy, with which a sandbox can also be created. Automatic checkpoints go with
/// their sandbox; the oldest go when there are more than `keep`, or when they take more than
/// `max_bytes`. Those that a user made stay. One that cannot be made fails no command: the log of
/// the sandbox says why, and its history.
#[utoipa::path(
    put, path = "/{id}/auto-checkpoint", tag = "checkpoints",
    request_body = AutoCheckpoint,
    responses(
        (status = 204, description = "The policy holds"),
        (status = 409, description = "The sandbox neither runs nor is paused"),
        (status = 502, description = "The host failed; the former policy holds"),
        (status = 504, description = "It did not end in time; the host goes on with it"),
    )
)]
pub async fn set_auto_checkpoint(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<AutoCheckpoint>,
) -> Result<StatusCode> {
    let policy = Some(body.into());
    let set = async move { app.set_auto_checkpoint(&principal, &id, policy).await };
    spawn_detached(set).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Make no more checkpoints automatically
///
/// Those that there are stay.
#[utoipa::path(
    delete, path = "/{id}/auto-checkpoint", tag = "checkpoints",
    responses(
        (status = 204, description = "None are made from now on"),
        (status = 409, description = "The sandbox neither runs nor is paused"),
        (status = 502, description = "The host failed; the former policy holds"),
        (status = 504, description = "It did not end in time; the host goes on with it"),
    )
)]
pub async fn remove_auto_checkpoint(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode> {
    let set = async move { app.set_auto_checkpoint(&principal, &id, None).await };
    spawn_detached(set).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Get the history of a sandbox
///
/// Where an undo goes, and the policy that makes its steps.
#[utoipa::path(
    get, path = "/{id}/undo", tag = "checkpoints",
    responses(
        (status = 200, description = "From the last step on", body = History),
        (status = 409, description = "The sandbox neither runs nor is paused"),
        (status = 502, description = "The host failed"),
        (status = 504, description = "The host did not answer in time"),
    )
)]
pub async fn get_history(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<History>> {
    let history = app.get_history(&principal, &id).await?;
    Ok(Answer(view::history(history)))
}

/// Undo what came after an automatic checkpoint
///
/// Saves the present state as a checkpoint, then rolls the sandbox back to the last automatic
/// checkpoint, or so many steps further, or to any checkpoint by its name. Another undo goes on
/// from there; a rollback to `saved_as` takes the undo back. If it fails, the sandbox is as it was.
#[utoipa::path(
    post, path = "/{id}/undo", tag = "checkpoints",
    request_body = UndoSandbox,
    responses(
        (status = 200, description = "The sandbox is rolled back", body = Undone),
        (status = 409, description = "It neither runs nor is paused"),
        (status = 502, description = "The host or the guest failed"),
        (status = 504, description = "It did not end in time; the host goes on with it"),
        (status = 507, description = "The disk of the host is full"),
    )
)]
pub async fn undo_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    OptionalJson(body): OptionalJson<UndoSandbox>,
) -> Result<Answer<Undone>> {
    let target = match (body.steps, body.checkpoint) {
        (None, Some(name)) => UndoTarget::Checkpoint(name.parse()?),
        (Some(_), Some(_)) => {
            return Err(Error::invalid("name steps or a checkpoint, not both"));
        }
        (Some(0), None) => return Err(Error::invalid("steps must be at least 1")),
        (steps, None) => UndoTarget::Steps(steps.unwrap_or(1)),
    };
    let undo = async move { app.undo_sandbox(&principal, &id, &target).await };
    let (sandbox, undone) = spawn_detached(undo).await?;
    Ok(Answer(Undone {
        sandbox: view::sandbox(sandbox),
        checkpoint: undone.checkpoint,
        saved_as: undone.saved_as,
    }))
}
