//! `/v1/sandboxes/{id}/checkpoints`.

use std::sync::Arc;

use api_types::{Checkpoint, CreateCheckpoint, Sandbox};
use axum::extract::State;
use axum::{Extension, Json as Answer};
use http::StatusCode;
use model::CheckpointName;

use super::extract::{Id, Name, NoQuery, OptionalJson, Query};
use super::view;
use crate::app::{App, snapshots, spawn_detached};
use crate::auth::Principal;
use crate::error::Result;

/// Create a checkpoint
///
/// Remembers this instant of a sandbox that runs or is paused, which goes on as it was. Checkpoints
/// go with their sandbox.
#[utoipa::path(
    post, path = "/{id}/checkpoints", tag = "checkpoints",
    request_body = CreateCheckpoint,
    responses(
        (status = 201, description = "It is safe", body = Checkpoint),
        (status = 409, description = "The sandbox has one of that name, or neither runs nor is paused"),
        (status = 502, description = "The host failed; there is no checkpoint"),
        (status = 504, description = "It did not end in time; the host goes on with it"),
        (status = 507, description = "The disk of the host is full; there is no checkpoint"),
    )
)]
pub async fn create_checkpoint(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    OptionalJson(body): OptionalJson<CreateCheckpoint>,
) -> Result<(StatusCode, Answer<Checkpoint>)> {
    let name = match body.name {
        Some(name) => name.parse()?,
        None => snapshots::random_name("checkpoint")?,
    };
    let made = async move { app.create_checkpoint(&principal, &id, &name).await };
    let made = spawn_detached(made).await?;
    Ok((StatusCode::CREATED, Answer(view::checkpoint(made))))
}

/// List checkpoints
///
/// Those of one sandbox, oldest first.
#[utoipa::path(
    get, path = "/{id}/checkpoints", tag = "checkpoints",
    responses(
        (status = 200, description = "All of them", body = Vec<Checkpoint>),
        (status = 409, description = "The sandbox neither runs nor is paused"),
        (status = 502, description = "The host failed"),
        (status = 504, description = "The host did not answer in time"),
    )
)]
pub async fn list_checkpoints(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Vec<Checkpoint>>> {
    let checkpoints = app.list_checkpoints(&principal, &id).await?;
    let checkpoints = checkpoints.into_iter().map(view::checkpoint);
    Ok(Answer(checkpoints.collect()))
}

/// Delete a checkpoint
#[utoipa::path(
    delete, path = "/{id}/checkpoints/{name}", tag = "checkpoints",
    responses(
        (status = 204, description = "It is gone"),
        (status = 409, description = "The sandbox neither runs nor is paused"),
        (status = 502, description = "The host failed"),
        (status = 504, description = "The host did not answer in time"),
    )
)]
pub async fn delete_checkpoint(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Name(name): Name<CheckpointName>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode> {
    let deleted = async move { app.delete_checkpoint(&principal, &id, &name).await };
    spawn_detached(deleted).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Roll a sandbox back to a checkpoint
///
/// Under the same id; what came after the checkpoint is lost, in memory and on disk. It runs then
/// if it ran before, else it is paused. If it fails, the sandbox is as it was.
#[utoipa::path(
    post, path = "/{id}/checkpoints/{name}/rollback", tag = "checkpoints",
    responses(
        (status = 200, description = "The sandbox is rolled back", body = Sandbox),
        (status = 409, description = "It neither runs nor is paused"),
        (status = 502, description = "The host or the guest failed"),
        (status = 504, description = "It did not end in time; the host goes on with it"),
        (status = 507, description = "The disk of the host is full"),
    )
)]
pub async fn rollback_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Name(name): Name<CheckpointName>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Sandbox>> {
    let back = async move { app.rollback_sandbox(&principal, &id, &name).await };
    Ok(Answer(view::sandbox(spawn_detached(back).await?)))
}
