//! Comparisons of files as messages.

use std::time::Duration;

use connectrpc::{ConnectError, ServiceStream};
use disk_diff::compare::{Bytes, Change, FileState, Patch};
use futures::{StreamExt, stream};
use guest_rpc::bytes::{from_text, to_text};
use host_rpc as rpc;
use host_rpc::__buffa::oneof::diff_sandbox_response::Event;
use host_rpc::diff_sandbox_response::{DiffChanges, DiffDone, DiffStarted};
use model::InodeKind;

use super::error::{from_sandbox_error, invalid_argument};
use super::paths::MAX_PATH_TEXT;
use crate::disk_diff::DiffPart;
use crate::sandbox::SandboxError;
use crate::sandbox::manager::diff::{Diff, DiffQuery};

/// Longest comparison, whatever is asked for.
const MAX_TIME: Duration = Duration::from_secs(300);

pub(super) fn query_from(request: &rpc::DiffSandboxRequest) -> Result<DiffQuery, ConnectError> {
    if request.path.len() > MAX_PATH_TEXT || request.path.contains('\0') {
        return Err(ConnectError::invalid_argument("the path is none"));
    }
    let checkpoint = |name: &str| match name {
        "" => Ok(None),
        name => name.parse().map(Some).map_err(invalid_argument),
    };
    let time = Duration::from_millis(request.timeout_ms.into());
    Ok(DiffQuery {
        from: checkpoint(&request.from)?,
        to: checkpoint(&request.to)?,
        path: from_text(&request.path),
        patches: request.patches,
        max_changes: request.max_changes.into(),
        max_time: time.min(MAX_TIME),
        team: request.team.clone(),
    })
}

/// Streams the parts of a comparison.
pub(super) fn stream_diff(diff: Diff) -> ServiceStream<rpc::DiffSandboxResponse> {
    let [from_unflushed, to_unflushed] = diff.unflushed;
    let started = DiffStarted {
        from: diff.from.to_string(),
        to: diff
            .to
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        from_unflushed,
        to_unflushed,
        ..Default::default()
    };
    let first = stream::once(async move { Ok(message(Event::from(started))) });
    let rest = stream::try_unfold(Some(diff), |diff| async move {
        let Some(mut diff) = diff else {
            return Ok(None);
        };
        let Some(part) = diff.next().await else {
            return Ok(None);
        };
        let part = part.map_err(|error| from_sandbox_error(SandboxError::Diff(error)))?;
        Ok(Some(match part {
            DiffPart::Change(change) => {
                let changes = DiffChanges {
                    changes: vec![change_message(*change)],
                    ..Default::default()
                };
                (message(Event::from(changes)), Some(diff))
            }
            DiffPart::End(summary) => {
                let done = DiffDone {
                    incomplete: summary.incomplete,
                    compared: summary.compared,
                    unreadable: summary.unreadable,
                    ..Default::default()
                };
                (message(Event::from(done)), None)
            }
        }))
    });
    first.chain(rest).boxed()
}

fn message(event: Event) -> rpc::DiffSandboxResponse {
    rpc::DiffSandboxResponse {
        event: Some(event),
        ..Default::default()
    }
}

fn change_message(change: Change) -> rpc::DiffChange {
    let Change {
        path: Bytes(path),
        before,
        after,
        is_content_changed,
        are_attributes_changed,
        is_unreadable,
        patch,
    } = change;
    rpc::DiffChange {
        path: to_text(&path),
        before: before.map(state_message).into(),
        after: after.map(state_message).into(),
        is_content_changed,
        are_attributes_changed,
        is_unreadable,
        patch: patch.map(patch_message).into(),
        ..Default::default()
    }
}

fn state_message(state: FileState) -> rpc::FileState {
    let device = state.device.map(|(major, minor)| rpc::DeviceNumber {
        major,
        minor,
        ..Default::default()
    });
    rpc::FileState {
        kind: kind_message(state.kind).into(),
        size: state.size,
        mode: state.mode.into(),
        uid: state.uid,
        gid: state.gid,
        target: state.target.map(|Bytes(target)| to_text(&target)),
        device: device.into(),
        sha256: state.sha256,
        ..Default::default()
    }
}

fn kind_message(kind: InodeKind) -> rpc::InodeKind {
    match kind {
        InodeKind::File => rpc::InodeKind::INODE_KIND_FILE,
        InodeKind::Directory => rpc::InodeKind::INODE_KIND_DIRECTORY,
        InodeKind::Symlink => rpc::InodeKind::INODE_KIND_SYMLINK,
        InodeKind::BlockDevice => rpc::InodeKind::INODE_KIND_BLOCK_DEVICE,
        InodeKind::CharacterDevice => rpc::InodeKind::INODE_KIND_CHARACTER_DEVICE,
        InodeKind::Fifo => rpc::InodeKind::INODE_KIND_FIFO,
        InodeKind::Socket => rpc::InodeKind::INODE_KIND_SOCKET,
    }
}

fn patch_message(patch: Patch) -> rpc::FilePatch {
    rpc::FilePatch {
        text: patch.text,
        is_cut: patch.is_cut,
        is_binary: patch.is_binary,
        ..Default::default()
    }
}
