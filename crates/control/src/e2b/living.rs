//! Checks that several routes about one sandbox begin with.

use http::StatusCode;
use model::{ErrorCode, SandboxId};
use store::Sandbox;

use super::error::{Failure, Result};
use crate::app::App;
use crate::auth::Principal;
use crate::error::Error;

/// Finds a sandbox that has not ended.
///
/// # Errors
/// 404: clients know no sandboxes that have ended.
pub async fn find_living(app: &App, principal: &Principal, id: &SandboxId) -> Result<Sandbox> {
    let found = app.get_sandbox(principal, id).await;
    let row = found.map_err(|error| match error.code {
        ErrorCode::NotFound => Failure::no_sandbox(id.as_str()),
        _ => error.into(),
    })?;
    if row.state.is_terminal() {
        return Err(Failure::no_sandbox(id.as_str()));
    }
    Ok(row)
}

/// Returns the failure of a call on a sandbox that lived when it began: 404 if it has ended since.
pub async fn living_or_gone(
    app: &App,
    principal: &Principal,
    id: &SandboxId,
    error: Error,
) -> Failure {
    if error.code != ErrorCode::InvalidState {
        return error.into();
    }
    match find_living(app, principal, id).await {
        Err(gone) if gone.status() == StatusCode::NOT_FOUND => gone,
        _ => error.into(),
    }
}

/// Creates the failure for a pause that is to keep the disk alone.
pub fn disk_only_pause() -> Failure {
    let text =
        "this server pauses sandboxes with their memory; leave the mode out, or keep the memory";
    Failure::invalid(text).with_slug("snapshot_filesystem_only_disabled")
}
