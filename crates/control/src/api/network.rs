//! `/v1/sandboxes/{id}/network`.

use std::sync::Arc;

use api_types::{NetworkRules, Sandbox};
use axum::extract::State;
use axum::{Extension, Json as Answer};

use super::extract::{Id, Json, NoQuery, Query};
use super::view;
use crate::app::{App, spawn_detached};
use crate::auth::Principal;
use crate::error::Result;

/// Change where a sandbox may connect to
///
/// Replaces all of its rules: what the body leaves out is empty. Connections that the new rules
/// deny end. One that is paused has them when it is resumed. They stay over pauses and restarts,
/// and forks have those of their source.
#[utoipa::path(
    put, path = "/{id}/network", tag = "sandboxes",
    request_body = NetworkRules,
    responses(
        (status = 200, description = "The rules hold", body = Sandbox),
        (status = 409, description = "It neither runs nor is paused"),
        (status = 502, description = "The host failed; the former rules hold"),
        (status = 504, description = "It did not end in time; the host goes on with it"),
    )
)]
pub async fn set_network(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<NetworkRules>,
) -> Result<Answer<Sandbox>> {
    let rules = body.try_into()?;
    let changed = async move { app.set_network(&principal, &id, &rules).await };
    Ok(Answer(view::sandbox(spawn_detached(changed).await?)))
}
