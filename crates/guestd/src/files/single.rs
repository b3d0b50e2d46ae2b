//! `?archive=file`: one file as the only entry of a tar archive, so that its holes are not
//! transferred.
//!
//! Apart from that it is a download or upload as any other: the file of before stays until the new
//! one is complete, see [`super::target`]. Permission bits come with the archive.

use std::path::{Path, PathBuf};

use axum::response::Response;
use guest_rpc::http::WrittenFile;
use sparse::Entry;

use super::body::Pieces;
use super::download::open_plain;
use super::pack::stream_archive;
use super::target::{Target, Wish};
use super::unpack::{Inlet, broken, read_blocking};
use super::upload::written_file;
use crate::as_user::{as_user, run};
use crate::filesystem::error::FileError;
use crate::http::error::HttpError;
use crate::user::User;

/// Answers with the file at `path`.
///
/// # Errors
/// 400 where it is no plain file, 403, 404.
pub async fn pack_file(path: PathBuf, user: &User) -> Result<Response, HttpError> {
    let (file, name) = run(user, move || {
        let name = path.file_name().unwrap_or_default().to_owned();
        open_plain(&path).map(|(file, _)| (file, name))
    })
    .await?;
    Ok(stream_archive(move |writer| {
        let mut archive = tar::Builder::new(writer);
        sparse::append_file(&mut archive, &file, Path::new(&name))?;
        std::io::Write::flush(&mut archive.into_inner()?)
    }))
}

/// Writes the file of an archive.
///
/// # Errors
/// Errors of an upload; 400 for an archive that is broken or holds no plain file.
pub async fn unpack_file(wish: Wish, body: &mut Pieces) -> Result<Vec<WrittenFile>, HttpError> {
    let wish = read_blocking(body, move |inlet| write(wish, inlet)).await?;
    Ok(vec![written_file(wish)])
}

fn write(wish: Wish, mut inlet: Inlet) -> Result<Wish, FileError> {
    let entry = Entry::read(&mut inlet).map_err(|e| broken(&e))?;
    let user = wish.user.clone();
    let wish = Wish {
        mode: wish.mode.or(Some(entry.mode & 0o777)),
        ..wish
    };
    let opened = as_user(&user, || Target::open(wish)).map_err(|e| FileError::identity(&e))?;
    let mut target = opened?;
    entry
        .read_data(&mut inlet, |at, data| {
            target.skip_to(at);
            target.write([data]).map_err(ReadError::File)
        })
        .map_err(FileError::from)?;
    target.skip_to(entry.length);
    // What follows in the archive is padding.
    sparse::read_rest(&mut inlet).map_err(|e| broken(&e))?;
    target.keep()
}

/// Error of reading, which tells an archive that breaks off from a disk that is full.
enum ReadError {
    Archive(std::io::Error),
    File(FileError),
}

impl From<std::io::Error> for ReadError {
    fn from(error: std::io::Error) -> Self {
        Self::Archive(error)
    }
}

impl From<ReadError> for FileError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Archive(error) => broken(&error),
            ReadError::File(error) => error,
        }
    }
}
