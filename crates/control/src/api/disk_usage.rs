//! `/v1/disk-usage` and `/v1/sandboxes/{id}/disk-usage`.

use std::sync::Arc;

use api_types::{DiskUsage, SandboxDiskUsage};
use axum::extract::State;
use axum::{Extension, Json as Answer};

use super::extract::{Id, NoQuery, Query};
use super::view;
use crate::app::App;
use crate::auth::Principal;
use crate::error::Result;

/// Get disk usage
///
/// What the team's sandboxes, paused states, checkpoints and snapshots take on the hosts' disks,
/// and what deleting them would free; for operators all of the hosts, with base images and the
/// preboot cache. No sandbox is resumed for it. It may be some seconds old.
#[utoipa::path(
    get, path = "/v1/disk-usage", tag = "disk usage",
    responses(
        (status = 200, description = "Sizes by kind and by sandbox", body = DiskUsage),
        (status = 502, description = "A host failed"),
        (status = 504, description = "A host did not answer in time"),
    )
)]
pub async fn get_disk_usage(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<DiskUsage>> {
    let usage = app.get_disk_usage(&principal).await?;
    Ok(Answer(view::disk_usage(usage)))
}

/// Get the disk usage of a sandbox
///
/// In any state; it is not resumed.
#[utoipa::path(
    get, path = "/{id}/disk-usage", tag = "disk usage",
    responses(
        (status = 200, description = "Sizes", body = SandboxDiskUsage),
        (status = 502, description = "The host failed"),
        (status = 504, description = "The host did not answer in time"),
    )
)]
pub async fn get_sandbox_disk_usage(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<SandboxDiskUsage>> {
    let space = app.get_sandbox_disk_usage(&principal, &id).await?;
    Ok(Answer(view::sandbox_disk_usage(space)))
}
