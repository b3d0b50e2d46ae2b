//! `GET /files?archive=tar`: a directory as a tar archive, which is written while it is sent.
//!
//! Entries have names relative to the directory, and are in the order of these. Files, directories
//! and symbolic links have their mode, owner and time; files with large holes are in the sparse form
//! of GNU tar; sockets, pipes and devices are left out. Each file is opened once before the response
//! begins, so that one that the user must not read is answered with 403. A later error breaks the
//! transfer off.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::chunks::CHUNK;
use super::download::open_plain;
use crate::as_user::{as_user, run};
use crate::filesystem::error::{FileError, Kind};
use crate::filesystem::operations::not_found_error;
use crate::http::error::HttpError;
use crate::user::User;

/// Bytes that the holes of a file must have together for it to be sent in the sparse form.
const MIN_HOLES: u64 = 64 << 10;

/// Maximum number of pieces between the thread that reads and the connection.
const QUEUE: usize = 3;

/// Responds with the directory at `dir` as an archive.
///
/// # Errors
/// 400 if it is no directory, 403 if the user must not read something in it, 404 if it does not
/// exist.
pub async fn pack_archive(dir: PathBuf, user: &User) -> Result<Response, HttpError> {
    {
        let dir = dir.clone();
        run(user, move || check_readable(&dir)).await?;
    }
    let user = user.clone();
    Ok(stream_archive(move |writer| {
        as_user(&user, || write(&dir, writer)).flatten()
    }))
}

/// Responds with an archive that `write` writes on a thread for blocking work.
pub fn stream_archive(
    write: impl FnOnce(ChannelWriter) -> io::Result<()> + Send + 'static,
) -> Response {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        let writer = ChannelWriter {
            sender: sender.clone(),
            buffer: Vec::with_capacity(CHUNK),
        };
        if let Err(e) = write(writer) {
            // Breaks the transfer off. Fails only if the client is gone already.
            drop(sender.blocking_send(Err(e)));
        }
    });
    let body = Body::from_stream(ReceiverStream::new(receiver));
    ([(header::CONTENT_TYPE, "application/x-tar")], body).into_response()
}

/// Checks that the user can read each file below `dir`.
fn check_readable(dir: &Path) -> Result<(), FileError> {
    let there = fs::metadata(dir)
        .map_err(|e| not_found_error(dir, &e).unwrap_or_else(|| FileError::io("read", dir, &e)))?;
    if !there.is_dir() {
        return Err(FileError::invalid(format!(
            "path '{}' is not a directory",
            dir.display()
        )));
    }
    walk(dir, |relative, metadata| {
        if !metadata.is_file() {
            return Ok(());
        }
        match open_plain(&dir.join(relative)) {
            Err(e) if e.kind != Kind::NotFound => Err(e),
            _ => Ok(()),
        }
    })
}

/// Calls `visit` for everything below `dir`, each directory before its entries. Entries that vanish
/// during the walk are skipped.
fn walk<E: From<FileError>>(
    dir: &Path,
    mut visit: impl FnMut(&Path, &Metadata) -> Result<(), E>,
) -> Result<(), E> {
    let mut open = children(dir, Path::new(""))?;
    while let Some(relative) = open.pop() {
        let Ok(metadata) = fs::symlink_metadata(dir.join(&relative)) else {
            continue;
        };
        visit(&relative, &metadata)?;
        if metadata.is_dir() {
            open.append(&mut children(dir, &relative)?);
        }
    }
    Ok(())
}

/// Lists the entries of a directory in reverse order of their names.
fn children(dir: &Path, relative: &Path) -> Result<Vec<PathBuf>, FileError> {
    let path = dir.join(relative);
    let list = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(&path)?
            .map(|child| Ok(relative.join(child?.file_name())))
            .collect()
    };
    let mut found = match list() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other.map_err(|e| FileError::io("read", &path, &e))?,
    };
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

fn write(dir: &Path, writer: ChannelWriter) -> io::Result<()> {
    let mut archive = tar::Builder::new(writer);
    walk(dir, |relative, metadata| {
        append(&mut archive, dir, relative, metadata).map_err(WalkError)
    })
    .map_err(|WalkError(e)| e)?;
    archive.into_inner()?.flush()
}

/// Error of [`walk`] while an archive is written: of the walk itself, or of the archive.
struct WalkError(io::Error);

impl From<FileError> for WalkError {
    fn from(error: FileError) -> Self {
        Self(io::Error::other(error))
    }
}

fn append(
    archive: &mut tar::Builder<ChannelWriter>,
    dir: &Path,
    relative: &Path,
    metadata: &Metadata,
) -> io::Result<()> {
    let path = dir.join(relative);
    if metadata.is_file() {
        return append_file(archive, &path, relative);
    }
    let mut header = sparse::header_for(metadata);
    header.set_size(0);
    if metadata.is_dir() {
        archive.append_data(&mut header, relative, io::empty())
    } else if metadata.is_symlink() {
        match fs::read_link(&path) {
            Ok(target) => archive.append_link(&mut header, relative, target),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    } else {
        Ok(())
    }
}

fn append_file(
    archive: &mut tar::Builder<ChannelWriter>,
    path: &Path,
    relative: &Path,
) -> io::Result<()> {
    let (file, metadata) = match open_plain(path) {
        Err(e) if e.kind == Kind::NotFound => return Ok(()),
        other => other.map_err(io::Error::other)?,
    };
    if has_holes(&file, &metadata) {
        return sparse::append_file(archive, &file, relative);
    }
    let mut header = sparse::header_for(&metadata);
    // The header alone: the builder would copy the content in small pieces.
    archive.append_data(&mut header, relative, io::empty())?;
    archive.get_mut().copy(&file, metadata.len(), path)?;
    let rest = metadata.len() % 512;
    archive
        .get_mut()
        .write_all(&[0; 512][..(512 - rest as usize) % 512])
}

/// Returns true if the file has enough holes for the sparse form. A file without any block may have
/// its content in the inode, as some file systems store small files: it has no hole then.
fn has_holes(file: &File, metadata: &Metadata) -> bool {
    if metadata.len().saturating_sub(metadata.blocks() * 512) < MIN_HOLES {
        return false;
    }
    metadata.blocks() > 0 || rustix::fs::seek(file, rustix::fs::SeekFrom::Data(0)).is_err()
}

fn became_shorter(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!("'{}' became shorter while it was read", path.display()),
    )
}

/// Writer that collects bytes into pieces of [`CHUNK`], and blocks while the queue to the connection
/// is full.
pub struct ChannelWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl ChannelWriter {
    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone");
        self.sender.blocking_send(Ok(piece.into())).map_err(gone)
    }

    /// Appends exactly `size` bytes of the file to the archive, read straight into the outgoing
    /// buffer.
    fn copy(&mut self, file: &File, size: u64, path: &Path) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            if self.buffer.len() >= CHUNK {
                self.send()?;
            }
            let before = self.buffer.len();
            match rustix::io::read(file, rustix::buffer::spare_capacity(&mut self.buffer)) {
                Ok(0) => return Err(became_shorter(path)),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
                Ok(_) => {
                    let count = (self.buffer.len() - before) as u64;
                    // A file that grew is sent as it was when its header went out.
                    self.buffer
                        .truncate(before + usize::try_from(count.min(left)).unwrap_or(0));
                    left -= count.min(left);
                }
            }
        }
        Ok(())
    }
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() >= CHUNK {
            self.send()?;
        }
        let count = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            Ok(())
        } else {
            self.send()
        }
    }
}
