//! Forks a sandbox: children that go on from one snapshot of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::{SandboxId, SandboxState};
use runtime::trace::in_current_context;
use stdx::error::chain;

use super::Manager;
use super::begin::Origin;
use crate::operation::OperationKind;
use crate::sandbox::capture::remove_snapshot;
use crate::sandbox::command::{Command, SnapshotParts};
use crate::sandbox::error::SandboxError;
use crate::sandbox::fork_notes::ForkNotes;
use crate::sandbox::handle::Handle;
use crate::sandbox::step_error::StepError;

/// Time between attempts to remove the note of a fork.
const RETRY: Duration = Duration::from_secs(1);

impl Manager {
    /// Creates a child for each id, all from one snapshot. Waits until all run; if one does not, or
    /// the agent dies before, all are removed. If all ids exist already they count as the children
    /// of an earlier call.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn fork_sandbox(
        self: &Arc<Self>,
        id: &SandboxId,
        children: &[SandboxId],
    ) -> Result<Vec<Handle>, SandboxError> {
        if let Some(begun) = self.find_all(children).await {
            // A repeated call: one snapshot is enough, and the source may be gone.
            return wait_until_all_run(begun).await;
        }
        let source = self.find_sandbox(id).await?;
        let dir = self.host.templates.staging_dir();
        let command = Command::Snapshot {
            dir: dir.clone(),
            parts: SnapshotParts::MemoryAndDisk,
        };
        if let Err(error) = source.send_command(command).await {
            remove_snapshot(&dir).await;
            return Err(error);
        }
        fail::fail_point!("fork::captured");
        let created = self.create_all_or_none(&source, children, &dir).await;
        remove_snapshot(&dir).await;
        created
    }

    /// Creates the children under a note: if the agent dies, the next start keeps all or removes all
    /// ([`crate::sandbox::fork_notes`]).
    async fn create_all_or_none(
        self: &Arc<Self>,
        source: &Handle,
        children: &[SandboxId],
        dir: &Path,
    ) -> Result<Vec<Handle>, SandboxError> {
        let ids = children.to_vec();
        let notes = Arc::clone(&self.host.fork_notes);
        let noted = OperationKind::Ledger.run_blocking(move || notes.begin_fork(&ids));
        let note = noted
            .await
            .map_err(|error| error.context("the fork cannot be noted"))?;
        let created = self.create_children(source, children, dir).await;
        if created.is_err() {
            let removals = children.iter().map(|child| self.remove(child));
            futures::future::join_all(removals).await;
        }
        self.remove_fork_note(note).await;
        created
    }

    async fn create_children(
        self: &Arc<Self>,
        source: &Handle,
        children: &[SandboxId],
        dir: &Path,
    ) -> Result<Vec<Handle>, SandboxError> {
        let record = source.record.borrow().clone();
        let disk = record.disk.ok_or(StepError::NoDisk)?;
        let mut handles = Vec::new();
        for child in children {
            let origin = Origin::Snapshot {
                dir: dir.to_owned(),
                disk,
                template: record.snapshot.clone(),
                image_config: record.image_config.clone(),
                keep_alive: record.keep_alive,
            };
            let begun = self.find_or_begin(child, record.spec.clone(), origin).await;
            handles.push(begun?);
        }
        wait_until_all_run(handles).await
    }

    async fn find_all(&self, ids: &[SandboxId]) -> Option<Vec<Handle>> {
        let mut found = Vec::new();
        for id in ids {
            found.push(self.registry.find(id).await?);
        }
        Some(found)
    }

    /// Removes the note of a fork that is over. Where that fails it is tried in the background until
    /// it works: at the next start, a note that stayed would remove all children with the first one
    /// that was deleted.
    pub(super) async fn remove_fork_note(&self, note: PathBuf) {
        if try_remove_note(&self.host.fork_notes, &note).await {
            return;
        }
        let notes = Arc::clone(&self.host.fork_notes);
        tokio::spawn(in_current_context(async move {
            while !try_remove_note(&notes, &note).await {
                tokio::time::sleep(RETRY).await;
            }
        }));
    }
}

async fn try_remove_note(notes: &Arc<ForkNotes>, note: &Path) -> bool {
    let path = note.to_owned();
    let notes = Arc::clone(notes);
    let end = move || notes.end_fork(&path);
    let ended = OperationKind::Ledger.run_blocking(end).await;
    if let Err(error) = &ended {
        tracing::warn!(note = %note.display(), error = chain(&error), "the note of a fork cannot be removed yet");
    }
    ended.is_ok()
}

/// Waits until every child of a fork runs.
async fn wait_until_all_run(children: Vec<Handle>) -> Result<Vec<Handle>, SandboxError> {
    for child in &children {
        let record = child.wait_until_created().await;
        // A child that was ready early may be paused for idleness by now.
        let state = record.phase.state();
        if !matches!(state, SandboxState::Running | SandboxState::Paused) {
            let error = StepError::ChildNotStarted {
                id: child.id.clone(),
                reason: record.phase.reason().to_owned(),
            };
            return Err(error.into());
        }
        fail::fail_point!("fork::child-runs");
    }
    Ok(children)
}
