//! `/v1/templates`.

use std::sync::Arc;

use api_types::{Template, TemplateKind};
use axum::Json as Answer;
use axum::extract::State;

use super::extract::{NoQuery, Query};
use super::view;
use crate::app::App;
use crate::error::Result;

/// List templates
///
/// What sandboxes can be made from, by name.
#[utoipa::path(
    get, path = "/v1/templates", tag = "templates", operation_id = "list_templates",
    responses(
        (status = 200, description = "All of them", body = Vec<Template>),
        (status = 502, description = "The host agent failed"),
    )
)]
pub async fn list(State(app): State<Arc<App>>, Query(NoQuery {}): Query<NoQuery>) -> Result<Answer<Vec<Template>>> {
    let template = |template: crate::app::templates::Template| Template {
        name: template.name,
        kind: TemplateKind::Base,
        size_bytes: template.size_bytes,
        created_at: view::time(template.created_at),
    };
    Ok(Answer(app.templates().await?.into_iter().map(template).collect()))
}
