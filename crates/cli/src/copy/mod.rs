//! Copying into a sandbox and out of it. `place` reads the two arguments, `upload` and `download`
//! do one direction each, `pack` and `unpack` turn directories into tar streams and back.

mod download;
mod pack;
mod place;
mod resume;
mod unpack;
mod upload;
mod watched;

use client::types::{FileInfo, FileKind, PathRequest};
use client::{Client, Error};

pub use download::download;
pub use pack::pack;
pub use place::{Direction, Remote, name_of};
pub use upload::upload;
pub use watched::{Failure, counted};

/// Bytes that are under way between a reader and a writer in one part.
pub const CHUNK: usize = 64 * 1024;

/// Files of at least this size are copied without their holes. Below, zeroes cost less than a second
/// attempt with a server or sandbox of an earlier version, which knows no such transfer.
const MIN_SPARSE: u64 = 1024 * 1024;

/// Links that are followed to find out what a path leads to; Linux follows 40 (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// Returns what a path in a sandbox leads to; `None` where there is nothing. A dangling link is
/// described itself.
pub async fn describe_path(
    client: &Client,
    id: &str,
    path: &PathRequest,
) -> Result<Option<FileInfo>, Error> {
    let mut info = match client.stat(id, path).await {
        // Of the file, or of the sandbox?
        Err(error) if error.is_not_found() && client.get(id).await.is_ok() => return Ok(None),
        stat => stat?,
    };
    for _ in 0..MAX_LINKS {
        let Some(target) = info
            .symlink_target
            .as_ref()
            .filter(|_| info.kind == FileKind::Symlink)
        else {
            break;
        };
        let next = PathRequest {
            path: link_target(&info.path, target),
            user: path.user.clone(),
        };
        match client.stat(id, &next).await {
            Ok(next) if next.path != info.path => info = next,
            _ => break,
        }
    }
    Ok(Some(info))
}

/// Resolves the target of a link: a relative one starts at the link's directory.
fn link_target(link: &str, target: &str) -> String {
    match link.rsplit_once('/') {
        Some((dir, _)) if !target.starts_with('/') => format!("{dir}/{target}"),
        _ => target.to_owned(),
    }
}
