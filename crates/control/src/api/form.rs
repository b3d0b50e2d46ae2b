//! The form of an upload, read as it comes.
//!
//! The file goes to the host as it comes, so where it goes must be known before. A file of limited
//! size that comes first waits on disk, in a file without a name. The guest gets to know that a
//! file is whole only when the form has ended well.

use axum::body::Body;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use model::ErrorCode;
use multer::{Constraints, Field, Multipart, SizeLimit};
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use super::extract::expect_type;
use crate::app::files::{MAX_MODE, MAX_PATH};
use crate::error::{Error, Result};
use crate::hosts::{CHUNK_BYTES, FileForm, GuestPath, UploadTarget};

const FORM: &str = "multipart/form-data";
/// Bytes of a part that is not the file.
const MAX_FIELD: u64 = 2 * MAX_PATH as u64;

/// A form, read as far as the file can be opened.
#[derive(Default)]
pub(super) struct Form {
    path: Option<String>,
    user: Option<String>,
    mode: Option<String>,
    file: Option<File>,
}

/// The file of a form.
pub(super) enum File {
    /// Part of a form that is still coming.
    Coming {
        form: Multipart<'static>,
        field: Option<Field<'static>>,
    },
    Kept(tokio::fs::File),
}

impl Form {
    /// Reads a form up to its file. With `keep`, a file of up to that many bytes may come before
    /// its path.
    pub(super) async fn read(headers: &HeaderMap, body: Body, keep: Option<u64>) -> Result<Self> {
        let mut parts = open(headers, body)?;
        let mut form = Self::default();
        while let Some(field) = parts.next_field().await.map_err(broken)? {
            match field.name().unwrap_or_default() {
                "path" => put(&mut form.path, field).await?,
                "user" => put(&mut form.user, field).await?,
                "mode" => put(&mut form.mode, field).await?,
                "file" if form.file.is_some() => {
                    return Err(Error::invalid("the part file came twice"));
                }
                "file" if form.path.is_some() => {
                    form.file = Some(File::Coming {
                        form: parts,
                        field: Some(field),
                    });
                    return Ok(form);
                }
                "file" => {
                    let limit = keep.ok_or_else(|| {
                        Error::invalid("the part path must come before the part file")
                    })?;
                    form.file = Some(File::Kept(keep_on_disk(field, limit).await?));
                }
                other => return Err(unknown(other)),
            }
        }
        Ok(form)
    }

    /// Returns the destination and the file.
    pub(super) fn into_parts(self) -> Result<(UploadTarget, File)> {
        let missing = |part| move || Error::invalid(format!("the part {part} is missing"));
        let file = self.file.ok_or_else(missing("file"))?;
        let path = GuestPath {
            path: self.path.ok_or_else(missing("path"))?,
            user: self.user,
        };
        let mode = self.mode.as_deref().map(parse_mode).transpose()?;
        Ok((
            UploadTarget {
                path,
                mode,
                form: FileForm::Content,
            },
            file,
        ))
    }
}

/// Reads a form as it comes in a request, and its file.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) async fn fuzz(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("multipart/form-data; boundary=x"),
    );
    let body = Body::from(Bytes::copy_from_slice(bytes));
    if let Ok(form) = Form::read(&headers, body, Some(1 << 20)).await {
        let _ = form.into_parts();
    }
}

fn unknown(part: &str) -> Error {
    let part: String = part.chars().take(64).collect();
    Error::invalid(format!(
        "unknown part {part:?}: there are path, user, mode and file"
    ))
}

fn open(headers: &HeaderMap, body: Body) -> Result<Multipart<'static>> {
    let sent = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    expect_type(sent, FORM)?;
    let boundary = multer::parse_boundary(sent.unwrap_or_default())
        .map_err(|_| Error::invalid("the content type of a form must name its boundary"))?;
    let limit = |limits: SizeLimit, part| limits.for_field(part, MAX_FIELD);
    let limits = ["path", "user", "mode"]
        .into_iter()
        .fold(SizeLimit::new(), limit);
    Ok(Multipart::with_constraints(
        body.into_data_stream(),
        boundary,
        Constraints::new().size_limit(limits),
    ))
}

async fn put(place: &mut Option<String>, field: Field<'static>) -> Result<()> {
    let name = field.name().unwrap_or_default().to_owned();
    let bytes = field.bytes().await.map_err(broken)?;
    let text = String::from_utf8(bytes.into())
        .map_err(|_| Error::invalid(format!("the part {name} must be UTF-8")))?;
    match place.replace(text) {
        None => Ok(()),
        Some(_) => Err(Error::invalid(format!("the part {name} came twice"))),
    }
}

pub(super) fn parse_mode(text: &str) -> Result<u32> {
    let digits =
        (1..=5).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = u32::from_str_radix(text, 8)
        .ok()
        .filter(|&mode| digits && mode <= MAX_MODE);
    mode.ok_or_else(|| {
        Error::invalid(format!(
            "mode must be octal permission bits up to {MAX_MODE:o}, not {text:?}"
        ))
    })
}

async fn keep_on_disk(mut field: Field<'static>, limit: u64) -> Result<tokio::fs::File> {
    let mut file = tokio::fs::File::from_std(tempfile::tempfile().map_err(disk)?);
    let mut kept = 0;
    while let Some(chunk) = field.chunk().await.map_err(broken)? {
        kept += chunk.len() as u64;
        if kept > limit {
            return Err(too_large(limit));
        }
        file.write_all(&chunk).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)?;
    file.rewind().await.map_err(disk)?;
    Ok(file)
}

fn disk(error: std::io::Error) -> Error {
    let text =
        "the upload cannot be kept on the server's disk; send the part path before the part file";
    Error::new(ErrorCode::InsufficientStorage, text).because(error)
}

impl File {
    /// Returns the bytes of the file. A form that is still coming ends well only if nothing follows
    /// the file.
    pub(super) fn content(self, limit: Option<u64>) -> BoxStream<'static, Result<Bytes>> {
        match self {
            Self::Kept(file) => ReaderStream::with_capacity(file, CHUNK_BYTES)
                .map_err(disk)
                .boxed(),
            Self::Coming { form, field } => coming(form, field, limit).boxed(),
        }
    }
}

fn coming(
    form: Multipart<'static>,
    field: Option<Field<'static>>,
    limit: Option<u64>,
) -> impl futures::Stream<Item = Result<Bytes>> + Send {
    stream::try_unfold(
        (form, field, 0),
        move |(mut form, mut field, mut sent)| async move {
            if let Some(file) = &mut field
                && let Some(chunk) = file.chunk().await.map_err(broken)?
            {
                sent += chunk.len() as u64;
                if let Some(limit) = limit.filter(|&limit| sent > limit) {
                    return Err(too_large(limit));
                }
                return Ok(Some((chunk, (form, field, sent))));
            }
            drop(field);
            match form.next_field().await.map_err(broken)? {
                None => Ok(None),
                Some(_) => Err(Error::invalid("the part file must be the last one")),
            }
        },
    )
}

fn too_large(limit: u64) -> Error {
    let limit_mib = limit / (1024 * 1024);
    let text = format!(
        "the file is over the {limit_mib} MiB of this route; use files/stream/write, which has no limit"
    );
    Error::new(ErrorCode::TooLarge, text)
}

fn broken(error: multer::Error) -> Error {
    match &error {
        multer::Error::FieldSizeExceeded { limit, field_name } => {
            let name = field_name.clone().unwrap_or_default();
            Error::new(
                ErrorCode::TooLarge,
                format!("the part {name} must be at most {limit} bytes"),
            )
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
