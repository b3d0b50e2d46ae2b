//! Comparisons of fake sandboxes: files of two moments, by content.

use std::collections::BTreeSet;

use connectrpc::{ConnectError, ServiceStream};
use futures::{StreamExt, stream};
use host_rpc as rpc;
use host_rpc::__buffa::oneof::diff_sandbox_response::Event;
use host_rpc::diff_sandbox_response::{DiffChanges, DiffDone, DiffStarted};

use super::world::{Content, World};
use super::{lifecycle, saved};

pub(super) fn diff(
    world: &World,
    request: &rpc::DiffSandboxRequest,
) -> Result<ServiceStream<rpc::DiffSandboxResponse>, ConnectError> {
    let sandbox = lifecycle::alive(world, &request.sandbox_id)?;
    let newest = || {
        let newest = sandbox.checkpoints.last();
        newest.map(|it| it.about.name.clone()).ok_or_else(|| {
            ConnectError::failed_precondition("it has no checkpoint to compare with")
        })
    };
    let from = match request.from.as_str() {
        "" => newest()?,
        name => name.to_owned(),
    };
    let find = |name: &str| saved::find_checkpoint(world, &request.sandbox_id, name);
    let before = find(&from)?.content;
    let after = match request.to.as_str() {
        "" => sandbox.content.clone(),
        name => find(name)?.content,
    };
    let mut changes = changes(&before, &after, request);
    if changes.is_empty() && !["", "/"].contains(&request.path.as_str()) {
        let is_there = |content: &Content| {
            content
                .files
                .keys()
                .any(|path| path.starts_with(&request.path))
        };
        if !is_there(&before) && !is_there(&after) {
            return Err(ConnectError::not_found("no such file or directory"));
        }
    }
    let most = request.max_changes as usize;
    let incomplete = (changes.len() > most).then(|| format!("there are more than {most} changes"));
    changes.truncate(most);
    let started = DiffStarted {
        from,
        to: request.to.clone(),
        ..Default::default()
    };
    let done = DiffDone {
        incomplete,
        ..Default::default()
    };
    let changes = DiffChanges {
        changes,
        ..Default::default()
    };
    let events = [
        Event::from(started),
        Event::from(changes),
        Event::from(done),
    ];
    let message = |event| {
        Ok(rpc::DiffSandboxResponse {
            event: Some(event),
            ..Default::default()
        })
    };
    Ok(stream::iter(events).map(message).boxed())
}

fn changes(
    before: &Content,
    after: &Content,
    request: &rpc::DiffSandboxRequest,
) -> Vec<rpc::DiffChange> {
    let paths: BTreeSet<&String> = before.files.keys().chain(after.files.keys()).collect();
    let paths = paths.into_iter();
    let differing = paths.filter(|path| {
        path.starts_with(&request.path) && before.files.get(*path) != after.files.get(*path)
    });
    let state = |content: &Content, path: &str| {
        content.files.get(path).map(|data| rpc::FileState {
            kind: rpc::InodeKind::INODE_KIND_FILE.into(),
            size: data.len() as u64,
            mode: content.modes.get(path).copied().unwrap_or(0o644),
            ..Default::default()
        })
    };
    let text = |content: &Content, path: &str| {
        let data = content.files.get(path).cloned().unwrap_or_default();
        String::from_utf8_lossy(&data).into_owned()
    };
    let change = |path: &String| {
        let patch = request.patches.then(|| rpc::FilePatch {
            text: format!("-{}\n+{}\n", text(before, path), text(after, path)),
            ..Default::default()
        });
        rpc::DiffChange {
            path: path.clone(),
            before: state(before, path).into(),
            after: state(after, path).into(),
            is_content_changed: before.files.contains_key(path) && after.files.contains_key(path),
            patch: patch.into(),
            ..Default::default()
        }
    };
    differing.map(change).collect()
}
