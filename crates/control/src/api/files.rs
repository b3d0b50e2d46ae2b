//! `/v1/sandboxes/{id}/files/…`, but for uploads.

use std::sync::Arc;

use api_types::{
    ChmodRequest, ChownRequest, FileInfo, ListFilesRequest, MoveFileRequest, PathRequest,
};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::{Stream, stream};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use model::ErrorCode;

use super::extract::{Id, Json, NoQuery, Query};
use super::sandbox_list::NEXT_CURSOR;
use super::view;
use crate::app::App;
use crate::app::files::{Download, Listing, MAX_ENTRIES, MAX_PATH};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{FileForm, GuestPath, ListingQuery, NewOwner};

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
pub(crate) fn download_response(media_type: &'static str, content: Download) -> Response {
    (
        [(CONTENT_TYPE, media_type)],
        Body::from_stream(pieces(content)),
    )
        .into_response()
}

fn pieces(content: Download) -> impl Stream<Item = Result<Bytes>> {
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
///
/// By the bytes of the names, each directory before what is in it. With `limit` in pages: what is
/// there during the whole listing is listed exactly once, whatever comes and goes meanwhile. Without
/// it, a list of more than 100,000 entries breaks off and is not whole JSON.
#[utoipa::path(
    post, path = "/{id}/files/list", tag = "files", request_body = ListFilesRequest,
    responses(
        (status = 200, description = "What is below it, down to `depth`", body = Vec<FileInfo>,
            headers(("X-Next-Cursor" = Option<String>,
                description = "Where the next page begins; absent on the last one"))),
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
) -> Result<Response> {
    let ListFilesRequest {
        path,
        depth,
        user,
        limit,
        cursor,
    } = body;
    let query = ListingQuery {
        path: GuestPath { path, user },
        depth: depth.unwrap_or(1),
        after: cursor.map_or(Ok(Vec::new()), |cursor| parse_cursor(&cursor))?,
        limit,
    };
    let listing = app.list_dir(&principal, &id, query).await?;
    if limit.is_none() {
        let body = Body::from_stream(json_array(listing));
        return Ok(([(CONTENT_TYPE, "application/json")], body).into_response());
    }
    let page = listing.into_page();
    let entries: Vec<FileInfo> = page.entries.into_iter().map(view::file).collect();
    let mut response = Answer(entries).into_response();
    if !page.next.is_empty() {
        let cursor = URL_SAFE_NO_PAD.encode(page.next);
        let value = HeaderValue::from_str(&cursor).map_err(Error::internal)?;
        response.headers_mut().insert(NEXT_CURSOR, value);
    }
    Ok(response)
}

/// Returns the path that a cursor stands for.
fn parse_cursor(cursor: &str) -> Result<Vec<u8>> {
    let after = URL_SAFE_NO_PAD.decode(cursor).unwrap_or_default();
    if after.is_empty() || after.len() > MAX_PATH {
        return Err(Error::invalid(
            "cursor must be the X-Next-Cursor of the page before; begin again without it",
        ));
    }
    Ok(after)
}

/// Returns a JSON array of all entries, a page at a time. The connection breaks when the listing
/// does, so that a part is never taken for the whole.
fn json_array(listing: Listing) -> impl Stream<Item = Result<Bytes>> {
    stream::try_unfold(Some((listing, 0)), |state| async move {
        let Some((mut listing, count)) = state else {
            return Ok(None);
        };
        let entries = listing
            .next()
            .await
            .inspect_err(|error| tracing::info!(error = error.chain(), "listing broke"))?;
        let mut text = Vec::new();
        if count == 0 {
            text.push(b'[');
        }
        let Some(entries) = entries else {
            text.push(b']');
            return Ok(Some((Bytes::from(text), None)));
        };
        let total = count + entries.len();
        if total > MAX_ENTRIES {
            tracing::info!(
                "a listing of more than {MAX_ENTRIES} entries was cut: it has to be asked for in pages"
            );
            return Err(Error::new(
                ErrorCode::TooLarge,
                format!("more than {MAX_ENTRIES} entries: ask for pages with limit"),
            ));
        }
        for (n, entry) in entries.into_iter().enumerate() {
            if count + n > 0 {
                text.push(b',');
            }
            serde_json::to_writer(&mut text, &view::file(entry)).map_err(Error::internal)?;
        }
        Ok(Some((Bytes::from(text), Some((listing, total)))))
    })
}

/// Move a file or directory
///
/// Or rename it, within a file system of the sandbox.
#[utoipa::path(
    post, path = "/{id}/files/move", tag = "files", request_body = MoveFileRequest,
    responses(
        (status = 200, description = "What is at the destination now", body = FileInfo),
        (status = 403, description = "The user may not move it"),
        (status = 409, description = "The sandbox does not run, or the destination is taken"),
        (status = 502, description = "The guest failed"),
        (status = 504, description = "The guest did not answer in time"),
        (status = 507, description = "The disk of the sandbox is full"),
    )
)]
pub async fn move_file(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<MoveFileRequest>,
) -> Result<Answer<FileInfo>> {
    let MoveFileRequest {
        source: path,
        destination,
        overwrite,
        user,
    } = body;
    let source = GuestPath { path, user };
    let moved = app
        .move_path(&principal, &id, source, destination, !overwrite)
        .await?;
    Ok(Answer(view::file(moved)))
}

/// Change permission bits
///
/// As chmod(1). Where a change of many files fails, those before keep the new bits.
#[utoipa::path(
    post, path = "/{id}/files/chmod", tag = "files", request_body = ChmodRequest,
    responses(
        (status = 200, description = "What is at the path now", body = FileInfo),
        (status = 403, description = "The user may not change it"),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
        (status = 504, description = "The guest did not answer in time"),
    )
)]
pub async fn change_mode(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<ChmodRequest>,
) -> Result<Answer<FileInfo>> {
    let ChmodRequest {
        path,
        mode,
        recursive,
        user,
    } = body;
    let path = GuestPath { path, user };
    let changed = app.set_mode(&principal, &id, path, mode, recursive).await?;
    Ok(Answer(view::file(changed)))
}

/// Change owner and group
///
/// As chown(1). Where a change of many files fails, those before keep the new owner.
#[utoipa::path(
    post, path = "/{id}/files/chown", tag = "files", request_body = ChownRequest,
    responses(
        (status = 200, description = "What is at the path now", body = FileInfo),
        (status = 403, description = "The user may not change it: name root as the user"),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
        (status = 504, description = "The guest did not answer in time"),
    )
)]
pub async fn change_owner(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<ChownRequest>,
) -> Result<Answer<FileInfo>> {
    let ChownRequest {
        path,
        owner,
        group,
        recursive,
        user,
    } = body;
    let path = GuestPath { path, user };
    let owner = NewOwner { owner, group };
    let changed = app
        .set_owner(&principal, &id, path, owner, recursive)
        .await?;
    Ok(Answer(view::file(changed)))
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
