//! `/v1/capsules/{id}/files/…`: as our own, but for the user; and entries of directories as the
//! original has them.

use std::sync::Arc;

use api_types::{FileKind, ListFilesRequest, PathRequest};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use http::{HeaderMap, StatusCode};
use model::ErrorCode;
use serde_json::{Value, json};

use super::DEFAULT_USER;
use crate::api::extract::{Id, Json, NoQuery, Query};
use crate::api::files;
use crate::api::upload::Upload;
use crate::app::App;
use crate::app::files::MAX_ENTRIES;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{FileForm, FileInfo, GuestPath, ListingQuery};

/// Lists a directory; in pages as our own API does if the request asks for those.
pub async fn list_files(
    state: State<Arc<App>>,
    principal: Extension<Principal>,
    id: Id,
    query: Query<NoQuery>,
    Json(mut body): Json<ListFilesRequest>,
) -> Result<Response> {
    body.user.get_or_insert_with(|| DEFAULT_USER.to_owned());
    if body.limit.is_some() || body.cursor.is_some() {
        return files::list_files(state, principal, id, query, Json(body)).await;
    }
    let (State(app), Id(id)) = (state, id);
    let ListFilesRequest {
        path, depth, user, ..
    } = body;
    let query = ListingQuery {
        path: GuestPath { path, user },
        // 0 and 1 are the same there: what is in the directory itself.
        depth: depth.unwrap_or(1).max(1),
        after: Vec::new(),
        limit: None,
    };
    let mut listing = app.list_dir(&principal, &id, query).await?;
    let mut entries = Vec::new();
    while let Some(page) = listing.next().await? {
        entries.extend(page.into_iter().map(file_entry));
        if entries.len() > MAX_ENTRIES {
            let text = format!("more than {MAX_ENTRIES} entries: ask for pages with limit");
            return Err(Error::new(ErrorCode::TooLarge, text));
        }
    }
    Ok(Answer(json!({ "entries": entries })).into_response())
}

/// Creates a directory and its parents; one that is there is as good.
pub async fn make_directory(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<PathRequest>,
) -> Result<Answer<Value>> {
    let path = guest_path(body);
    app.make_dir(&principal, &id, path.clone()).await?;
    let made = app.stat_path(&principal, &id, path).await;
    let made = made.map_err(|error| error.after_change("the directory is made"))?;
    Ok(Answer(json!({ "entry": file_entry(made) })))
}

/// Removes a file, or a directory with everything in it.
pub async fn remove_file(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<PathRequest>,
) -> Result<StatusCode> {
    let path = guest_path(body);
    // Removing what is not there is no error of the guest's, and one of the original.
    app.stat_path(&principal, &id, path.clone()).await?;
    app.remove_path(&principal, &id, path).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reads a file.
pub async fn read_file(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    Json(body): Json<PathRequest>,
) -> Result<Response> {
    let path = guest_path(body);
    let content = app.read_file(&principal, &id, path, FileForm::Content);
    Ok(files::download_response(
        "application/octet-stream",
        content.await?,
    ))
}

/// Writes a file of limited size.
pub async fn write_file(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode> {
    let limit = Some(app.max_upload_bytes);
    upload_of(headers, body, limit)
        .receive(&app, &principal, &id)
        .await
}

/// Writes a file of any size, as it comes.
pub async fn stream_write_file(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(NoQuery {}): Query<NoQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode> {
    upload_of(headers, body, None)
        .receive(&app, &principal, &id)
        .await
}

const fn upload_of(headers: HeaderMap, body: Body, limit: Option<u64>) -> Upload {
    Upload {
        headers,
        body,
        limit,
        default_user: Some(DEFAULT_USER),
    }
}

fn guest_path(PathRequest { path, user }: PathRequest) -> GuestPath {
    let user = user.or_else(|| Some(DEFAULT_USER.to_owned()));
    GuestPath { path, user }
}

fn file_entry(info: FileInfo) -> Value {
    let (kind, letter) = match info.kind {
        FileKind::Directory => ("directory", 'd'),
        FileKind::Symlink => ("symlink", 'l'),
        FileKind::File => ("file", '-'),
        // The original knows no other type.
        FileKind::Other => ("file", '?'),
    };
    let path = info.path.trim_end_matches('/');
    let name = path.rsplit('/').next().unwrap_or_default();
    let mut entry = json!({
        "name": name,
        "path": info.path,
        "type": kind,
        "size": info.size,
        "mode": info.mode,
        "permissions": permissions(letter, info.mode),
        "owner": info.owner,
        "group": info.group,
        "modified_at": info.modified_at.div_euclid(1000),
    });
    if let Some(target) = info.symlink_target {
        entry["symlink_target"] = json!(target);
    }
    entry
}

/// Returns permission bits as ls(1) shows them, behind the letter of a type.
fn permissions(letter: char, mode: u32) -> String {
    let mut text = String::from(letter);
    let special = [(0o4000, 's', 'S'), (0o2000, 's', 'S'), (0o1000, 't', 'T')];
    for (class, (bit, with_x, without_x)) in (0..3).rev().zip(special) {
        let bits = mode >> (3 * class);
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (bits & 1 != 0, mode & bit != 0) {
            (true, true) => with_x,
            (false, true) => without_x,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(path: &str, kind: FileKind, mode: u32) -> FileInfo {
        FileInfo {
            path: path.to_owned(),
            kind,
            size: 3,
            mode,
            owner: "user".to_owned(),
            group: "staff".to_owned(),
            modified_at: 1_767_225_600_999,
            symlink_target: None,
        }
    }

    #[test]
    fn entry_has_fields_of_original() {
        let link = FileInfo {
            symlink_target: Some("b".to_owned()),
            ..info("/home/a", FileKind::Symlink, 0o777)
        };
        let expected = json!({
            "name": "a", "path": "/home/a", "type": "symlink", "size": 3, "mode": 0o777,
            "permissions": "lrwxrwxrwx", "owner": "user", "group": "staff",
            "modified_at": 1_767_225_600, "symlink_target": "b",
        });
        assert_eq!(file_entry(link), expected);
        let file = file_entry(info("/etc/x/", FileKind::File, 0o644));
        assert_eq!(
            (&file["name"], &file["type"]),
            (&json!("x"), &json!("file"))
        );
        assert_eq!(file.get("symlink_target"), None);
    }

    #[test]
    fn permissions_are_those_of_ls() {
        for (mode, text) in [
            (0o755, "-rwxr-xr-x"),
            (0o640, "-rw-r-----"),
            (0o4755, "-rwsr-xr-x"),
            (0o2644, "-rw-r-Sr--"),
            (0o1777, "-rwxrwxrwt"),
            (0o1000, "---------T"),
        ] {
            assert_eq!(permissions('-', mode), text, "{mode:o}");
        }
    }
}
