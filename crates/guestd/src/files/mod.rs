//! `GET` and `POST /files` (E2B contract 2.7), and our extensions to them: `?mode=`,
//! `?archive=tar` and `?archive=file`.
//!
//! Everything is done with the permissions of the request's user and streamed in pieces; memory
//! does not grow with the size of a file. [`target`] and [`unpack`] document the state of the disk
//! in the middle of an upload.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, Request, State};
use axum::response::Response;
use axum::routing::get;
use guest_rpc::http::WrittenFile;
use http::{HeaderMap, Uri, header};
use serde::Deserialize;

use crate::Agent;
use crate::auth::Caller;
use crate::filesystem::path;
use crate::http::error::HttpError;
use crate::settings::Settings;
use crate::user::User;

mod body;
mod chunks;
mod content_type;
mod download;
mod form;
mod metadata;
mod pack;
mod range;
mod resumable;
mod single;
mod target;
mod unpack;
mod upload;

use body::Pieces;
use metadata::Metadata;
use target::Wish;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use form::fuzz as fuzz_form;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use unpack::fuzz as fuzz_archive;

/// Returns the routes of this module.
pub fn router(agent: &Agent) -> axum::Router {
    axum::Router::new()
        .route("/files", get(read).post(write))
        .with_state(agent.settings.clone())
        .merge(resumable::router(agent))
}

/// Query of a request; `username` and the signature are read before, by [`crate::auth`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    path: Option<String>,
    /// Octal permission bits of written files.
    mode: Option<String>,
    /// `tar`: `path` is a directory, and what is transferred is an archive of what is in it.
    /// `file`: `path` is a file, and the archive has it as its only entry.
    archive: Option<String>,
}

/// Form of the transferred bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The bytes of a file.
    Content,
    /// A tar archive of the content of a directory.
    Directory,
    /// A tar archive of one file, without its holes.
    SingleFile,
}

impl Asked {
    fn of(uri: &Uri) -> Result<Self, HttpError> {
        let query = Query::try_from_uri(uri)
            .map_err(|e| HttpError::bad_request(format!("the query string cannot be read: {e}")))?;
        Ok(query.0)
    }

    fn form(&self) -> Result<Form, HttpError> {
        match self.archive.as_deref() {
            None => Ok(Form::Content),
            Some("tar") => Ok(Form::Directory),
            Some("file") => Ok(Form::SingleFile),
            Some(_) => Err(HttpError::bad_request(
                "archive must be 'tar' for a directory, or 'file' for a single file",
            )),
        }
    }

    fn mode(&self) -> Result<Option<u32>, HttpError> {
        let Some(text) = self.mode.as_deref() else {
            return Ok(None);
        };
        let octal = !text.is_empty() && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
        let mode = u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| octal && *mode <= 0o7777);
        mode.map(Some).ok_or_else(|| {
            HttpError::bad_request("mode must be octal and at most 7777, for example 0755")
        })
    }
}

async fn read(
    State(settings): State<Arc<Settings>>,
    request: Request,
) -> Result<Response, HttpError> {
    let asked = Asked::of(request.uri())?;
    let form = asked.form()?;
    let user = Caller::of(request.extensions()).http_user(&settings)?;
    let path = path::resolve_path(&settings, &user, asked.path.as_deref().unwrap_or_default())?;
    match form {
        Form::Content => download::download(path, &user, request.headers()).await,
        Form::Directory => pack::pack_archive(path, &user).await,
        Form::SingleFile => single::pack_file(path, &user).await,
    }
}

async fn write(
    State(settings): State<Arc<Settings>>,
    request: Request,
) -> Result<Json<Vec<WrittenFile>>, HttpError> {
    let (head, body) = request.into_parts();
    let mut body = body::decode_body(body, &head.headers)?;
    let caller = Caller::of(&head.extensions);
    let written = store(&settings, &caller, &head.uri, &head.headers, &mut body).await;
    if written.is_err() {
        body::drain_body(&mut body).await;
    }
    Ok(Json(written?))
}

async fn store(
    settings: &Settings,
    caller: &Caller,
    uri: &Uri,
    headers: &HeaderMap,
    body: &mut Pieces,
) -> Result<Vec<WrittenFile>, HttpError> {
    let asked = Asked::of(uri)?;
    let user = caller.http_user(settings)?;
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let plan = Plan {
        settings,
        mode: asked.mode()?,
        metadata: metadata::from_headers(headers)?,
        user,
    };
    let form = asked.form()?;
    if form == Form::SingleFile {
        return single::unpack_file(plan.wish(asked.path.as_deref())?, body).await;
    }
    if form == Form::Directory {
        let dir = plan.path(asked.path.as_deref())?;
        unpack::unpack_archive(dir.clone(), &plan.user, body).await?;
        return Ok(vec![unpacked(dir)]);
    }
    if let Ok(boundary) = multer::parse_boundary(content_type) {
        return form::save_form(&boundary, body, |name| {
            plan.wish(asked.path.as_deref().or(name))
        })
        .await;
    }
    if !content_type
        .trim_start()
        .to_ascii_lowercase()
        .starts_with("application/octet-stream")
    {
        let message = "header Content-Type must be multipart/form-data with a boundary, or application/octet-stream";
        return Err(HttpError::bad_request(message));
    }
    upload::save_raw(plan.wish(asked.path.as_deref())?, body).await
}

/// Settings of every file of one upload.
struct Plan<'a> {
    settings: &'a Settings,
    user: User,
    mode: Option<u32>,
    metadata: Metadata,
}

impl Plan<'_> {
    fn path(&self, path: Option<&str>) -> Result<PathBuf, HttpError> {
        let path = path.filter(|path| !path.is_empty());
        let path = path.ok_or_else(|| {
            HttpError::bad_request("path is missing: say in the query where to write")
        })?;
        Ok(path::resolve_path(self.settings, &self.user, path)?)
    }

    fn wish(&self, path: Option<&str>) -> Result<Wish, HttpError> {
        Ok(Wish {
            path: self.path(path)?,
            user: self.user.clone(),
            mode: self.mode,
            metadata: self.metadata.clone(),
        })
    }
}

/// Describes an unpacked archive by its directory alone: it may hold any number of files.
fn unpacked(dir: PathBuf) -> WrittenFile {
    WrittenFile {
        path: dir.to_string_lossy().into_owned(),
        name: path::file_name(&dir),
        kind: "directory".to_owned(),
        metadata: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        let mode = |text: &str| {
            Asked {
                mode: Some(text.to_owned()),
                ..Default::default()
            }
            .mode()
        };
        assert_eq!(mode("0755"), Ok(Some(0o755)));
        assert_eq!(mode("4755"), Ok(Some(0o4755)));
        for bad in ["", "8", "rwx", "+7", "17777"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }
}
