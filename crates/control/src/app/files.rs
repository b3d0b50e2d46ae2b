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
use crate::hosts::{
    FileForm, FileInfo, FileStream, GuestPath, Host, ListingPage, ListingQuery, NewOwner,
    UploadTarget,
};

/// Longest path that Linux takes (PATH_MAX).
pub const MAX_PATH: usize = 4096;
/// Beginning of the text of a byte that is not UTF-8, and the bytes that such a text takes.
const ESCAPE: char = '\u{10fffd}';
const ESCAPED_BYTES: usize = 7;
/// Longest text of a mode, and of the name of an owner or group.
const MAX_MODE_TEXT: usize = 256;
const MAX_OWNER: usize = 256;
/// Most entries of one page of a listing.
pub const MAX_PAGE: u32 = 1000;
/// Most entries of a listing that is not asked for in pages.
pub const MAX_ENTRIES: usize = 100_000;
/// Levels that one listing goes down.
pub const MAX_DEPTH: u32 = 32;
/// Permission bits that there are.
pub const MAX_MODE: u32 = 0o7777;

/// Checks a path of the guest, and the user whose path it is.
///
/// # Errors
/// Names the field and the bound.
pub(super) fn check_path(GuestPath { path, user }: &GuestPath) -> Result<()> {
    check_path_text("path", path)?;
    check_user(user.as_deref())
}

/// Checks the text of a path. Its bytes are at most as many as are counted here.
pub(super) fn check_path_text(field: &str, path: &str) -> Result<()> {
    let escapes = path.matches(ESCAPE).count();
    let length = path.len().saturating_sub(escapes * (ESCAPED_BYTES - 1));
    if path.is_empty() || length > MAX_PATH || path.contains('\0') {
        return Err(Error::invalid(format!(
            "{field} must be 1 to {MAX_PATH} bytes without NUL"
        )));
    }
    Ok(())
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

/// A listing of a directory, of which one page is held.
#[derive(Debug)]
pub struct Listing {
    host: Arc<Host>,
    id: SandboxId,
    query: ListingQuery,
    page: ListingPage,
    shutdown: CancellationToken,
}

impl Listing {
    /// Returns the entries of the page in hand, and where the next one begins; empty on the last.
    pub fn into_page(self) -> ListingPage {
        self.page
    }

    /// Returns the entries of the next page, the first one at first; `None` at the end.
    ///
    /// # Errors
    /// The guest's; the host's. The list so far is not whole then.
    pub async fn next(&mut self) -> Result<Option<Vec<FileInfo>>> {
        if self.page.entries.is_empty() {
            if self.page.next.is_empty() {
                return Ok(None);
            }
            self.query.after = std::mem::take(&mut self.page.next);
            self.page = tokio::select! {
                page = self.host.list_dir(&self.id, self.query.clone()) => page?,
                () = self.shutdown.cancelled() => return Err(Error::shutting_down()),
            };
        }
        Ok(Some(std::mem::take(&mut self.page.entries)).filter(|entries| !entries.is_empty()))
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

    /// Lists a directory in pages, of which the first is fetched.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`; `InvalidRequest` if it is no directory.
    pub async fn list_dir(
        &self,
        principal: &Principal,
        id: &SandboxId,
        query: ListingQuery,
    ) -> Result<Listing> {
        principal.require_read(Resource::Sandboxes)?;
        check_path(&query.path)?;
        let ListingQuery { depth, limit, .. } = query;
        if !(1..=MAX_DEPTH).contains(&depth) {
            return Err(Error::invalid(format!(
                "depth must be from 1 to {MAX_DEPTH}, not {depth}"
            )));
        }
        if let Some(limit) = limit.filter(|limit| !(1..=MAX_PAGE).contains(limit)) {
            return Err(Error::invalid(format!(
                "limit must be from 1 to {MAX_PAGE}, not {limit}"
            )));
        }
        let host = self.find_usable(principal, id).await?.host;
        let page = host.list_dir(id, query.clone()).await?;
        Ok(Listing {
            host,
            id: id.clone(),
            query,
            page,
            shutdown: self.shutdown.clone(),
        })
    }

    /// Moves or renames a path; with `no_replace`, a destination that is there is an error.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`; `Conflict` where the destination is taken; `InvalidRequest` between
    /// file systems.
    pub async fn move_path(
        &self,
        principal: &Principal,
        id: &SandboxId,
        source: GuestPath,
        destination: String,
        no_replace: bool,
    ) -> Result<FileInfo> {
        check_path_text("destination", &destination)?;
        let host = self.host_to_write(principal, id, &source).await?;
        host.move_path(id, source, destination, no_replace).await
    }

    /// Changes permission bits as chmod(1) does.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`; `InvalidRequest` for what is no mode.
    pub async fn set_mode(
        &self,
        principal: &Principal,
        id: &SandboxId,
        path: GuestPath,
        mode: String,
        recursive: bool,
    ) -> Result<FileInfo> {
        if mode.is_empty() || mode.len() > MAX_MODE_TEXT {
            return Err(Error::invalid(
                "mode must be octal as in 0644, or symbolic as in u+x",
            ));
        }
        let host = self.host_to_write(principal, id, &path).await?;
        host.set_mode(id, path, mode, recursive).await
    }

    /// Changes owner and group as chown(1) does.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`; `InvalidRequest` for names that are not in the sandbox.
    pub async fn set_owner(
        &self,
        principal: &Principal,
        id: &SandboxId,
        path: GuestPath,
        owner: NewOwner,
        recursive: bool,
    ) -> Result<FileInfo> {
        let names = [("owner", &owner.owner), ("group", &owner.group)];
        if names.iter().all(|(_, name)| name.is_none()) {
            return Err(Error::invalid("owner or group must be named, or both"));
        }
        for (field, name) in names {
            let is_wrong = |name: &String| {
                name.is_empty() || name.len() > MAX_OWNER || name.contains(['\0', ':', '\n', '/'])
            };
            if name.as_ref().is_some_and(is_wrong) {
                return Err(Error::invalid(format!(
                    "{field} must be a name or number of 1 to {MAX_OWNER} bytes without ':', '/', NUL or newline"
                )));
            }
        }
        let host = self.host_to_write(principal, id, &path).await?;
        host.set_owner(id, path, owner, recursive).await
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
