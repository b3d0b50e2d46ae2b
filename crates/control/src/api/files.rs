//! `/v1/sandboxes/{id}/files/…`, but for uploads.

use std::sync::Arc;

use api_types::{FileInfo, ListFilesRequest, PathRequest};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use futures::{Stream, stream};
use http::StatusCode;
use http::header::CONTENT_TYPE;

use super::extract::{Id, Json, NoQuery, Query};
use super::view;
use crate::app::App;
use crate::app::files::Download;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{FileForm, GuestPath};

impl From<PathRequest> for GuestPath {
    fn from(PathRequest { path, user }: PathRequest) -> Self {
        Self { path, user }
    }
}

/// Read a file
///
/// Its bytes as they come.
#[utoipa::path(
    post, path = "/{id}/files/read", tag = "files", request_body = PathRequest,
    responses(
        (status = 200, description = "The bytes", body = super::Binary, content_type = "application/octet-stream"),
        (status = 403, description = "The user may not read it"),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
    )
)]
pub async fn read_file(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<PathRequest>,
) -> Result<Response> {
    let content = app
        .read_file(&principal, &id, body.into(), FileForm::Content)
        .await?;
    Ok(download_response("application/octet-stream", content))
}

/// Read a file of any size
///
/// The same as `files/read`, which streams as well.
#[utoipa::path(
    post, path = "/{id}/files/stream/read", tag = "files",
    request_body = PathRequest,
    responses(
        (status = 200, description = "The bytes", body = super::Binary, content_type = "application/octet-stream"),
        (status = 403, description = "The user may not read it"),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
    )
)]
pub async fn stream_read_file(
    state: State<Arc<App>>,
    principal: Extension<Principal>,
    id: Id,
    query: Query<NoQuery>,
    body: Json<PathRequest>,
) -> Result<Response> {
    read_file(state, principal, id, query, body).await
}

/// Returns a response whose connection breaks when the content does, so that a part is never taken
/// for the whole.
pub(super) fn download_response(media_type: &'static str, content: Download) -> Response {
    (
        [(CONTENT_TYPE, media_type)],
        Body::from_stream(pieces(content)),
    )
        .into_response()
}

fn pieces(content: Download) -> impl Stream<Item = Result<bytes::Bytes>> {
    stream::try_unfold(content, |mut content| async move {
        let piece = content
            .next()
            .await
            .inspect_err(|error| tracing::info!(error = error.chain(), "download broke"))?;
        Ok::<_, Error>(piece.map(|piece| (piece, content)))
    })
}

/// Get information on a file
#[utoipa::path(
    post, path = "/{id}/files/stat", tag = "files", request_body = PathRequest,
    responses(
        (status = 200, description = "What it is", body = FileInfo),
        (status = 403, description = "The user may not look there"),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
        (status = 504, description = "The guest did not answer in time"),
    )
)]
pub async fn stat_file(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<PathRequest>,
) -> Result<Answer<FileInfo>> {
    Ok(Answer(view::file(
        app.stat_path(&principal, &id, body.into()).await?,
    )))
}

/// List a directory
#[utoipa::path(
    post, path = "/{id}/files/list", tag = "files", request_body = ListFilesRequest,
    responses(
        (status = 200, description = "What is below it, down to `depth`", body = Vec<FileInfo>),
        (status = 403, description = "The user may not look there"),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
        (status = 504, description = "The guest did not answer in time"),
    )
)]
pub async fn list_files(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<ListFilesRequest>,
) -> Result<Answer<Vec<FileInfo>>> {
    let ListFilesRequest { path, depth, user } = body;
    let entries = app
        .list_dir(
            &principal,
            &id,
            GuestPath { path, user },
            depth.unwrap_or(1),
        )
        .await?;
    Ok(Answer(entries.into_iter().map(view::file).collect()))
}

/// Create a directory
///
/// And its parents.
#[utoipa::path(
    post, path = "/{id}/files/mkdir", tag = "files", request_body = PathRequest,
    responses(
        (status = 204, description = "It is there"),
        (status = 403, description = "The user may not make it"),
        (status = 409, description = "The sandbox does not run, or something else is there"),
        (status = 502, description = "The guest failed"),
        (status = 504, description = "The guest did not answer in time"),
        (status = 507, description = "The disk of the sandbox is full"),
    )
)]
pub async fn make_directory(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<PathRequest>,
) -> Result<StatusCode> {
    app.make_dir(&principal, &id, body.into()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Remove a file
///
/// Or a directory with everything in it.
#[utoipa::path(
    post, path = "/{id}/files/remove", tag = "files", request_body = PathRequest,
    responses(
        (status = 204, description = "It is gone"),
        (status = 403, description = "The user may not remove it"),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
        (status = 504, description = "The guest did not answer in time"),
    )
)]
pub async fn remove_file(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<PathRequest>,
) -> Result<StatusCode> {
    app.remove_path(&principal, &id, body.into()).await?;
    Ok(StatusCode::NO_CONTENT)
}
