//! `files/write` and `files/stream/write`: a form with the parts `path`, `user`, `mode` and, after those, `file`.
//!
//! The file is never held: it goes to the host as it comes. The guest gets to know that it is whole only when the form
//! has ended well.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use bytes::Bytes;
use futures::{Stream, stream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use model::ErrorCode;
use multer::{Constraints, Field, Multipart, SizeLimit};
use utoipa::ToSchema;

use super::extract::{Id, NoQuery, Query, expect_type};
use crate::app::App;
use crate::app::files::{MAX_MODE, MAX_PATH, Place, Target};
use crate::error::{Error, Result};

const FORM: &str = "multipart/form-data";
/// Bytes of a part that is not the file.
const MAX_FIELD: u64 = 2 * MAX_PATH as u64;

/// The parts of an upload, `file` last.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "stands for the form in the API document")]
pub struct UploadForm {
    /// Relative to the user's home. Parents are made.
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
/// Of up to 100 MiB.
#[utoipa::path(
    post, path = "/{id}/files/write", tag = "files", operation_id = "write_file",
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
pub async fn write(
    State(app): State<Arc<App>>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode> {
    let limit = app.max_upload_bytes;
    let (target, file) = open(&headers, body).await?;
    app.write_file(&id, target, content(file, Some(limit))).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Write a file of any size
#[utoipa::path(
    post, path = "/{id}/files/stream/write", tag = "files", operation_id = "stream_write_file",
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
pub async fn stream_write(
    State(app): State<Arc<App>>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode> {
    let (target, file) = open(&headers, body).await?;
    app.write_file(&id, target, content(file, None)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The form, stopped at the beginning of the file.
struct File {
    form: Multipart<'static>,
    file: Option<Field<'static>>,
    sent: u64,
}

async fn open(headers: &HeaderMap, body: Body) -> Result<(Target, File)> {
    let sent = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    expect_type(sent, FORM)?;
    let boundary = multer::parse_boundary(sent.unwrap_or_default())
        .map_err(|_| Error::invalid("the content type of a form must name its boundary"))?;
    let limits =
        ["path", "user", "mode"].into_iter().fold(SizeLimit::new(), |limits, part| limits.for_field(part, MAX_FIELD));
    let constraints = Constraints::new().size_limit(limits);
    let mut form = Multipart::with_constraints(body.into_data_stream(), boundary, constraints);
    let (mut path, mut user, mut mode) = (None, None, None);
    while let Some(field) = form.next_field().await.map_err(broken)? {
        match field.name().unwrap_or_default() {
            "path" => put(&mut path, field).await?,
            "user" => put(&mut user, field).await?,
            "mode" => put(&mut mode, field).await?,
            "file" => {
                let path = path.ok_or_else(|| Error::invalid("the part path must come before the part file"))?;
                let mode = mode.as_deref().map(parse_mode).transpose()?;
                let target = Target { place: Place { path, user }, mode, archive: false };
                target.place.check()?;
                return Ok((target, File { form, file: Some(field), sent: 0 }));
            }
            other => {
                let other: String = other.chars().take(64).collect();
                return Err(Error::invalid(format!("unknown part {other:?}: there are path, user, mode and file")));
            }
        }
    }
    Err(Error::invalid("the part file is missing"))
}

async fn put(place: &mut Option<String>, field: Field<'static>) -> Result<()> {
    let name = field.name().unwrap_or_default().to_owned();
    let bytes = field.bytes().await.map_err(broken)?;
    let text = String::from_utf8(bytes.into()).map_err(|_| Error::invalid(format!("the part {name} must be UTF-8")))?;
    match place.replace(text) {
        None => Ok(()),
        Some(_) => Err(Error::invalid(format!("the part {name} came twice"))),
    }
}

fn parse_mode(text: &str) -> Result<u32> {
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = u32::from_str_radix(text, 8).ok().filter(|&mode| digits && mode <= MAX_MODE);
    mode.ok_or_else(|| Error::invalid(format!("mode must be octal permission bits up to {MAX_MODE:o}, not {text:?}")))
}

/// The file's bytes. Ends well only if the form does, and if nothing follows the file.
fn content(file: File, limit: Option<u64>) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
    stream::try_unfold(file, move |mut file| async move {
        if let Some(field) = &mut file.file
            && let Some(chunk) = field.chunk().await.map_err(broken)?
        {
            file.sent += chunk.len() as u64;
            if let Some(limit) = limit.filter(|&limit| file.sent > limit) {
                return Err(too_large(limit));
            }
            return Ok(Some((chunk, file)));
        }
        file.file = None;
        match file.form.next_field().await.map_err(broken)? {
            None => Ok(None),
            Some(_) => Err(Error::invalid("the part file must be the last one")),
        }
    })
}

fn too_large(limit: u64) -> Error {
    let limit_mib = limit / (1024 * 1024);
    let text =
        format!("the file is over the {limit_mib} MiB of this route; use files/stream/write, which has no limit");
    Error::new(ErrorCode::TooLarge, text)
}

fn broken(error: multer::Error) -> Error {
    match &error {
        multer::Error::FieldSizeExceeded { limit, field_name } => {
            let name = field_name.clone().unwrap_or_default();
            Error::new(ErrorCode::TooLarge, format!("the part {name} must be at most {limit} bytes"))
        }
        multer::Error::StreamReadFailed(_) => Error::invalid("the upload broke off").because(error),
        _ => Error::invalid(format!("the form is wrong: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!(parse_mode("0755").unwrap(), 0o755);
        assert_eq!(parse_mode("7777").unwrap(), 0o7777);
        for wrong in ["", "8", "+7", "0o7", "17777", "-1", "rwx", "0000000"] {
            assert!(parse_mode(wrong).is_err(), "{wrong}");
        }
    }
}
