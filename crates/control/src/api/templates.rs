//! `/v1/templates`.

use std::sync::Arc;

use api_types::Template;
use axum::extract::State;
use axum::{Extension, Json as Answer};

use super::extract::{NoQuery, Query};
use super::view;
use crate::app::App;
use crate::auth::Principal;
use crate::error::Result;

/// List templates
///
/// What sandboxes can be made from, by name: base images and snapshots.
#[utoipa::path(
    get, path = "/v1/templates", tag = "templates",
    responses(
        (status = 200, description = "All of them", body = Vec<Template>),
        (status = 502, description = "The host agent failed"),
    )
)]
pub async fn list_templates(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Vec<Template>>> {
    Ok(Answer(
        app.list_templates(&principal)
            .await?
            .into_iter()
            .map(view::template)
            .collect(),
    ))
}
