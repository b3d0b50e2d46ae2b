//! Files of sandboxes, streamed both ways.

use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use model::{Resource, SandboxId};
use tokio_util::sync::CancellationToken;

use super::App;
use super::exec::check_user;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{FileForm, FileInfo, FileStream, GuestPath, Host, UploadTarget};

/// Longest path that Linux takes (PATH_MAX).
pub const MAX_PATH: usize = 4096;
/// Levels that one listing goes down.
pub const MAX_DEPTH: u32 = 32;
/// Permission bits that there are.
pub const MAX_MODE: u32 = 0o7777;

/// Checks a path of the guest, and the user whose path it is.
///
/// # Errors
/// Names the field and the bound.
fn check_path(GuestPath { path, user }: &GuestPath) -> Result<()> {
    if path.is_empty() || path.len() > MAX_PATH || path.contains('\0') {
        return Err(Error::invalid(format!(
            "path must be 1 to {MAX_PATH} bytes without NUL"
        )));
    }
    check_user(user.as_deref())
}

/// A file or archive that comes out of a sandbox.
#[derive(Debug)]
pub struct Download {
    stream: FileStream,
    shutdown: CancellationToken,
}

impl Download {
    /// Returns the next piece; `None` at the end.
    ///
    /// # Errors
    /// The error of the stream; the content so far is not whole then.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        tokio::select! {
            piece = self.stream.next() => piece,
            () = self.shutdown.cancelled() => {
                Err(Error::shutting_down())
            }
        }
    }
}

impl App {
    /// Returns the host of a sandbox of which a key may read files.
    async fn host_to_read(
        &self,
        principal: &Principal,
        id: &SandboxId,
        path: &GuestPath,
    ) -> Result<Arc<Host>> {
        principal.require_read(Resource::Sandboxes)?;
        check_path(path)?;
        Ok(self.find_usable(principal, id).await?.host)
    }

    /// Returns the host of a sandbox of which a key may change files.
    async fn host_to_write(
        &self,
        principal: &Principal,
        id: &SandboxId,
        path: &GuestPath,
    ) -> Result<Arc<Host>> {
        principal.require_write(Resource::Sandboxes)?;
        check_path(path)?;
        Ok(self.find_usable(principal, id).await?.host)
    }

    /// Opens a file or directory for reading.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`; `InvalidRequest` for a directory that is to be read as a file and
    /// the other way round.
    pub async fn read_file(
        &self,
        principal: &Principal,
        id: &SandboxId,
        path: GuestPath,
        form: FileForm,
    ) -> Result<Download> {
        let host = self.host_to_read(principal, id, &path).await?;
        Ok(Download {
            stream: host.read_file(id, path, form).await?,
            shutdown: self.shutdown.clone(),
        })
    }

    /// Writes a file, or unpacks an archive, from a stream, and returns the number of bytes. When
    /// the stream fails, so does the write, with the stream's error, and no new file is left.
    ///
    /// # Errors
    /// `Forbidden`, `InsufficientStorage` and others of the guest; the stream's own.
    pub async fn write_file<S>(
        &self,
        principal: &Principal,
        id: &SandboxId,
        target: UploadTarget,
        content: S,
    ) -> Result<u64>
    where
        S: Stream<Item = Result<Bytes>> + Send + 'static,
    {
        let host = self.host_to_write(principal, id, &target.path).await?;
        host.write_file(id, target, content).await
    }

    /// Describes the file at a path.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`.
    pub async fn stat_path(
        &self,
        principal: &Principal,
        id: &SandboxId,
        path: GuestPath,
    ) -> Result<FileInfo> {
        let host = self.host_to_read(principal, id, &path).await?;
        host.stat_path(id, path).await
    }

    /// Lists a directory, `depth` levels down.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`; `InvalidRequest` if it is no directory.
    pub async fn list_dir(
        &self,
        principal: &Principal,
        id: &SandboxId,
        path: GuestPath,
        depth: u32,
    ) -> Result<Vec<FileInfo>> {
        principal.require_read(Resource::Sandboxes)?;
        check_path(&path)?;
        if !(1..=MAX_DEPTH).contains(&depth) {
            return Err(Error::invalid(format!(
                "depth must be from 1 to {MAX_DEPTH}, not {depth}"
            )));
        }
        let host = self.find_usable(principal, id).await?.host;
        host.list_dir(id, path, depth).await
    }

    /// Creates a directory and its parents.
    ///
    /// # Errors
    /// `Conflict` if there is a file, `Forbidden`.
    pub async fn make_dir(
        &self,
        principal: &Principal,
        id: &SandboxId,
        path: GuestPath,
    ) -> Result<()> {
        let host = self.host_to_write(principal, id, &path).await?;
        host.make_dir(id, path).await
    }

    /// Removes a file, or a directory with everything in it.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`.
    pub async fn remove_path(
        &self,
        principal: &Principal,
        id: &SandboxId,
        path: GuestPath,
    ) -> Result<()> {
        let host = self.host_to_write(principal, id, &path).await?;
        host.remove_path(id, path).await
    }
}
