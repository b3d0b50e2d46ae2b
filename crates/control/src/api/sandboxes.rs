//! `/v1/sandboxes`.

use std::sync::Arc;

use api_types::{CreateSandbox, IfExists, Sandbox, UpdateSandbox};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use http::{HeaderMap, StatusCode};
use model::{IdleChange, Labels, Limits, ResourceRequest, SandboxAttributes, SandboxSpec};
use serde::Serialize;
use sha2::{Digest, Sha256};
use store::Idempotency;

use super::extract::{Id, Json, NoQuery, Query};
use super::view;
use crate::app::sandbox_create::{CreateRequest, Created};
use crate::app::sandbox_update::UpdateRequest;
use crate::app::{App, spawn_detached};
use crate::auth::Principal;
use crate::error::{Error, Result};

/// Header field whose value makes two creates the same one.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
pub const MAX_IDEMPOTENCY_KEY: usize = 255;

/// Create a sandbox
///
/// Returns when the sandbox is running. A request that is sent again with the same `Idempotency-Key`
/// and body creates no second sandbox: it returns the first one.
#[utoipa::path(
    post, path = "", tag = "sandboxes",
    params(("Idempotency-Key" = Option<String>, Header,
        description = "At most 255 printable ASCII characters; remembered as long as the sandbox is there")),
    request_body = CreateSandbox,
    responses(
        (status = 200, description = "The living sandbox of that name, for `if_exists: return`", body = Sandbox),
        (status = 201, description = "The sandbox is running", body = Sandbox),
        (status = 404, description = "There is no such template"),
        (status = 409, description = "A living sandbox has the name, or it was deleted while it was being made"),
        (status = 422, description = "The idempotency key came before with another body"),
        (status = 502, description = "It did not start"),
        (status = 504, description = "It did not start in time"),
    )
)]
pub async fn create_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    Json(body): Json<CreateSandbox>,
) -> Result<Response> {
    let request = create_request(body, &headers, &app.limits)?;
    let created = async move { Box::pin(app.create_sandbox(&principal, request)).await };
    let (status, sandbox) = match spawn_detached(created).await? {
        Created::New(sandbox) => (StatusCode::CREATED, sandbox),
        Created::Existing(sandbox) => (StatusCode::OK, sandbox),
    };
    Ok((status, Answer(view::sandbox(sandbox))).into_response())
}

/// Reads the body of a create, and the idempotency key beside it.
///
/// # Errors
/// Names the field that is wrong.
pub(crate) fn create_request(
    body: CreateSandbox,
    headers: &HeaderMap,
    limits: &Limits,
) -> Result<CreateRequest> {
    let resources = ResourceRequest::from(&body);
    let attributes = attributes_from(&body)?;
    let returns_existing = body.if_exists == Some(IfExists::Return);
    if returns_existing && attributes.name.is_none() {
        let text = "if_exists: return needs a name, by which the sandbox is found";
        return Err(Error::invalid(text));
    }
    let spec = SandboxSpec::try_from(body)?;
    spec.check(limits)?;
    let idempotency = if attributes == SandboxAttributes::default() {
        // As earlier versions did, whose keys are still remembered.
        read_idempotency(headers, &spec)?
    } else {
        read_idempotency(headers, &(&spec, &attributes))?
    };
    Ok(CreateRequest {
        spec,
        resources,
        attributes,
        returns_existing,
        idempotency,
    })
}

fn attributes_from(body: &CreateSandbox) -> Result<SandboxAttributes> {
    Ok(SandboxAttributes {
        name: body.name.as_deref().map(str::parse).transpose()?,
        labels: Labels::new(body.labels.clone())?,
        ends_at: body.ends_at.as_deref().map(read_end).transpose()?,
        ..SandboxAttributes::default()
    })
}

fn read_end(text: &str) -> Result<i64> {
    view::parse_time(text).ok_or_else(|| {
        Error::invalid("ends_at must be a time of RFC 3339, as in 2030-01-31T12:00:00Z")
    })
}

/// Reads the idempotency key of a request. Its fingerprint is that of the parsed request, so that
/// the spelling of the body does not matter.
pub fn read_idempotency(headers: &HeaderMap, wish: &impl Serialize) -> Result<Option<Idempotency>> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let key = value.as_bytes();
    if key.is_empty()
        || key.len() > MAX_IDEMPOTENCY_KEY
        || !key.iter().all(|byte| (b' '..=b'~').contains(byte))
    {
        let text = format!(
            "Idempotency-Key must be 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters"
        );
        return Err(Error::invalid(text));
    }
    let canonical = serde_json::to_vec(wish).map_err(Error::internal)?;
    let key = String::from_utf8_lossy(key).into_owned();
    Ok(Some(Idempotency {
        key,
        fingerprint: Sha256::digest(canonical).into(),
    }))
}

/// Get a sandbox
#[utoipa::path(
    get, path = "/{id}", tag = "sandboxes",
    responses((status = 200, description = "The sandbox, in any state", body = Sandbox))
)]
pub async fn get_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Sandbox>> {
    Ok(Answer(view::sandbox(
        app.get_sandbox(&principal, &id).await?,
    )))
}

/// Change a sandbox
///
/// Changes name, labels, end and settings about idleness of a sandbox that is pending, running or
/// paused. What is left out stays. Its host learns of it at once, or when it can be reached again.
#[utoipa::path(
    patch, path = "/{id}", tag = "sandboxes",
    request_body = UpdateSandbox,
    responses(
        (status = 200, description = "The sandbox as it is now", body = Sandbox),
        (status = 409, description = "It has stopped, or another living sandbox has the name"),
    )
)]
pub async fn update_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<UpdateSandbox>,
) -> Result<Answer<Sandbox>> {
    let idle = IdleChange::from(&body);
    let name = body
        .name
        .map(|name| name.map(|name| name.parse()).transpose());
    let ends_at = body
        .ends_at
        .map(|at| at.map(|at| read_end(&at)).transpose());
    let request = UpdateRequest {
        idle,
        labels: body.labels.into_iter().collect(),
        name: name.transpose()?,
        ends_at: ends_at.transpose()?,
    };
    let updated = async move { app.update_sandbox(&principal, &id, &request).await };
    Ok(Answer(view::sandbox(spawn_detached(updated).await?)))
}

/// Delete a sandbox
///
/// In whatever state it is, with everything in it. After 503 and 504 the deletion is noted and will
/// be carried out.
#[utoipa::path(
    delete, path = "/{id}", tag = "sandboxes",
    responses(
        (status = 204, description = "Nothing of it is left"),
        (status = 504, description = "The host takes its time; the deletion is noted"),
    )
)]
pub async fn delete_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode> {
    spawn_detached(async move { app.delete_sandbox(&principal, &id).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}
