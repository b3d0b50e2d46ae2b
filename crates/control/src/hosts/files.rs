//! Calls about files in guests.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use host_rpc as rpc;
use host_rpc::__buffa::oneof::{read_file_response, write_file_request};
use host_rpc::__buffa::view::ReadFileResponseView;
use model::{ErrorCode, FileKind, SandboxId};
use parking_lot::Mutex;

use super::Host;
use super::calls::{GUEST_TIMEOUT, Messages, next_part, query, streaming, unary};
use crate::error::{Error, Result};

/// Bytes of content in one message of a stream.
pub const CHUNK_BYTES: usize = rpc::FILE_CHUNK_BYTES;
/// Bytes of a directory listing; far more than the entries that a host sends at most.
const MAX_LISTING: usize = 64 * 1024 * 1024;

/// A path in a guest, as one of its users sees it.
#[derive(Debug, Clone, Default)]
pub struct GuestPath {
    /// Relative to the working directory of the image's configuration, without one to the user's home.
    pub path: String,
    pub user: Option<String>,
}

/// Destination of an upload.
#[derive(Debug, Clone, Default)]
pub struct UploadTarget {
    pub path: GuestPath,
    /// Permission bits.
    pub mode: Option<u32>,
    pub form: FileForm,
}

/// Form in which a file or directory is transferred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FileForm {
    /// The bytes of a file.
    #[default]
    Content,
    /// A tar archive of the content of a directory.
    Directory,
    /// A tar archive of one file, without its holes.
    SingleFile,
}

/// An entry of a guest's file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    pub path: String,
    pub kind: FileKind,
    pub size: u64,
    pub mode: u32,
    pub owner: String,
    pub group: String,
    /// Milliseconds since the Unix epoch.
    pub modified_at: i64,
    pub symlink_target: Option<String>,
}

/// Part of a listing that is wanted.
#[derive(Debug, Clone, Default)]
pub struct ListingQuery {
    pub path: GuestPath,
    /// Levels to go down.
    pub depth: u32,
    /// [`ListingPage::next`] of the page before; empty for the first.
    pub after: Vec<u8>,
    /// Most entries of the page.
    pub limit: Option<u32>,
}

/// Page of a listing.
#[derive(Debug, Clone, Default)]
pub struct ListingPage {
    pub entries: Vec<FileInfo>,
    /// Where the next page begins; empty on the last one.
    pub next: Vec<u8>,
}

/// Owner and group for files, by name or number; `None` leaves theirs.
#[derive(Debug, Clone, Default)]
pub struct NewOwner {
    pub owner: Option<String>,
    pub group: Option<String>,
}

/// Content of a file or archive as it comes.
pub type FileStream = Messages<ReadFileResponseView<'static>>;

next_part!(ReadFileResponseView, ReadFileResponse, part: read_file_response::Part);

impl FileStream {
    /// Returns the next piece; `None` at the end.
    ///
    /// # Errors
    /// The error of the stream; the content so far is not whole then.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(part) = self.next_part().await? {
            if let read_file_response::Part::Data(data) = part {
                return Ok(Some(data.into()));
            }
        }
        Ok(None)
    }
}

impl Host {
    /// Opens a file or directory for reading.
    ///
    /// # Errors
    /// The guest's; the host's.
    pub async fn read_file(
        self: &Arc<Self>,
        id: &SandboxId,
        GuestPath { path, user }: GuestPath,
        form: FileForm,
    ) -> Result<FileStream> {
        let request = rpc::ReadFileRequest {
            sandbox_id: id.to_string(),
            path,
            user,
            archive: form != FileForm::Content,
            single_file: form == FileForm::SingleFile,
            ..Default::default()
        };
        let mut stream = streaming!(self, files.read_file(request));
        match stream.next_part().await? {
            Some(read_file_response::Part::Info(_)) => Ok(stream),
            _ => Err(Error::new(
                ErrorCode::AgentError,
                "the host agent sent a file without saying what it is",
            )),
        }
    }

    /// Writes a file, or unpacks an archive, and returns the number of bytes. No time limit: an
    /// upload takes as long as its sender does. When `content` fails, so does the write, with the
    /// same error, and no new file is left.
    ///
    /// # Errors
    /// The guest's; the host's; those of `content`.
    pub async fn write_file<S>(
        &self,
        id: &SandboxId,
        target: UploadTarget,
        content: S,
    ) -> Result<u64>
    where
        S: Stream<Item = Result<Bytes>> + Send + 'static,
    {
        let failure = ContentFailure::default();
        let messages = upload_messages(id, target, content, failure.clone());
        let answer = self.client()?.files().write_file(messages).await;
        // The host only sees that the upload broke off.
        if let Some(error) = failure.take() {
            return Err(error);
        }
        let answer = answer.map_err(|error| self.failed(&error))?;
        Ok(answer.into_owned().bytes_written)
    }

    /// Describes the file at a path of the guest: kind, size, mode and owner.
    ///
    /// # Errors
    /// The guest's; the host's.
    pub async fn stat_path(
        &self,
        id: &SandboxId,
        GuestPath { path, user }: GuestPath,
    ) -> Result<FileInfo> {
        let request = rpc::StatPathRequest {
            sandbox_id: id.to_string(),
            path,
            user,
            ..Default::default()
        };
        let answer = query!(self, files.stat_path_with_options(request), GUEST_TIMEOUT)?;
        Ok(answer.info.into_option().unwrap_or_default().into())
    }

    /// Lists a page of a directory of the guest. Without a limit, a guest agent of an earlier
    /// version gives the whole list at once.
    ///
    /// # Errors
    /// The guest's; the host's.
    pub async fn list_dir(&self, id: &SandboxId, query: ListingQuery) -> Result<ListingPage> {
        let request = rpc::ListDirRequest {
            sandbox_id: id.to_string(),
            path: query.path.path,
            user: query.path.user,
            depth: query.depth,
            after: query.after,
            limit: query.limit.unwrap_or_default(),
            ..Default::default()
        };
        let options = connectrpc::client::CallOptions::default()
            .with_timeout(GUEST_TIMEOUT)
            .with_max_message_size(MAX_LISTING)
            .with_element_memory_limit(4 * MAX_LISTING);
        let answer = self
            .client()?
            .files()
            .list_dir_with_options(request, options)
            .await;
        let page = answer
            .map_err(|error| self.failed_query(&error))?
            .into_owned();
        Ok(ListingPage {
            entries: page.entries.into_iter().map(FileInfo::from).collect(),
            next: page.next,
        })
    }

    /// Makes a directory in the guest.
    ///
    /// # Errors
    /// The guest's; the host's.
    pub async fn make_dir(
        &self,
        id: &SandboxId,
        GuestPath { path, user }: GuestPath,
    ) -> Result<()> {
        let request = rpc::MakeDirRequest {
            sandbox_id: id.to_string(),
            path,
            user,
            ..Default::default()
        };
        unary!(self, files.make_dir_with_options(request), GUEST_TIMEOUT).map(drop)
    }

    /// Removes a path of the guest.
    ///
    /// # Errors
    /// The guest's; the host's.
    pub async fn remove_path(
        &self,
        id: &SandboxId,
        GuestPath { path, user }: GuestPath,
    ) -> Result<()> {
        let request = rpc::RemovePathRequest {
            sandbox_id: id.to_string(),
            path,
            user,
            ..Default::default()
        };
        unary!(self, files.remove_path_with_options(request), GUEST_TIMEOUT).map(drop)
    }
}

impl Host {
    /// Moves or renames a path of the guest; with `no_replace`, a destination that is there is an
    /// error.
    ///
    /// # Errors
    /// The guest's; the host's.
    pub async fn move_path(
        &self,
        id: &SandboxId,
        GuestPath { path, user }: GuestPath,
        destination: String,
        no_replace: bool,
    ) -> Result<FileInfo> {
        let request = rpc::MovePathRequest {
            sandbox_id: id.to_string(),
            source: path,
            destination,
            no_replace,
            user,
            ..Default::default()
        };
        let answer = unary!(self, files.move_path_with_options(request), GUEST_TIMEOUT)?;
        Ok(answer.info.into_option().unwrap_or_default().into())
    }

    /// Changes permission bits in the guest.
    ///
    /// # Errors
    /// The guest's; the host's.
    pub async fn set_mode(
        &self,
        id: &SandboxId,
        GuestPath { path, user }: GuestPath,
        mode: String,
        recursive: bool,
    ) -> Result<FileInfo> {
        let request = rpc::SetModeRequest {
            sandbox_id: id.to_string(),
            path,
            mode,
            recursive,
            user,
            ..Default::default()
        };
        let answer = unary!(self, files.set_mode_with_options(request), GUEST_TIMEOUT)?;
        Ok(answer.info.into_option().unwrap_or_default().into())
    }

    /// Changes owner and group in the guest.
    ///
    /// # Errors
    /// The guest's; the host's.
    pub async fn set_owner(
        &self,
        id: &SandboxId,
        GuestPath { path, user }: GuestPath,
        owner: NewOwner,
        recursive: bool,
    ) -> Result<FileInfo> {
        let request = rpc::SetOwnerRequest {
            sandbox_id: id.to_string(),
            path,
            owner: owner.owner,
            group: owner.group,
            recursive,
            user,
            ..Default::default()
        };
        let answer = unary!(self, files.set_owner_with_options(request), GUEST_TIMEOUT)?;
        Ok(answer.info.into_option().unwrap_or_default().into())
    }
}

/// Returns the kind of a file; `Other` for one that this version does not know.
pub(super) fn file_kind(kind: Option<rpc::FileKind>) -> FileKind {
    match kind {
        Some(rpc::FileKind::FILE_KIND_FILE) => FileKind::File,
        Some(rpc::FileKind::FILE_KIND_DIRECTORY) => FileKind::Directory,
        Some(rpc::FileKind::FILE_KIND_SYMLINK) => FileKind::Symlink,
        Some(rpc::FileKind::FILE_KIND_UNSPECIFIED) | None => FileKind::Other,
    }
}

impl From<rpc::FileInfo> for FileInfo {
    fn from(info: rpc::FileInfo) -> Self {
        Self {
            path: info.path,
            kind: file_kind(info.kind.as_known()),
            size: info.size,
            mode: info.mode,
            owner: info.owner,
            group: info.group,
            modified_at: info.modified_at_ms,
            symlink_target: info.symlink_target,
        }
    }
}

/// Slot in which the content of an upload leaves its error: a request stream has no way to pass one
/// on.
#[derive(Clone, Default)]
pub(super) struct ContentFailure(Arc<Mutex<Option<Error>>>);

impl ContentFailure {
    fn set(&self, error: Error) {
        let mut failure = self.0.lock();
        failure.get_or_insert(error);
    }

    pub(super) fn take(&self) -> Option<Error> {
        self.0.lock().take()
    }
}

/// Returns target, data, and at the good end `done`. Without `done` the host knows that the upload
/// broke off.
fn upload_messages<S>(
    id: &SandboxId,
    target: UploadTarget,
    content: S,
    failure: ContentFailure,
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
        path: target.path.path,
        user: target.path.user,
        mode: target.mode,
        archive: target.form != FileForm::Content,
        single_file: target.form == FileForm::SingleFile,
        ..Default::default()
    };
    let done = || write_file_request::Part::from(rpc::write_file_request::WriteFileDone::default());
    content_messages(
        message(write_file_request::Part::from(first)),
        move |data| message(write_file_request::Part::Data(data)),
        move || message(done()),
        content,
        failure,
    )
}

/// Returns `first`, the content as messages of at most [`CHUNK_BYTES`], and at the good end `done`.
pub(super) fn content_messages<S, M>(
    first: M,
    data: impl Fn(Vec<u8>) -> M + Copy + Send + 'static,
    done: impl Fn() -> M + Copy + Send + 'static,
    content: S,
    failure: ContentFailure,
) -> impl Stream<Item = M> + Send + 'static
where
    S: Stream<Item = Result<Bytes>> + Send + 'static,
    M: Send + 'static,
{
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
                            failure.set(error);
                            return None;
                        }
                        None => return Some((done(), (None, chunk))),
                    }
                }
                let piece = chunk.split_to(chunk.len().min(CHUNK_BYTES));
                Some((data(piece.into()), (Some(content), chunk)))
            }
        },
    );
    stream::once(async move { first }).chain(rest)
}
