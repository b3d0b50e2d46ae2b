//! `/v1/sandboxes/{id}/files/uploads`: uploads that go on after a break, by the protocol tus 1.0.0
//! (<https://tus.io/protocols/resumable-upload>) with its extensions `creation` and `termination`.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use model::{ErrorCode, SandboxId};

use super::extract::{Id, NoQuery, Query, UploadId};
use crate::app::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{NewUpload, UploadInfo};

const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
/// Version of the protocol.
const VERSION: &str = "1.0.0";
/// Content type of a part.
const PART: &str = "application/offset+octet-stream";

/// Begin a resumable upload
///
/// By the protocol tus 1.0.0. `Upload-Metadata` has pairs of a name and a value in base64, by commas:
/// `path`, and where wanted `user`, `mode` (octal) and `sha256` (of the whole file, hexadecimal); other
/// names are ignored. The path keeps what it has until all bytes are there and the checksum is right.
/// An upload ends 24 hours after its last part, by a clock that stands still while the sandbox is
/// paused; a sandbox has at most 64.
#[utoipa::path(
    post, path = "/{id}/files/uploads", tag = "files",
    params(
        ("Tus-Resumable" = String, Header, description = "1.0.0", example = "1.0.0"),
        ("Upload-Length" = u64, Header, description = "Bytes of the whole file"),
        ("Upload-Metadata" = String, Header, description = "Where the file goes",
            example = "path L3RtcC9iaWcuYmlu,mode MDY0NA=="),
    ),
    responses(
        (status = 201, description = "It has begun", headers(
            ("Location" = String, description = "Where its parts go"),
            ("Upload-Offset" = u64, description = "Bytes that have arrived: 0"),
            ("Tus-Resumable" = String, description = "1.0.0"))),
        (status = 403, description = "The user may not write there"),
        (status = 409, description = "The sandbox does not run, or is of a version without such uploads"),
        (status = 502, description = "The guest failed"),
        (status = 504, description = "The guest did not answer in time"),
        (status = 507, description = "The disk of the sandbox has no room for it"),
    )
)]
pub async fn begin_upload(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    check_version(&headers)?;
    let upload = new_upload(&headers)?;
    let info = app.begin_upload(&principal, &id, upload).await?;
    let mut response = (StatusCode::CREATED, progress(&info)).into_response();
    let location = location(&id, &info)?;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// Get the offset of a resumable upload
///
/// Where it goes on after a break.
#[utoipa::path(
    head, path = "/{id}/files/uploads/{upload}", tag = "files",
    params(("Tus-Resumable" = String, Header, description = "1.0.0", example = "1.0.0")),
    responses(
        (status = 200, description = "How far it is", headers(
            ("Upload-Offset" = u64, description = "Bytes that have arrived"),
            ("Upload-Length" = u64, description = "Bytes of the whole file"),
            ("Tus-Resumable" = String, description = "1.0.0"))),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
        (status = 504, description = "The guest did not answer in time"),
    )
)]
pub async fn get_upload(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    UploadId(upload): UploadId,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    check_version(&headers)?;
    let info = app.get_upload(&principal, &id, upload).await?;
    let mut response = progress(&info).into_response();
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    Ok(response)
}

/// Send a part of a resumable upload
///
/// Bytes from `Upload-Offset` on, any number of them. What came before a break stays. With the last
/// byte the file is in its place. A part that is sent while another one is still being received ends
/// that one.
#[utoipa::path(
    patch, path = "/{id}/files/uploads/{upload}", tag = "files",
    params(
        ("Tus-Resumable" = String, Header, description = "1.0.0", example = "1.0.0"),
        ("Upload-Offset" = u64, Header, description = "Offset of the first byte, where the upload is"),
    ),
    request_body(content = super::Binary, content_type = "application/offset+octet-stream"),
    responses(
        (status = 204, description = "It has arrived", headers(
            ("Upload-Offset" = u64, description = "Bytes that have arrived"),
            ("Tus-Resumable" = String, description = "1.0.0"))),
        (status = 409, description = "The upload is at another offset, or the sandbox does not run"),
        (status = 415, description = "The body is of another type"),
        (status = 502, description = "The guest failed"),
        (status = 507, description = "The disk of the sandbox is full; the upload is given up"),
    )
)]
pub async fn write_upload(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    UploadId(upload): UploadId,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    check_version(&headers)?;
    if header(&headers, &CONTENT_TYPE) != Some(PART) {
        return Err(Error::new(
            ErrorCode::UnsupportedMediaType,
            format!("Content-Type must be {PART}"),
        ));
    }
    let offset = number(&headers, &UPLOAD_OFFSET)?;
    let written = app
        .write_upload(&principal, &id, upload, offset, content(body))
        .await?;
    Ok((StatusCode::NO_CONTENT, progress(&written)).into_response())
}

/// Delete a resumable upload
///
/// With what has arrived. The path keeps what it has.
#[utoipa::path(
    delete, path = "/{id}/files/uploads/{upload}", tag = "files",
    params(("Tus-Resumable" = String, Header, description = "1.0.0", example = "1.0.0")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 409, description = "The sandbox does not run"),
        (status = 502, description = "The guest failed"),
        (status = 504, description = "The guest did not answer in time"),
    )
)]
pub async fn delete_upload(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    UploadId(upload): UploadId,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    check_version(&headers)?;
    app.remove_upload(&principal, &id, upload).await?;
    Ok((StatusCode::NO_CONTENT, version()).into_response())
}

fn check_version(headers: &HeaderMap) -> Result<()> {
    match header(headers, &TUS_RESUMABLE) {
        Some(VERSION) => Ok(()),
        _ => Err(Error::invalid(format!(
            "Tus-Resumable must be {VERSION}: this route speaks tus {VERSION}"
        ))),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Result<u64> {
    let digits = header(headers, name).filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse().ok());
    // As far as file offsets go on Linux.
    let number = number.filter(|number| i64::try_from(*number).is_ok());
    number.ok_or_else(|| Error::invalid(format!("{name} must be a number of bytes")))
}

fn new_upload(headers: &HeaderMap) -> Result<NewUpload> {
    let mut upload = NewUpload {
        length: number(headers, &UPLOAD_LENGTH)?,
        ..NewUpload::default()
    };
    let metadata = header(headers, &UPLOAD_METADATA).unwrap_or_default();
    for pair in metadata
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
    {
        let (name, value) = pair.split_once(' ').unwrap_or((pair, ""));
        let value = STANDARD.decode(value.trim()).ok();
        let value = value.and_then(|value| String::from_utf8(value).ok());
        let wrong = || Error::invalid(format!("Upload-Metadata: {name} is not base64 of text"));
        match name {
            "path" => upload.path.path = value.ok_or_else(wrong)?,
            "user" => upload.path.user = Some(value.ok_or_else(wrong)?),
            "sha256" => upload.sha256 = Some(value.ok_or_else(wrong)?),
            "mode" => upload.mode = Some(super::form::parse_mode(&value.ok_or_else(wrong)?)?),
            // Clients send names of their own, such as `filename`.
            _ => {}
        }
    }
    Ok(upload)
}

fn content(body: Body) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
    body.into_data_stream()
        .map(|piece| piece.map_err(|_| Error::invalid("the part broke off")))
}

fn version() -> [(HeaderName, HeaderValue); 1] {
    [(TUS_RESUMABLE, HeaderValue::from_static(VERSION))]
}

fn progress(info: &UploadInfo) -> HeaderMap {
    let mut headers = HeaderMap::from_iter(version());
    headers.insert(UPLOAD_OFFSET, HeaderValue::from(info.offset));
    headers.insert(UPLOAD_LENGTH, HeaderValue::from(info.length));
    headers
}

fn location(id: &SandboxId, info: &UploadInfo) -> Result<HeaderValue> {
    let path = format!("/v1/sandboxes/{id}/files/uploads/{}", info.id);
    HeaderValue::from_str(&path).map_err(Error::internal)
}
