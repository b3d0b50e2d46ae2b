//! `files/write` and `files/stream/write`: a form with the parts `path`, `user`, `mode` and `file`.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use model::SandboxId;
use utoipa::ToSchema;

use super::extract::{Id, NoQuery, Query};
use super::form::Form;
use crate::app::App;
use crate::auth::Principal;
use crate::error::Result;

/// The parts of an upload.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "stands for the form in the API document")]
pub struct UploadForm {
    /// Relative to the working directory of the image's configuration, without one to the user's
    /// home. Parents are made.
    #[schema(min_length = 1, max_length = 4096, example = "/home/user/notes.txt")]
    path: String,
    /// User in the guest; the template's default user where absent.
    #[schema(min_length = 1, max_length = 64)]
    user: Option<String>,
    /// Permission bits in octal. Default 0644.
    #[schema(pattern = "^0?[0-7]{1,4}$", example = "0755")]
    mode: Option<String>,
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// Write a file
///
/// Of up to 100 MiB. The part `file` comes last, or before all others.
#[utoipa::path(
    post, path = "/{id}/files/write", tag = "files",
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses(
        (status = 204, description = "It is written"),
        (status = 403, description = "The user may not write there"),
        (status = 409, description = "The sandbox does not run, or something else is there"),
        (status = 413, description = "The file is over the limit of this route"),
        (status = 415, description = "The body is no form"),
        (status = 502, description = "The guest failed"),
        (status = 507, description = "The disk of the sandbox is full"),
    )
)]
pub async fn write_file(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode> {
    let limit = Some(app.max_upload_bytes);
    let upload = Upload {
        headers,
        body,
        limit,
        default_user: None,
    };
    upload.receive(&app, &principal, &id).await
}

/// Write a file of any size
///
/// The part `file` must be the last one: it goes into the sandbox as it comes.
#[utoipa::path(
    post, path = "/{id}/files/stream/write", tag = "files",
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses(
        (status = 204, description = "It is written"),
        (status = 403, description = "The user may not write there"),
        (status = 409, description = "The sandbox does not run, or something else is there"),
        (status = 415, description = "The body is no form"),
        (status = 502, description = "The guest failed"),
        (status = 507, description = "The disk of the sandbox is full"),
    )
)]
pub async fn stream_write_file(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode> {
    let upload = Upload {
        headers,
        body,
        limit: None,
        default_user: None,
    };
    upload.receive(&app, &principal, &id).await
}

/// A form with a file, on its way.
pub(crate) struct Upload {
    pub headers: HeaderMap,
    pub body: Body,
    /// Most bytes of the file; without it the file goes into the sandbox as it comes.
    pub limit: Option<u64>,
    /// User that writes it, where the form names none; `None`: that of the template.
    pub default_user: Option<&'static str>,
}

impl Upload {
    /// Writes the file into a sandbox.
    ///
    /// # Errors
    /// A form that is none; the guest's.
    pub(crate) async fn receive(
        self,
        app: &App,
        principal: &Principal,
        id: &SandboxId,
    ) -> Result<StatusCode> {
        let form = Form::read(&self.headers, self.body, self.limit).await?;
        let (mut target, file) = form.into_parts()?;
        let default_user = self.default_user.map(str::to_owned);
        target.path.user = target.path.user.or(default_user);
        app.write_file(principal, id, target, file.content(self.limit))
            .await?;
        Ok(StatusCode::NO_CONTENT)
    }
}
