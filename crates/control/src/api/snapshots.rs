//! `/v1/snapshots`.

use std::sync::Arc;

use api_types::{CreateSnapshot, Template, TemplateKind};
use axum::extract::State;
use axum::{Extension, Json as Answer};
use http::StatusCode;
use model::TemplateName;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Json, Name, NoQuery, Query};
use super::view;
use crate::app::snapshots::{self, NewSnapshot};
use crate::app::{App, spawn_detached};
use crate::auth::Principal;
use crate::error::Result;
use crate::hosts;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CreateQuery {
    /// As `overwrite` in the body, which outranks it. The original Wrenn has it here.
    overwrite: Option<bool>,
}

/// Create a snapshot
///
/// Makes a template of a sandbox that runs or is paused, which goes on as it was.
#[utoipa::path(
    post, path = "/v1/snapshots", tag = "templates", params(CreateQuery),
    request_body = CreateSnapshot,
    responses(
        (status = 201, description = "Sandboxes can be created from it", body = Template),
        (status = 404, description = "There is no such sandbox"),
        (status = 409, description = "The name is taken, the snapshot to overwrite is in use, or the sandbox neither \
            runs nor is paused"),
        (status = 502, description = "The host failed; there is no snapshot"),
        (status = 504, description = "It did not end in time; the host goes on with it"),
        (status = 507, description = "The disk of the host is full; there is no snapshot"),
    )
)]
pub async fn create_snapshot(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    query: Query<CreateQuery>,
    body: Json<CreateSnapshot>,
) -> Result<(StatusCode, Answer<Template>)> {
    let made = make_snapshot(app, principal, query, body).await?;
    Ok((StatusCode::CREATED, Answer(view::template(made))))
}

/// Makes the snapshot that a request asks for.
///
/// # Errors
/// A name that is none; those of the use case.
pub(crate) async fn make_snapshot(
    app: Arc<App>,
    principal: Principal,
    Query(query): Query<CreateQuery>,
    Json(body): Json<CreateSnapshot>,
) -> Result<hosts::Template> {
    let name = match body.name {
        Some(name) => name.parse::<TemplateName>()?,
        None => snapshots::random_name("template")?,
    };
    let new = NewSnapshot {
        sandbox: body.sandbox_id.parse()?,
        name,
        memory: body.memory.unwrap_or(true),
        overwrite: body.overwrite.or(query.overwrite).unwrap_or(false),
    };
    spawn_detached(async move { app.create_snapshot(&principal, new).await }).await
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only those of this kind. Without it: all that were made of sandboxes.
    #[serde(rename = "type")]
    kind: Option<TemplateKind>,
}

/// List snapshots
///
/// The templates that were made of sandboxes, by name.
#[utoipa::path(
    get, path = "/v1/snapshots", tag = "templates", params(ListQuery),
    responses(
        (status = 200, description = "All of them", body = Vec<Template>),
        (status = 502, description = "The host agent failed"),
    )
)]
pub async fn list_snapshots(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(query): Query<ListQuery>,
) -> Result<Answer<Vec<Template>>> {
    let templates = app
        .list_snapshots(&principal)
        .await?
        .into_iter()
        .map(view::template);
    let is_wanted = |template: &Template| match query.kind {
        Some(kind) => template.kind == kind,
        None => template.kind != TemplateKind::Base,
    };
    let is_wanted = |template: &Template| template.digest.is_none() && is_wanted(template);
    Ok(Answer(templates.filter(is_wanted).collect()))
}

/// Get a snapshot
#[utoipa::path(
    get, path = "/v1/snapshots/{name}", tag = "templates",
    responses(
        (status = 200, description = "The snapshot", body = Template),
        (status = 502, description = "The host agent failed"),
    )
)]
pub async fn get_snapshot(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Name(name): Name<TemplateName>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Template>> {
    Ok(Answer(view::template(
        app.get_snapshot(&principal, &name).await?,
    )))
}

/// Delete a snapshot
///
/// Sandboxes that were made from it keep it: as long as there is one, it is refused with their ids.
#[utoipa::path(
    delete, path = "/v1/snapshots/{name}", tag = "templates",
    responses(
        (status = 204, description = "It is gone"),
        (status = 409, description = "Sandboxes use it; the message names them"),
        (status = 502, description = "The host agent failed"),
        (status = 504, description = "The host did not answer in time"),
    )
)]
pub async fn delete_snapshot(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Name(name): Name<TemplateName>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode> {
    let deleted = async move { app.delete_snapshot(&principal, &name).await };
    spawn_detached(deleted).await?;
    Ok(StatusCode::NO_CONTENT)
}
