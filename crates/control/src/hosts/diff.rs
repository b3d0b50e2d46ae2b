//! Comparisons of files, as hosts stream them.

use std::sync::Arc;
use std::time::Duration;

use host_rpc as rpc;
use host_rpc::__buffa::oneof::diff_sandbox_response;
use host_rpc::__buffa::view::DiffSandboxResponseView;
use model::{CheckpointName, ErrorCode, InodeKind, SandboxId, TeamId};

use super::Host;
use super::calls::{Messages, next_part, streaming};
use crate::error::{Error, Result};

/// Time for a comparison to begin, beyond its own: it may wait a minute for its turn, and for a
/// snapshot of the disk.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(180);

/// Changes as they are found. The first event is [`DiffEvent::Started`].
#[derive(Debug)]
pub struct DiffStream {
    started: Option<DiffStart>,
    parts: Messages<DiffSandboxResponseView<'static>>,
}

next_part!(DiffSandboxResponseView, DiffSandboxResponse, event: diff_sandbox_response::Event);

/// Moments and bounds of a comparison.
#[derive(Debug, Clone, Default)]
pub struct DiffQuery {
    /// Checkpoint before; the newest one where absent.
    pub from: Option<CheckpointName>,
    /// Checkpoint after; the present state where absent.
    pub to: Option<CheckpointName>,
    pub path: String,
    pub patches: bool,
    pub max_changes: u32,
    pub timeout_ms: u32,
}

/// Moments that are compared.
#[derive(Debug, Clone, Default)]
pub struct DiffStart {
    pub from: String,
    /// `None` for the present state.
    pub to: Option<String>,
    pub from_unflushed: bool,
    pub to_unflushed: bool,
}

/// A file that is not as it was.
#[derive(Debug, Clone)]
pub struct FileChanged {
    pub path: String,
    pub before: Option<FileState>,
    pub after: Option<FileState>,
    pub content_changed: bool,
    pub attributes_changed: bool,
    /// It may differ in more than is told.
    pub unreadable: bool,
    pub patch: Option<FilePatch>,
}

/// A file at one moment.
#[derive(Debug, Clone)]
pub struct FileState {
    pub kind: InodeKind,
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub symlink_target: Option<String>,
    /// Major and minor number.
    pub device: Option<(u32, u32)>,
    pub sha256: Option<String>,
}

/// How a content differs.
#[derive(Debug, Clone)]
pub struct FilePatch {
    pub text: String,
    pub is_cut: bool,
    pub is_binary: bool,
}

/// Summary of a comparison.
#[derive(Debug, Clone)]
pub struct DiffSummary {
    /// Reason why there may be more changes.
    pub incomplete: Option<String>,
    pub compared: u64,
    pub unreadable: u64,
}

/// Event of a comparison.
#[derive(Debug, Clone)]
pub enum DiffEvent {
    Started(DiffStart),
    Changes(Vec<FileChanged>),
    Done(DiffSummary),
}

impl DiffStream {
    /// Waits for the next event; `None` at the end.
    ///
    /// # Errors
    /// The host's; the changes so far are not all then.
    pub async fn next(&mut self) -> Result<Option<DiffEvent>> {
        use diff_sandbox_response::Event;
        if let Some(started) = self.started.take() {
            return Ok(Some(DiffEvent::Started(started)));
        }
        while let Some(event) = self.parts.next_part().await? {
            return Ok(Some(match event {
                Event::Changes(changes) => {
                    let changes = changes.changes.into_iter().map(FileChanged::from);
                    DiffEvent::Changes(changes.collect())
                }
                Event::Done(done) => DiffEvent::Done(DiffSummary {
                    incomplete: done.incomplete,
                    compared: done.compared,
                    unreadable: done.unreadable,
                }),
                Event::Started(_) => continue,
            }));
        }
        Ok(None)
    }
}

impl Host {
    /// Begins a comparison, and returns when both disks are read.
    ///
    /// # Errors
    /// The host's, such as for a checkpoint or a path that does not exist; `Timeout`.
    pub async fn diff_sandbox(
        self: &Arc<Self>,
        id: &SandboxId,
        team: &TeamId,
        query: DiffQuery,
    ) -> Result<DiffStream> {
        let name =
            |name: Option<CheckpointName>| name.map_or_else(String::new, |it| it.to_string());
        let request = rpc::DiffSandboxRequest {
            sandbox_id: id.to_string(),
            from: name(query.from),
            to: name(query.to),
            path: query.path,
            patches: query.patches,
            max_changes: query.max_changes,
            timeout_ms: query.timeout_ms,
            team: team.to_string(),
            ..Default::default()
        };
        let limit = BEGIN_TIMEOUT + Duration::from_millis(request.timeout_ms.into());
        let begin = async {
            let mut parts = streaming!(self, snapshots.diff_sandbox(request));
            let first = parts.next_part().await?;
            Ok::<_, Error>((parts, first))
        };
        // Dropped, it hangs up, and the host does no more for it.
        let begun = tokio::time::timeout(limit, begin).await.map_err(|_| {
            let text = format!("the comparison did not begin within {} s", limit.as_secs());
            Error::new(ErrorCode::Timeout, text)
        })?;
        let (parts, first) = begun?;
        match first {
            Some(diff_sandbox_response::Event::Started(started)) => Ok(DiffStream {
                started: Some(DiffStart {
                    from: started.from,
                    to: Some(started.to).filter(|to| !to.is_empty()),
                    from_unflushed: started.from_unflushed,
                    to_unflushed: started.to_unflushed,
                }),
                parts,
            }),
            _ => {
                let text = "the host agent did not say that the comparison has begun";
                Err(Error::new(ErrorCode::AgentError, text))
            }
        }
    }
}

impl From<rpc::DiffChange> for FileChanged {
    fn from(change: rpc::DiffChange) -> Self {
        let patch = change.patch.into_option();
        Self {
            path: change.path,
            before: change.before.into_option().map(FileState::from),
            after: change.after.into_option().map(FileState::from),
            content_changed: change.is_content_changed,
            attributes_changed: change.are_attributes_changed,
            unreadable: change.is_unreadable,
            patch: patch.map(|patch| FilePatch {
                text: patch.text,
                is_cut: patch.is_cut,
                is_binary: patch.is_binary,
            }),
        }
    }
}

impl From<rpc::FileState> for FileState {
    fn from(state: rpc::FileState) -> Self {
        let kind = match state.kind.as_known() {
            Some(rpc::InodeKind::INODE_KIND_DIRECTORY) => InodeKind::Directory,
            Some(rpc::InodeKind::INODE_KIND_SYMLINK) => InodeKind::Symlink,
            Some(rpc::InodeKind::INODE_KIND_BLOCK_DEVICE) => InodeKind::BlockDevice,
            Some(rpc::InodeKind::INODE_KIND_CHARACTER_DEVICE) => InodeKind::CharacterDevice,
            Some(rpc::InodeKind::INODE_KIND_FIFO) => InodeKind::Fifo,
            Some(rpc::InodeKind::INODE_KIND_SOCKET) => InodeKind::Socket,
            Some(rpc::InodeKind::INODE_KIND_FILE | rpc::InodeKind::INODE_KIND_UNSPECIFIED)
            | None => InodeKind::File,
        };
        let device = state.device.into_option();
        Self {
            kind,
            size: state.size,
            mode: state.mode,
            uid: state.uid,
            gid: state.gid,
            symlink_target: state.target,
            device: device.map(|device| (device.major, device.minor)),
            sha256: state.sha256,
        }
    }
}
