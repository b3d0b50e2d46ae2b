//! Comparison of the files of a sandbox at two moments, without its guest.
//!
//! | moment | its disk is read |
//! |---|---|
//! | a checkpoint | as it lies |
//! | a paused sandbox | as it lies; a resume meanwhile fails the comparison |
//! | a running sandbox | from a snapshot of the disk alone, which freezes the file system as a checkpoint does |
//!
//! Such a snapshot has no name any more when the comparison begins: the reader has its files open,
//! and they go with it. If the agent dies before, the next one removes it with unfinished
//! checkpoints.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use disk_diff::compare::Bytes;
use disk_diff::{Image, Task};
use model::{CheckpointName, SandboxId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Manager;
use crate::disk;
use crate::disk_diff::{Comparison, DiffError, DiffPart};
use crate::operation::OperationKind;
use crate::sandbox::base_image;
use crate::sandbox::capture::remove_snapshot;
use crate::sandbox::command::{Command, SnapshotParts};
use crate::sandbox::error::SandboxError;
use crate::sandbox::handle::Handle;
use crate::sandbox::ledger::{PAUSED, Record};
use crate::sandbox::state::Phase;
use crate::snapshot::checkpoint::{self, Checkpoint};
use crate::snapshot::format::Snapshot;

/// Moments and bounds of a comparison.
#[derive(Debug, Clone)]
pub struct DiffQuery {
    /// Checkpoint before; the newest one where absent.
    pub from: Option<CheckpointName>,
    /// Checkpoint after; the present state where absent.
    pub to: Option<CheckpointName>,
    pub path: Vec<u8>,
    pub patches: bool,
    pub max_changes: u64,
    pub max_time: Duration,
    /// Team of the caller.
    pub team: String,
}

/// A comparison that has begun.
#[derive(Debug)]
pub struct Diff {
    pub from: CheckpointName,
    pub to: Option<CheckpointName>,
    /// The guest had not flushed what it had written, before and after.
    pub unflushed: [bool; 2],
    comparison: Comparison,
    still: Option<Still>,
}

/// A disk that is ready to be read.
struct OpenDisk {
    image: Image,
    files: Vec<File>,
    is_flushed: bool,
}

/// A paused sandbox that has to stay so.
#[derive(Debug)]
struct Still {
    record: watch::Receiver<Record>,
    pause: Arc<AtomicU64>,
    since: u64,
}

impl Still {
    /// Returns `None` for a sandbox that is not paused. `pause` is [`Handle::pause`].
    fn new(record: watch::Receiver<Record>, pause: Arc<AtomicU64>) -> Option<Self> {
        let since = pause.load(Ordering::Acquire);
        let still = Self {
            record,
            pause,
            since,
        };
        still.check().is_ok().then_some(still)
    }

    /// Fails if the sandbox was resumed meanwhile. Other changes, as of its settings, do not touch
    /// its disk.
    fn check(&self) -> Result<(), DiffError> {
        let is_paused = matches!(self.record.borrow().phase, Phase::Paused { .. });
        match is_paused && self.pause.load(Ordering::Acquire) == self.since {
            true => Ok(()),
            false => Err(DiffError::Resumed),
        }
    }
}

impl Diff {
    /// Waits for the next part; `None` after the end.
    pub(crate) async fn next(&mut self) -> Option<Result<DiffPart, DiffError>> {
        let part = self.comparison.next().await?;
        let checked = self.still.as_ref().map_or(Ok(()), Still::check);
        Some(checked.and(part))
    }
}

impl Manager {
    /// Begins a comparison of the sandbox's files at two moments. Once `hung_up` is cancelled, it
    /// ends as soon as nothing is left of it.
    ///
    /// # Errors
    /// [`SandboxError::NoCheckpoint`], [`SandboxError::NothingBefore`], [`SandboxError::Diff`]; what
    /// failed.
    pub async fn diff_sandbox(
        &self,
        id: &SandboxId,
        query: DiffQuery,
        hung_up: &CancellationToken,
    ) -> Result<Diff, SandboxError> {
        let turn = self.comparisons.acquire_turn(id, &query.team, hung_up);
        let turn = turn.await?;
        let handle = self.find_sandbox(id).await?;
        let checkpoints = self.list_checkpoints(id).await?;
        let from = match &query.from {
            Some(name) => find_checkpoint(&checkpoints, name)?,
            None => checkpoints.last().ok_or(SandboxError::NothingBefore)?,
        };
        let before = open_checkpoint(from, &checkpoints).await?;
        let (after, still) = match &query.to {
            Some(name) => {
                let to = find_checkpoint(&checkpoints, name)?;
                (open_checkpoint(to, &checkpoints).await?, None)
            }
            None => self.open_present(&handle).await?,
        };
        if hung_up.is_cancelled() {
            return Err(DiffError::HungUp.into());
        }
        let unflushed = [!before.is_flushed, !after.is_flushed];
        let task = Task {
            before: before.image,
            after: after.image,
            path: Bytes(query.path),
            max_changes: query.max_changes,
            max_time: query.max_time,
            patches: query.patches,
        };
        let files = before.files.into_iter().chain(after.files).collect();
        let comparison = self.comparisons.start(turn, task, files, hung_up).await?;
        Ok(Diff {
            from: from.name.clone(),
            to: query.to,
            unflushed,
            comparison,
            still,
        })
    }

    /// Opens the disk of a sandbox as it is now.
    async fn open_present(
        &self,
        handle: &Handle,
    ) -> Result<(OpenDisk, Option<Still>), SandboxError> {
        let own = self.host.state.ledger.sandbox_dir(&handle.id);
        if let Some(still) = Still::new(handle.record.clone(), Arc::clone(&handle.pause)) {
            let open = move || {
                let saved =
                    Snapshot::read(&own.join(PAUSED)).map_err(disk::Error::snapshot(&own))?;
                let dir = if saved.frozen { own } else { own.join(PAUSED) };
                open_disk(&dir, &saved)
            };
            let disk = OperationKind::Disk.run_blocking(open).await?;
            still.check()?;
            return Ok((disk, Some(still)));
        }
        let root = self.checkpoints_dir(&handle.id);
        let prepared = root.clone();
        let prepare = move || checkpoint::create_root(&prepared);
        let prepared = OperationKind::Snapshot.run_blocking(prepare).await;
        if handle.removing.is_cancelled() {
            return Err(SandboxError::Unknown(handle.id.clone()));
        }
        prepared?;
        let staging = checkpoint::unnamed_dir(&root);
        let command = Command::Snapshot {
            dir: staging.clone(),
            parts: SnapshotParts::Disk,
        };
        let disk = match handle.send_command(command).await {
            Ok(()) => open_snapshot(staging.clone()).await,
            Err(error) => Err(error),
        };
        remove_snapshot(&staging).await;
        let disk = disk?.ok_or_else(|| SandboxError::Unknown(handle.id.clone()))?;
        Ok((disk, None))
    }
}

fn find_checkpoint<'a>(
    checkpoints: &'a [Checkpoint],
    name: &CheckpointName,
) -> Result<&'a Checkpoint, SandboxError> {
    let found = checkpoints
        .iter()
        .find(|checkpoint| checkpoint.name == *name);
    found.ok_or_else(|| no_checkpoint(name, checkpoints))
}

fn no_checkpoint(name: &CheckpointName, checkpoints: &[Checkpoint]) -> SandboxError {
    let others = checkpoints
        .iter()
        .filter(|checkpoint| checkpoint.name != *name);
    SandboxError::NoCheckpoint {
        name: name.to_string(),
        known: others
            .map(|checkpoint| checkpoint.name.to_string())
            .collect(),
    }
}

/// Opens the disk of a checkpoint, which may have been removed since it was listed.
async fn open_checkpoint(
    checkpoint: &Checkpoint,
    listed: &[Checkpoint],
) -> Result<OpenDisk, SandboxError> {
    let opened = open_snapshot(checkpoint.dir.clone()).await?;
    opened.ok_or_else(|| no_checkpoint(&checkpoint.name, listed))
}

/// Opens the disk of a snapshot; `None` if that is removed meanwhile.
async fn open_snapshot(dir: PathBuf) -> Result<Option<OpenDisk>, SandboxError> {
    let open = move || {
        let read = || Snapshot::read(&dir);
        let saved = read().map_err(disk::Error::snapshot(&dir));
        let opened = saved.and_then(|saved| open_disk(&dir, &saved));
        let is_removed = || read().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        match opened {
            Err(_) if is_removed() => Ok(None),
            opened => opened.map(Some),
        }
    };
    Ok(OperationKind::Disk.run_blocking(open).await?)
}

fn open_disk(dir: &Path, saved: &Snapshot) -> Result<OpenDisk, disk::Error> {
    base_image::check_unchanged(dir, Some(saved.disk))?;
    let (layout, files) = disk::open_files(dir)?;
    let size = saved.disk.size_bytes;
    Ok(OpenDisk {
        image: Image { layout, size },
        files,
        is_flushed: saved.frozen,
    })
}

#[cfg(test)]
mod tests {
    use model::Generation;

    use super::*;
    use crate::sandbox::ledger::tests::record;

    #[test]
    fn pause_outlasts_changes_of_settings() {
        let why = String::new();
        let paused = Record {
            phase: Phase::Paused { why },
            ..record()
        };
        let sender = watch::Sender::new(paused.clone());
        let pause = Arc::new(AtomicU64::new(5));
        let new = || Still::new(sender.subscribe(), Arc::clone(&pause));
        let still = new().unwrap();
        sender.send_modify(|record| record.generation = Generation(record.generation.0 + 1));
        assert!(still.check().is_ok());
        sender.send_modify(|record| record.phase = Phase::Resuming);
        assert!(matches!(still.check(), Err(DiffError::Resumed)) && new().is_none());
        // Paused again, which only the number tells.
        pause.fetch_add(2, Ordering::AcqRel);
        sender.send_replace(paused);
        assert!(still.check().is_err() && new().unwrap().check().is_ok());
    }
}
