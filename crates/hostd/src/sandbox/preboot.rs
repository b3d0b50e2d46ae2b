//! Use of the preboot cache ([`crate::snapshot::preboot`]) in a create: finds the entry that
//! replaces a boot, and adds one at the first boot of its kind.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use linux::untrusted_dir;
use stdx::error::chain;
use tokio_util::sync::CancellationToken;
use vmm::{AfterSnapshot, Vm};

use super::boot_source::BootSource;
use super::capture::{self, SnapshotOptions};
use super::handle::Handle;
use super::resources::{SandboxResources, VmResources};
use crate::disk;
use crate::operation::{OperationError, OperationKind};
use crate::snapshot::format::{self, MEMORY};
use crate::snapshot::preboot::{BootKey, BootParameters, PrebootCache};

/// Returns true if the sandbox has to be booted, which needs a start permit.
pub(crate) async fn needs_boot(
    resources: &SandboxResources,
    handle: &Handle,
    source: &BootSource,
) -> bool {
    let key = boot_key(&resources.vm, handle, source).await;
    match source {
        BootSource::Image(_) => find_entry(&resources.preboot, key).await.is_none(),
        BootSource::Snapshot { .. } | BootSource::Restarted => false,
    }
}

/// Returns the directory of the cache's entry, if there is one.
pub(super) async fn find_entry(cache: &Arc<PrebootCache>, key: Option<BootKey>) -> Option<PathBuf> {
    let key = key?;
    let cache = Arc::clone(cache);
    let found = OperationKind::Snapshot
        .run_blocking(move || Ok::<_, Infallible>(cache.find_entry(&key)))
        .await;
    found.ok().flatten()
}

/// Keeps the memory of an entry ready for the next restores from it. A failure is logged: they are
/// only slower.
pub(super) async fn hold_memory(resources: &SandboxResources, dir: PathBuf) {
    let cache = Arc::clone(&resources.preboot);
    let store = resources.vm.engine.driver.snapshot_store();
    let held = OperationKind::Snapshot.run_blocking(move || cache.hold_memory(&dir, store));
    if let Err(error) = held.await {
        tracing::debug!(
            error = chain(&error),
            "each restore reads the memory of this entry again"
        );
    }
}

/// Returns the key under which the cache has guests that booted alike; `None` if the sandbox does
/// not boot from an image, or a file of it does not exist.
pub(super) async fn boot_key(
    vms: &VmResources,
    handle: &Handle,
    source: &BootSource,
) -> Option<BootKey> {
    let BootSource::Image(image) = source.clone() else {
        return None;
    };
    let record = handle.record.borrow().clone();
    let disk = record.disk?;
    let vms = vms.clone();
    let key = OperationKind::Snapshot.run_blocking(move || {
        let parameters = BootParameters {
            image: &image,
            kernel: &vms.boot.kernel,
            initramfs: &vms.boot.initramfs,
            kernel_args: &vms.kernel_args(),
            size: record.spec.machine_size(),
            disk_bytes: disk.size_bytes,
            disk_backend: disk.backend.name(),
            engine: &vms.engine_name(),
        };
        parameters.key()
    });
    key.await.ok()
}

/// Removes an entry that cannot be restored, and the attempt's disk and files, so that the sandbox
/// can be made anew and boot.
pub(super) async fn discard_entry(
    resources: &SandboxResources,
    handle: &Handle,
    dir: &Path,
    error: &OperationError,
) {
    tracing::warn!(
        sandbox = %handle.id,
        error = chain(error),
        "a prebooted guest cannot be restored; booting"
    );
    let undone = undo_restore(resources, handle).await;
    let cache = Arc::clone(&resources.preboot);
    let entry = dir.to_owned();
    let removed = OperationKind::Snapshot
        .run_blocking(move || cache.remove(&entry))
        .await;
    for error in [undone, removed].into_iter().filter_map(Result::err) {
        tracing::error!(
            error = chain(&error),
            "a damaged preboot entry, or what was made from it, cannot be removed"
        );
    }
}

/// Removes the disk and the boot files that the attempt made, so that the boot finds none.
async fn undo_restore(resources: &SandboxResources, handle: &Handle) -> Result<(), OperationError> {
    let disks = Arc::clone(&resources.disk.disks);
    let id = handle.id.clone();
    let dir = resources.disk.dirs.sandbox_dir(&id);
    let vm_dir = resources.vm.sandbox_dir(&id);
    OperationKind::Disk
        .run_blocking(move || {
            disks.remove(&id, &dir)?;
            let removed =
                format::remove_boot_files(&dir).and_then(|()| untrusted_dir::remove_tree(&vm_dir));
            removed.map_err(disk::Error::boot_files(&dir))
        })
        .await
}

/// Adds an entry at the first boot with this key. The guest must not have its identity yet. A
/// failure is logged: the next sandboxes boot.
pub(super) async fn add_entry(
    resources: &SandboxResources,
    handle: &Handle,
    vm: &Arc<dyn Vm>,
    key: &BootKey,
) {
    let starting = Arc::clone(&resources.preboot);
    let wanted = key.clone();
    let begun = OperationKind::Snapshot
        .run_blocking(move || Ok::<_, Infallible>(starting.begin_entry(&wanted)));
    let Some(pending) = begun.await.ok().flatten() else {
        return;
    };
    // Held until the staging directory is published or removed: no other boot may begin it before.
    let pending = Arc::new(pending);
    let publishing = Arc::clone(&pending);
    let staging = pending.staging.clone();
    let added = async {
        save_guest(resources, handle, vm, &staging).await?;
        let cache = Arc::clone(&resources.preboot);
        OperationKind::Snapshot
            .run_blocking(move || cache.publish_entry(&publishing))
            .await
    };
    match added.await {
        Ok(()) => {
            tracing::info!(sandbox = %handle.id, "the next sandboxes like this one start without booting");
        }
        Err(error) => {
            capture::remove_snapshot(&staging).await;
            tracing::warn!(sandbox = %handle.id, error = chain(&error), "the next sandboxes like this one will boot, too");
        }
    }
    drop(pending);
}

/// Writes memory and disk into `staging`, and seals the memory with its checksum.
async fn save_guest(
    resources: &SandboxResources,
    handle: &Handle,
    vm: &Arc<dyn Vm>,
    staging: &Path,
) -> Result<(), OperationError> {
    let options = SnapshotOptions {
        has_identity: false,
        ..SnapshotOptions::WHOLE
    };
    let SandboxResources { disk, vm: vms, .. } = resources;
    let then = AfterSnapshot::Resume;
    capture::snapshot_vm(disk, vms, handle, vm, staging, options, then).await?;
    let store = vms.engine.driver.snapshot_store();
    let memory = staging.join(MEMORY);
    OperationKind::Snapshot
        .run_blocking(move || store.merge(&memory, &CancellationToken::new()))
        .await
}
