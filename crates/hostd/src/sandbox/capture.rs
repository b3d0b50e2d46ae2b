//! Takes a snapshot of a sandbox: of its VM, which is stopped for it, or of its saved state.
//!
//! The guest agent flushes and freezes the file system first. So the disk is clean in the snapshot,
//! and a guest that is restored from it writes nothing before it is thawed: it can be discarded
//! without a trace, and the snapshot is whole. A guest that does not answer is saved as it is.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use guest_rpc::http::FreezeRequest;
use runtime::trace::in_current_context;
use stdx::error::chain;
use tokio::time::timeout;
use vmm::{AfterSnapshot, Vm};

use super::base_image;
use super::clock;
use super::command::SnapshotParts;
use super::context::Context;
use super::handle::Handle;
use super::ledger::PAUSED;
use super::resources::{DiskResources, SandboxResources, VmResources};
use super::step_error::StepError;
use crate::operation::{OperationError, OperationKind};
use crate::snapshot::format::{self, MEMORY, Snapshot};

/// Time for the guest to flush and freeze its file system. If it is longer, the guest goes on with
/// that in the snapshot.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);
/// Milliseconds after which no more of a disk's unused blocks are trimmed before a freeze.
const TRIM_MS: u64 = 3000;
/// Most characters of the guest's reason for not freezing.
const MAX_REASON: usize = 1000;
const THAW_TIMEOUT: Duration = Duration::from_secs(5);
/// Milliseconds after which a guest thaws by itself if no agent comes back to it; longer than
/// `init_guest` waits for a restored one.
const THAW_AFTER_MS: u64 = 300_000;

/// Parts that a snapshot has.
#[derive(Debug, Clone, Copy)]
pub(super) struct SnapshotOptions {
    pub(super) memory: bool,
    /// Unused blocks are trimmed before, so that they are not copied.
    pub(super) trim: bool,
    /// A copy of the disk; without it the disk is only made durable where it is.
    pub(super) disk: bool,
    /// The guest has its identity, and so its token.
    pub(super) has_identity: bool,
}

impl SnapshotOptions {
    /// Memory and disk of a guest with an identity.
    pub(super) const WHOLE: Self = Self {
        memory: true,
        trim: false,
        disk: true,
        has_identity: true,
    };
}

impl From<SnapshotParts> for SnapshotOptions {
    fn from(parts: SnapshotParts) -> Self {
        Self {
            memory: parts == SnapshotParts::MemoryAndDisk,
            trim: parts == SnapshotParts::TrimmedDisk,
            ..Self::WHOLE
        }
    }
}

/// Takes a snapshot of the VM, or without one of the saved state, into `dir`.
///
/// In a task of its own: when the sandbox is to be removed, its actor waits no longer; the task
/// fails soon after, because the VM goes, and removes what it has made.
pub(super) async fn spawn_snapshot(
    context: &Context,
    vm: Option<&Arc<dyn Vm>>,
    dir: PathBuf,
    options: SnapshotOptions,
) -> Result<(), OperationError> {
    let context = context.clone();
    let vm = vm.cloned();
    let task = tokio::spawn(in_current_context(async move {
        let Context {
            resources, handle, ..
        } = &context;
        let SandboxResources { disk, vm: vms, .. } = resources;
        let then = AfterSnapshot::Resume;
        let taken = match vm {
            Some(vm) => snapshot_vm(disk, vms, handle, &vm, &dir, options, then).await,
            None => snapshot_paused(disk, handle, &dir, options.memory).await,
        };
        if taken.is_ok() && handle.removing.is_cancelled() {
            remove_snapshot(&dir).await;
        }
        taken
    }));
    let panic = |error| {
        Err(OperationKind::Snapshot.error(io::Error::other::<tokio::task::JoinError>(error)))
    };
    task.await.unwrap_or_else(panic)
}

/// Takes a snapshot of a running VM into `dir`. Afterwards the VM runs, unless it is to end and all
/// went well.
///
/// # Errors
/// The step that failed; `dir` is removed then.
pub(super) async fn snapshot_vm(
    disks: &DiskResources,
    vms: &VmResources,
    handle: &Handle,
    vm: &Arc<dyn Vm>,
    dir: &Path,
    options: SnapshotOptions,
    then: AfterSnapshot,
) -> Result<(), OperationError> {
    if let Some(reason) = handle.stalled.reason() {
        return Err(StepError::Stalled(reason).into());
    }
    let mut manifest = new_manifest(vms, handle, options.has_identity)?;
    prepare_dir(disks, handle, dir).await?;
    // A guest without identity has nothing to flush, and takes no commands.
    manifest.frozen = options.has_identity && freeze(handle, options).await;
    let options = SnapshotOptions {
        // A guest that is not frozen may write as soon as it is restored, before it is known to be
        // well: that must not be to the only disk.
        disk: options.disk || !manifest.frozen,
        ..options
    };
    let mut outcome = stop_and_copy(disks, handle, vm, dir, options, then).await;
    if then == AfterSnapshot::Resume {
        let resumed = if options.has_identity {
            resume_and_thaw(handle, vm).await
        } else {
            let resumed = vm.resume().await;
            resumed.map_err(|error| OperationKind::Vm.error(error))
        };
        outcome = outcome.and(resumed);
    }
    if outcome.is_ok() {
        outcome = finish(dir, manifest).await;
    }
    if outcome.is_err() {
        // Before the VM runs again: the driver may have put files of the VM in there.
        remove_snapshot(dir).await;
        if then == AfterSnapshot::Terminate {
            resume_and_thaw(handle, vm).await?;
        }
    }
    outcome
}

/// Copies the saved state of a paused sandbox into `dir`, with its disk.
///
/// # Errors
/// The step that failed; `dir` is removed then.
async fn snapshot_paused(
    disks: &DiskResources,
    handle: &Handle,
    dir: &Path,
    memory: bool,
) -> Result<(), OperationError> {
    let disks = disks.clone();
    let id = handle.id.clone();
    let to = dir.to_owned();
    let copy = move || {
        let own = disks.dirs.sandbox_dir(&id);
        let saved = own.join(PAUSED);
        let manifest = Snapshot::read(&saved)?;
        base_image::check_unchanged(&own, Some(manifest.disk)).map_err(io::Error::other)?;
        format::create_dir(&to)?;
        if memory {
            format::link_memory(&saved, &to)?;
        }
        format::link_boot_files(&saved, &to)?;
        let disk = if manifest.frozen { own } else { saved };
        let copied = disks.disks.duplicate_disk(&id, &disk, &to);
        copied.map_err(io::Error::other)?;
        manifest.write_manifest(&to)
    };
    let copied = OperationKind::Snapshot.run_blocking(copy).await;
    if copied.is_err() {
        remove_snapshot(dir).await;
    }
    copied
}

/// Copies a snapshot into `dir`, with a disk of its own.
///
/// # Errors
/// The step that failed; `dir` is removed then.
pub(super) async fn copy_snapshot(
    disks: &DiskResources,
    from: &Path,
    dir: &Path,
) -> Result<(), OperationError> {
    let disks = disks.clone();
    let from = from.to_owned();
    let to = dir.to_owned();
    let copy = move || {
        let manifest = Snapshot::read(&from)?;
        format::create_dir(&to)?;
        format::link_memory(&from, &to)?;
        format::link_boot_files(&from, &to)?;
        disks
            .disks
            .copy_unused(&from, &to)
            .map_err(io::Error::other)?;
        manifest.write_manifest(&to)
    };
    let copied = OperationKind::Snapshot.run_blocking(copy).await;
    if copied.is_err() {
        remove_snapshot(dir).await;
    }
    copied
}

/// Resumes the VM, sets the guest's clock, and lets it write. What fails here is tried again by the
/// phase `running`.
pub(super) async fn resume_and_thaw(
    handle: &Handle,
    vm: &Arc<dyn Vm>,
) -> Result<(), OperationError> {
    // True until `thaw` succeeds: this may be cancelled, and the guest not answer.
    handle.frozen.store(true, Ordering::Relaxed);
    vm.resume().await.map_err(|error| {
        let error = OperationKind::Vm.error(error);
        error.context("it cannot be made to run on")
    })?;
    tokio::join!(clock::set_now(handle), thaw(handle));
    Ok(())
}

/// Removes a snapshot that is not finished, or not needed any more. What stays goes at the next
/// start.
pub(super) async fn remove_snapshot(dir: &Path) {
    let dir = dir.to_owned();
    let removed = OperationKind::Snapshot.run_blocking(move || format::remove(&dir));
    if let Err(error) = removed.await {
        tracing::error!(
            error = chain(&error),
            "a snapshot that is not needed stays until the next start"
        );
    }
}

fn new_manifest(
    vms: &VmResources,
    handle: &Handle,
    has_identity: bool,
) -> Result<Snapshot, OperationError> {
    let record = handle.record.borrow();
    let disk = record.disk.ok_or(StepError::NeverPaused)?;
    let token = has_identity.then(|| record.token.clone());
    let size = record.spec.machine_size();
    let mut manifest = Snapshot::new(size, disk, &vms.engine_name(), token);
    manifest.image_config.clone_from(&record.image_config);
    Ok(manifest)
}

async fn prepare_dir(
    disks: &DiskResources,
    handle: &Handle,
    dir: &Path,
) -> Result<(), OperationError> {
    let own = disks.dirs.sandbox_dir(&handle.id);
    let dir = dir.to_owned();
    let disk = handle.record.borrow().disk;
    OperationKind::Snapshot
        .run_blocking(move || {
            base_image::check_unchanged(&own, disk).map_err(io::Error::other)?;
            format::create_dir(&dir)?;
            format::link_boot_files(&own, &dir)
        })
        .await
}

/// Returns true if the guest has frozen its file system.
async fn freeze(handle: &Handle, options: SnapshotOptions) -> bool {
    let request = FreezeRequest {
        trim: options.trim,
        limit_ms: Some(TRIM_MS),
        thaw_after_ms: Some(THAW_AFTER_MS),
        ..FreezeRequest::default()
    };
    let reason = match timeout(FREEZE_TIMEOUT, handle.guest().freeze_filesystem(&request)).await {
        Ok(Ok(answer)) if answer.frozen => return true,
        Ok(Ok(answer)) => {
            let reason = answer.why.unwrap_or_default();
            reason.chars().take(MAX_REASON).collect()
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("it did not answer within {} s", FREEZE_TIMEOUT.as_secs()),
    };
    tracing::warn!(sandbox = %handle.id, reason, "the guest did not freeze its file system");
    false
}

/// Stops the VM, and copies memory and disk side by side.
async fn stop_and_copy(
    disks: &DiskResources,
    handle: &Handle,
    vm: &Arc<dyn Vm>,
    dir: &Path,
    options: SnapshotOptions,
    then: AfterSnapshot,
) -> Result<(), OperationError> {
    let paused = vm.pause().await;
    paused.map_err(|error| OperationKind::Vm.error(error))?;
    fail::fail_point!("capture::vm-stopped");
    let memory = async {
        if options.memory {
            save_memory(vm, dir.join(MEMORY), then).await
        } else {
            Ok(())
        }
    };
    let disk = save_disk(disks, handle, dir, options.disk);
    let (memory, disk) = tokio::join!(memory, disk);
    fail::fail_point!("capture::taken");
    memory.and(disk)
}

async fn save_memory(
    vm: &Arc<dyn Vm>,
    memory: PathBuf,
    then: AfterSnapshot,
) -> Result<(), OperationError> {
    let dir = memory.clone();
    OperationKind::Snapshot
        .run_blocking(move || stdx::fs::create_private_dir(&dir))
        .await?;
    let saved = vm.snapshot(&memory, then).await;
    saved.map_err(|error| OperationKind::Vm.error(error))
}

/// Copies the disk into `dir`, or only makes it durable.
async fn save_disk(
    disks: &DiskResources,
    handle: &Handle,
    dir: &Path,
    is_copied: bool,
) -> Result<(), OperationError> {
    let disks = disks.clone();
    let id = handle.id.clone();
    let to = dir.to_owned();
    OperationKind::Disk
        .run_blocking(move || {
            let own = disks.dirs.sandbox_dir(&id);
            if is_copied {
                disks.disks.duplicate_disk(&id, &own, &to)
            } else {
                disks.disks.sync_disk(&id, &own)
            }
        })
        .await
}

/// Thaws the guest's file system; a failure is logged, and [`Handle::frozen`] stays true.
async fn thaw(handle: &Handle) {
    let thawed = timeout(THAW_TIMEOUT, handle.guest().thaw_filesystem()).await;
    let is_thawed = matches!(thawed, Ok(Ok(())));
    if !is_thawed {
        tracing::warn!(sandbox = %handle.id, "the guest does not say that it has thawed its file system");
    }
    handle.frozen.store(!is_thawed, Ordering::Relaxed);
}

async fn finish(dir: &Path, manifest: Snapshot) -> Result<(), OperationError> {
    let dir = dir.to_owned();
    OperationKind::Snapshot
        .run_blocking(move || manifest.write_manifest(&dir))
        .await
}
