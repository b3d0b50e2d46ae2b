//! Files of sandboxes, streamed both ways.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use host_rpc as rpc;
use host_rpc::__buffa::oneof::{read_file_response, write_file_request};
use model::{ErrorCode, SandboxId};
use parking_lot::Mutex;

use super::App;
use super::exec::check_user;
use crate::error::{Error, Result};
use crate::hosts::FileStream;

/// Longest path that Linux takes (PATH_MAX).
pub const MAX_PATH: usize = 4096;
/// Levels that one listing goes down.
pub const MAX_DEPTH: u32 = 32;
/// Permission bits that there are.
pub const MAX_MODE: u32 = 0o7777;

/// Where a file is, and whose eyes look at it.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// Relative to the user's home.
    pub path: String,
    pub user: Option<String>,
}

/// Where an upload goes.
#[derive(Debug, Clone, Default)]
pub struct Target {
    pub place: Place,
    pub mode: Option<u32>,
    /// The content is a tar archive to unpack below the path.
    pub archive: bool,
}

impl Place {
    /// # Errors
    /// Names the field and the bound.
    pub fn check(&self) -> Result<()> {
        if self.path.is_empty() || self.path.len() > MAX_PATH || self.path.contains('\0') {
            return Err(Error::invalid(format!(
                "path must be 1 to {MAX_PATH} bytes without NUL"
            )));
        }
        check_user(self.user.as_deref())
    }
}

/// A file or archive that comes out of a sandbox.
#[derive(Debug)]
pub struct Content {
    stream: FileStream,
    shutdown: tokio_util::sync::CancellationToken,
}

impl Content {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// What broke; the content so far is not whole then.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let part = tokio::select! {
                part = self.stream.next() => part?,
                () = self.shutdown.cancelled() => {
                    return Err(Error::new(ErrorCode::HostUnavailable, "the control plane is stopping"));
                }
            };
            match part {
                Some(read_file_response::Part::Data(data)) => return Ok(Some(data.into())),
                Some(read_file_response::Part::Info(_)) => {}
                None => return Ok(None),
            }
        }
    }
}

impl App {
    /// Opens a file, or with `archive` a directory as a tar archive.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`; `InvalidRequest` for a directory without `archive` and the other
    /// way round.
    pub async fn read_file(&self, id: &SandboxId, place: Place, archive: bool) -> Result<Content> {
        place.check()?;
        let host = self.usable(id).await?.host;
        let Place { path, user } = place;
        let request = rpc::ReadFileRequest {
            sandbox_id: id.to_string(),
            path,
            user,
            archive,
            ..Default::default()
        };
        let mut stream = host.read_file(request).await?;
        match stream.next().await? {
            Some(read_file_response::Part::Info(_)) => Ok(Content {
                stream,
                shutdown: self.shutdown.clone(),
            }),
            _ => Err(Error::new(
                ErrorCode::AgentError,
                "the host agent sent a file without saying what it is",
            )),
        }
    }

    /// Writes a file, or unpacks an archive, from a stream. When the stream fails, so does the
    /// write, with the stream's error, and no new file is left. Bytes written.
    ///
    /// # Errors
    /// `Forbidden`, `InsufficientStorage` and others of the guest; the stream's own.
    pub async fn write_file<S>(&self, id: &SandboxId, target: Target, content: S) -> Result<u64>
    where
        S: Stream<Item = Result<Bytes>> + Send + 'static,
    {
        target.place.check()?;
        let host = self.usable(id).await?.host;
        let failure = Failure::default();
        let written = host
            .write_file(parts(id, target, content, failure.clone()))
            .await;
        // The host only knows that the upload broke off.
        match failure.take() {
            Some(error) => Err(error),
            None => written,
        }
    }

    /// # Errors
    /// `NotFound`, `Forbidden`.
    pub async fn stat(&self, id: &SandboxId, place: Place) -> Result<rpc::FileInfo> {
        place.check()?;
        let Place { path, user } = place;
        let request = rpc::StatPathRequest {
            sandbox_id: id.to_string(),
            path,
            user,
            ..Default::default()
        };
        Ok(self
            .usable(id)
            .await?
            .host
            .stat_path(request)
            .await?
            .info
            .into_option()
            .unwrap_or_default())
    }

    /// # Errors
    /// `NotFound`, `Forbidden`; `InvalidRequest` for what is no directory.
    pub async fn list_dir(
        &self,
        id: &SandboxId,
        place: Place,
        depth: u32,
    ) -> Result<Vec<rpc::FileInfo>> {
        place.check()?;
        if !(1..=MAX_DEPTH).contains(&depth) {
            return Err(Error::invalid(format!(
                "depth must be from 1 to {MAX_DEPTH}, not {depth}"
            )));
        }
        let Place { path, user } = place;
        let request = rpc::ListDirRequest {
            sandbox_id: id.to_string(),
            path,
            user,
            depth,
            ..Default::default()
        };
        Ok(self.usable(id).await?.host.list_dir(request).await?.entries)
    }

    /// Makes a directory and its parents.
    ///
    /// # Errors
    /// `Conflict` when there is a file, `Forbidden`.
    pub async fn make_dir(&self, id: &SandboxId, place: Place) -> Result<()> {
        place.check()?;
        let Place { path, user } = place;
        let request = rpc::MakeDirRequest {
            sandbox_id: id.to_string(),
            path,
            user,
            ..Default::default()
        };
        self.usable(id)
            .await?
            .host
            .make_dir(request)
            .await
            .map(drop)
    }

    /// Removes a file, or a directory with everything in it.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`.
    pub async fn remove_path(&self, id: &SandboxId, place: Place) -> Result<()> {
        place.check()?;
        let Place { path, user } = place;
        let request = rpc::RemovePathRequest {
            sandbox_id: id.to_string(),
            path,
            user,
            ..Default::default()
        };
        self.usable(id)
            .await?
            .host
            .remove_path(request)
            .await
            .map(drop)
    }
}

/// Where a request stream leaves its error: it has no way to pass one on.
#[derive(Clone, Default)]
struct Failure(Arc<Mutex<Option<Error>>>);

impl Failure {
    fn put(&self, error: Error) {
        self.0.lock().get_or_insert(error);
    }

    fn take(&self) -> Option<Error> {
        self.0.lock().take()
    }
}

/// Target, data, and at the good end `done`. Without `done` the host knows that the upload broke
/// off.
fn parts<S>(
    id: &SandboxId,
    target: Target,
    content: S,
    failure: Failure,
) -> impl Stream<Item = rpc::WriteFileRequest> + Send + 'static
where
    S: Stream<Item = Result<Bytes>> + Send + 'static,
{
    let message = |part| rpc::WriteFileRequest {
        part: Some(part),
        ..Default::default()
    };
    let first = rpc::WriteFileTarget {
        sandbox_id: id.to_string(),
        path: target.place.path,
        user: target.place.user,
        mode: target.mode,
        archive: target.archive,
        ..Default::default()
    };
    let done = || write_file_request::Part::from(rpc::write_file_request::WriteFileDone::default());
    let rest = stream::unfold(
        (Some(Box::pin(content)), Bytes::new()),
        move |(content, mut chunk)| {
            let failure = failure.clone();
            async move {
                let mut content = content?;
                while chunk.is_empty() {
                    match content.next().await {
                        Some(Ok(next)) => chunk = next,
                        Some(Err(error)) => {
                            failure.put(error);
                            return None;
                        }
                        None => return Some((message(done()), (None, chunk))),
                    }
                }
                let piece = chunk.split_to(chunk.len().min(rpc::FILE_CHUNK_BYTES));
                Some((
                    message(write_file_request::Part::Data(piece.into())),
                    (Some(content), chunk),
                ))
            }
        },
    );
    stream::once(async move { message(write_file_request::Part::from(first)) }).chain(rest)
}
