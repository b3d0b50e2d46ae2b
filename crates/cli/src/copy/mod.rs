//! Copying into a sandbox and out of it. `place` reads the two arguments, `upload` and `download` do one direction
//! each, `pack` and `unpack` turn directories into tar streams and back.

mod download;
mod pack;
mod place;
mod unpack;
mod upload;

use client::types::{FileInfo, FileKind, PathRequest};
use client::{Client, Error};

pub use download::download;
pub use place::{Direction, Remote};
pub use upload::upload;

/// Bytes that are under way between a reader and a writer in one part.
const CHUNK: usize = 64 * 1024;

/// Facts about a path in a sandbox; `None` where there is nothing. A link to a directory counts as one.
async fn stat(client: &Client, id: &str, path: &PathRequest) -> Result<Option<FileInfo>, Error> {
    let info = match client.stat(id, path).await {
        Err(error) if error.is_not_found() && client.get(id).await.is_ok() => return Ok(None),
        stat => stat?,
    };
    if info.kind != FileKind::Symlink {
        return Ok(Some(info));
    }
    let inside = PathRequest { path: format!("{}/.", path.path), user: path.user.clone() };
    match client.stat(id, &inside).await {
        Ok(target) if target.kind == FileKind::Directory => Ok(Some(target)),
        _ => Ok(Some(info)),
    }
}
