//! The guide at `/docs/guide`: the book that `make docs` builds, from a directory of files.
//!
//! It is no part of the program, so that building the program needs no mdBook. Files are read when
//! they are asked for: a new build is served without a restart. Like the test console the guide
//! holds no secret and is the same for everybody. The policy lets its pages run their own files
//! alone, and connect nowhere, not to the API either: the search works on a file that is loaded as
//! a script.

use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Extension, Router, extract};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG};
use http::{HeaderMap, StatusCode};
use model::ErrorCode;

use super::console::is_current;
use super::docs::Served;
use crate::app::App;
use crate::error::{Error, Result};

const PAGE: &str = "index.html";
/// The guide from `/docs/guide`: relative, so that the path prefix of a proxy survives.
const PAGES_FROM_ABOVE: &str = "guide/";
/// Largest file that is served. The index of the search has about a megabyte.
const MAX_FILE: u64 = 16 * 1024 * 1024;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; font-src 'self'; frame-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

/// Headers of every file.
const HEADERS: [(&str, &str); 6] = [
    ("content-security-policy", POLICY),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("x-frame-options", "SAMEORIGIN"),
];

/// Returns the routes of `/docs/guide`.
pub(super) fn pages_router() -> Router<Arc<App>> {
    Router::new()
        .route(
            "/docs/guide",
            get(async || Redirect::temporary(PAGES_FROM_ABOVE)),
        )
        .route("/docs/guide/", get(first_page))
        .route("/docs/guide/{*file}", get(file))
}

async fn first_page(served: Extension<Served>, request: HeaderMap) -> Result<Response> {
    serve(served.guide(), PAGE, &request).await
}

async fn file(
    served: Extension<Served>,
    extract::Path(name): extract::Path<String>,
    request: HeaderMap,
) -> Result<Response> {
    serve(served.guide(), &name, &request).await
}

/// Answers with a file, or with 304 where the client has it.
async fn serve(dir: &Path, name: &str, request: &HeaderMap) -> Result<Response> {
    let path = path_below(dir, name).ok_or_else(missing)?;
    let metadata = tokio::fs::metadata(&path).await;
    let metadata = metadata.map_err(|error| unreadable(&error, &path))?;
    // Neither a directory nor a pipe, at which a read would wait.
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(missing());
    }
    let written = metadata.modified().ok();
    let written = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let written = written.unwrap_or_default().as_nanos();
    let etag = format!("\"{written:x}-{:x}\"", metadata.len());
    let common = [
        (ETAG, etag.as_str()),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_TYPE, content_type(name)),
    ];
    if is_current(request, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, HEADERS, common).into_response());
    }
    let content = tokio::fs::read(&path).await;
    let content = content.map_err(|error| unreadable(&error, &path))?;
    Ok((HEADERS, common, content).into_response())
}

/// Returns the path of a file of the guide. `None` for a name that leads out of the directory, or
/// to a hidden file.
fn path_below(dir: &Path, name: &str) -> Option<PathBuf> {
    let is_plain = |part: Component<'_>| match part {
        Component::Normal(name) => !name.as_encoded_bytes().starts_with(b"."),
        _ => false,
    };
    let is_right = !name.contains(['\0', '\\']) && Path::new(name).components().all(is_plain);
    is_right.then(|| dir.join(name))
}

fn missing() -> Error {
    let text = "the guide has no such file: /docs/guide/ is its first page; where that is missing, \
        too, build the guide with `make docs`, or set CP_DOCS_PATH to its directory";
    Error::new(ErrorCode::NotFound, text)
}

fn unreadable(error: &std::io::Error, path: &Path) -> Error {
    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) {
        return missing();
    }
    tracing::warn!(path = %path.display(), %error, "cannot read a file of the guide");
    let text = "a file of the guide cannot be read; the log of the control plane says why";
    Error::new(ErrorCode::InternalError, text)
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        _ => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_directory() {
        let dir = Path::new("/srv/guide");
        let inside = path_below(dir, "css/general.css");
        assert_eq!(
            inside.as_deref(),
            Some(Path::new("/srv/guide/css/general.css"))
        );
        for name in [
            "../secret",
            "css/../../secret",
            "/etc/passwd",
            ".git/config",
            "css/.hidden",
            "a\0b",
            "..\\secret",
        ] {
            assert_eq!(path_below(dir, name), None, "{name:?}");
        }
    }

    #[test]
    fn policy_allows_nothing_inline() {
        assert!(POLICY.starts_with("default-src 'none'; script-src 'self'; style-src 'self'; "));
        assert!(!POLICY.contains("unsafe") && !POLICY.contains("connect-src"));
    }
}
