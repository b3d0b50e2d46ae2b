//! `/v1/sandboxes/{id}/files/archive`: directories, and files with holes, as tar archives, streamed
//! both ways.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use futures::TryStreamExt;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Id, Query, expect_type};
use super::files::download_response;
use crate::app::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{FileForm, GuestPath, UploadTarget};

const TAR: &str = "application/x-tar";

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ArchiveQuery {
    /// A directory, or with `single_file` a file; relative to the image's working directory, else to
    /// the user's home.
    #[param(min_length = 1, max_length = 4096)]
    path: String,
    /// User in the guest; the template's default user where absent.
    #[param(min_length = 1, max_length = 64)]
    user: Option<String>,
    /// `path` is a file, and the only entry of the archive, in the format of GNU tar. Holes of a
    /// sparse file are not transferred.
    #[serde(default)]
    #[param(required = false)]
    single_file: bool,
}

impl ArchiveQuery {
    fn form(&self) -> FileForm {
        if self.single_file {
            FileForm::SingleFile
        } else {
            FileForm::Directory
        }
    }
}

impl From<ArchiveQuery> for GuestPath {
    fn from(ArchiveQuery { path, user, .. }: ArchiveQuery) -> Self {
        Self { path, user }
    }
}

/// Download a directory
///
/// As a tar archive whose names are relative to it. With `single_file` one file, as an archive
/// without its holes.
#[utoipa::path(
    get, path = "/{id}/files/archive", tag = "files", params(ArchiveQuery),
    responses(
        (status = 200, description = "The archive", body = super::Binary, content_type = "application/x-tar"),
        (status = 403, description = "The user may not read it"),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
    )
)]
pub async fn read_archive(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(query): Query<ArchiveQuery>,
) -> Result<Response> {
    let form = query.form();
    let content = app.read_file(&principal, &id, query.into(), form).await?;
    Ok(download_response(TAR, content))
}

/// Upload a directory
///
/// Unpacks a tar archive below it; it is made where it is missing. With `single_file` the one file
/// of the archive is written at the path, and replaces what is there when it is complete.
#[utoipa::path(
    put, path = "/{id}/files/archive", tag = "files", params(ArchiveQuery),
    request_body(content = super::Binary, content_type = "application/x-tar"),
    responses(
        (status = 204, description = "Everything is in its place"),
        (status = 403, description = "The user may not write there"),
        (status = 409, description = "The sandbox does not run, or something else is there"),
        (status = 415, description = "The body is no tar archive by its content type"),
        (status = 502, description = "The guest failed"),
        (status = 507, description = "The disk of the sandbox is full"),
    )
)]
pub async fn write_archive(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(query): Query<ArchiveQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode> {
    expect_type(
        headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok()),
        TAR,
    )?;
    let content = body
        .into_data_stream()
        .map_err(|error| Error::invalid("the upload broke off").because(error));
    let form = query.form();
    let target = UploadTarget {
        path: query.into(),
        mode: None,
        form,
    };
    app.write_file(&principal, &id, target, content).await?;
    Ok(StatusCode::NO_CONTENT)
}
