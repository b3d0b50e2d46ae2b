//! `/v1/sandboxes`.

use std::sync::Arc;

use api_types::{CreateSandbox, Sandbox};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use http::{HeaderMap, HeaderValue, StatusCode};
use model::{ResourceRequest, SandboxSpec};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use store::{Cursor, Idempotency};
use utoipa::IntoParams;

use super::extract::{Id, Json, NoQuery, Query};
use super::view;
use crate::app::sandbox_create::CreateRequest;
use crate::app::{App, spawn_detached};
use crate::auth::Principal;
use crate::error::{Error, Result};

/// Header field whose value makes two creates the same one.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
pub const MAX_IDEMPOTENCY_KEY: usize = 255;
/// Header field with the cursor of the next page.
pub(super) const NEXT_CURSOR: &str = "x-next-cursor";
const DEFAULT_LIMIT: u32 = 100;
pub const MAX_LIMIT: u32 = 1000;

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
        (status = 201, description = "The sandbox is running", body = Sandbox),
        (status = 404, description = "There is no such template"),
        (status = 409, description = "It was deleted while it was being made"),
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
    let resources = ResourceRequest::from(&body);
    let spec = SandboxSpec::try_from(body)?;
    spec.check(&app.limits)?;
    let idempotency = read_idempotency(&headers, &spec)?;
    let request = CreateRequest {
        spec,
        resources,
        idempotency,
    };
    let created = async move { app.create_sandbox(&principal, request).await };
    let sandbox = spawn_detached(created).await?;
    Ok((StatusCode::CREATED, Answer(view::sandbox(sandbox))).into_response())
}

/// Reads the idempotency key of a request. Its fingerprint is that of the parsed request, so that
/// the spelling of the body does not matter.
pub(super) fn read_idempotency(
    headers: &HeaderMap,
    wish: &impl Serialize,
) -> Result<Option<Idempotency>> {
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

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Most entries wanted. Default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `X-Next-Cursor` of the page before, unchanged.
    #[param(pattern = "^[0-9a-f]{16}\\.sb-[a-z0-9]{20}$")]
    cursor: Option<String>,
}

/// List sandboxes
///
/// In whatever state, newest first, one page at a time.
#[utoipa::path(
    get, path = "", tag = "sandboxes", params(ListQuery),
    responses((status = 200, description = "One page", body = Vec<Sandbox>,
        headers(("X-Next-Cursor" = Option<String>,
            description = "Where the next page begins; absent on the last one"))))
)]
pub async fn list_sandboxes(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(query): Query<ListQuery>,
) -> Result<Response> {
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Error::invalid(format!(
            "limit must be from 1 to {MAX_LIMIT}, not {limit}"
        )));
    }
    let cursor: Option<Cursor> = query.cursor.map(|cursor| cursor.parse()).transpose()?;
    let page = app
        .list_sandboxes(&principal, cursor.as_ref(), limit)
        .await?;
    let sandboxes: Vec<Sandbox> = page.sandboxes.into_iter().map(view::sandbox).collect();
    let mut response = Answer(sandboxes).into_response();
    if let Some(next) = page.next {
        let value = HeaderValue::from_str(&next.to_string()).map_err(Error::internal)?;
        response.headers_mut().insert(NEXT_CURSOR, value);
    }
    Ok(response)
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
