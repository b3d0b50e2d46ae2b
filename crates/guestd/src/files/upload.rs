//! `POST /files`: content into files, in pieces of [`CHUNK`], with at most two of them in memory.
//!
//! While one piece is written on a blocking thread the next one is gathered. Of several files in
//! one request, those that were complete before an error stay.

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use guest_rpc::http::WrittenFile;
use tokio::task::JoinHandle;

use super::body::Pieces;
use super::chunks::CHUNK;
use super::target::{Target, Wish};
use crate::as_user::as_user;
use crate::filesystem::error::FileError;
use crate::filesystem::path;
use crate::http::error::HttpError;

/// Maximum number of pieces in one write: half of what the kernel takes (`IOV_MAX`).
const PIECES: usize = 512;

/// Writes one file from a whole body.
///
/// # Errors
/// Errors of the file; 400 and 408 where the body breaks off.
pub async fn save_raw(wish: Wish, body: &mut Pieces) -> Result<Vec<WrittenFile>, HttpError> {
    let wish = write_pieces(wish, body, HttpError::from).await?;
    Ok(vec![written_file(wish)])
}

/// Returns the entry of a file in the answer.
pub fn written_file(wish: Wish) -> WrittenFile {
    WrittenFile {
        path: wish.path.to_string_lossy().into_owned(),
        name: path::file_name(&wish.path),
        kind: "file".to_owned(),
        metadata: (!wish.metadata.is_empty()).then_some(wish.metadata),
    }
}

/// Writes everything; gives the wish back when it is fulfilled.
///
/// # Errors
/// Errors of the file; those of the body, converted by `broken`.
pub async fn write_pieces<E>(
    wish: Wish,
    mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    broken: impl FnOnce(E) -> HttpError,
) -> Result<Wish, HttpError> {
    let user = wish.user.clone();
    let mut working =
        task(move || as_user(&user, || Target::open(wish)).map_err(|e| FileError::identity(&e))?);
    loop {
        let gathered = gather(&mut body).await;
        let mut target = working.await.map_err(|e| FileError::task(&e))??;
        let (pieces, ended) = match gathered {
            Ok(gathered) => gathered,
            Err(e) => return Err(broke_off(broken(e), target)),
        };
        working = task(move || {
            target.write(pieces.iter().map(|piece| &piece[..]))?;
            Ok(target)
        });
        if ended {
            let target = working.await.map_err(|e| FileError::task(&e))??;
            let kept = tokio::task::spawn_blocking(move || target.keep());
            return Ok(kept.await.map_err(|e| FileError::task(&e))??);
        }
    }
}

fn task(
    act: impl FnOnce() -> Result<Target, FileError> + Send + 'static,
) -> JoinHandle<Result<Target, FileError>> {
    tokio::task::spawn_blocking(act)
}

/// Adds the outcome to the error of an upload that broke off. Dropping the target undoes what can
/// be undone.
fn broke_off(error: HttpError, target: Target) -> HttpError {
    let path = target.path().display();
    let written = target.written();
    let outcome = target.outcome();
    HttpError::new(
        error.status,
        format!("'{path}' after {written} bytes: {error}; {outcome}"),
    )
}

/// Collects pieces to one write, and says whether the body ended.
pub async fn gather<E>(
    body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Result<(Vec<Bytes>, bool), E> {
    let mut pieces = Vec::new();
    let mut size = 0;
    while size < CHUNK && pieces.len() < PIECES {
        match body.next().await {
            Some(piece) => {
                let piece = piece?;
                size += piece.len();
                pieces.push(piece);
            }
            None => return Ok((pieces, true)),
        }
    }
    Ok((pieces, false))
}
