//! Makes the VM of a sandbox, or of one that was paused: network and disk side by side, then the VM,
//! booted or restored. [`super::init_guest`] follows.
//!
//! Nothing is undone here: the caller releases everything when this fails.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;
use runtime::trace::try_step;
use vmm::{Disk, Net, Vm, VmConfig};

use super::base_image;
use super::boot_source::{BootKind, BootSource};
use super::egress;
use super::handle::Handle;
use super::preboot;
use super::resources::{DiskResources, SandboxResources, SlotResources, VmResources};
use super::state::Event;
use super::step_error::StepError;
use crate::boot::BootFiles;
use crate::disk;
use crate::network::{GUEST_MAC, Slot, TAP};
use crate::operation::{OperationError, OperationKind};
use crate::snapshot::format::{self, INITRAMFS, KERNEL, MEMORY, MODULES, Snapshot};
use crate::snapshot::preboot::BootKey;

/// A running VM, and its origin.
type Started = (Arc<dyn Vm>, BootKind);

/// Makes everything up to the running VM.
///
/// # Errors
/// The event that ended the attempt.
pub(super) async fn create_vm(
    resources: &SandboxResources,
    handle: &Handle,
    source: &BootSource,
) -> Result<Started, Event> {
    let key = preboot::boot_key(&resources.vm, handle, source).await;
    // Awaited by each attempt: no guest runs before its network has its rules.
    let network = try_step("network", create_network(&resources.slot, handle)).shared();
    let Some(entry) = preboot::find_entry(&resources.preboot, key.clone()).await else {
        return create_from_source(resources, handle, source, key, network).await;
    };
    match restore_prebooted(resources, handle, &entry, network.clone()).await {
        Err(Event::Failed(error)) if is_of_entry(&error) => {
            preboot::discard_entry(resources, handle, &entry, &error).await;
            create_from_source(resources, handle, source, key, network).await
        }
        created => created,
    }
}

/// Returns true if the entry may be the cause, so that a boot can work.
fn is_of_entry(error: &OperationError) -> bool {
    !matches!(
        error.kind(),
        OperationKind::Network | OperationKind::Space | OperationKind::Spec
    )
}

async fn create_from_source(
    resources: &SandboxResources,
    handle: &Handle,
    source: &BootSource,
    key: Option<BootKey>,
    network: impl Future<Output = Result<(), OperationError>>,
) -> Result<Started, Event> {
    let disk = try_step("disk", create_disk(resources, handle, source));
    let config = prepare_vm(resources, handle, network, disk).await?;
    fail::fail_point!("create::disk-and-network-made");
    match source {
        BootSource::Snapshot { dir, image } => {
            // Forks have the disk of their snapshot, and no image.
            let of_template = image.is_some();
            restore(&resources.vm, handle, &config, dir, of_template).await
        }
        BootSource::Image(_) | BootSource::Restarted => {
            boot(&resources.vm, handle, &config, key).await
        }
    }
}

/// Restores the VM from an entry of the preboot cache.
async fn restore_prebooted(
    resources: &SandboxResources,
    handle: &Handle,
    entry: &Path,
    network: impl Future<Output = Result<(), OperationError>>,
) -> Result<Started, Event> {
    preboot::hold_memory(resources, entry.to_owned()).await;
    let source = BootSource::Snapshot {
        dir: entry.to_owned(),
        image: None,
    };
    create_from_source(resources, handle, &source, None, network).await
}

/// Makes the VM of a paused sandbox run again, from the snapshot in `saved`.
///
/// # Errors
/// The event that ended the attempt.
pub(super) async fn resume_vm(
    resources: &SandboxResources,
    handle: &Handle,
    saved: &Path,
) -> Result<Started, Event> {
    let network = try_step("network", create_network(&resources.slot, handle));
    let disk = try_step("disk", restore_disk(&resources.disk, handle, saved));
    let config = prepare_vm(resources, handle, network, disk).await?;
    fail::fail_point!("resume::disk-and-network-made");
    restore(&resources.vm, handle, &config, saved, false).await
}

/// Creates the network and, at the same time, the disk, and then the directory of the VM. Waits for
/// both also where one of them fails.
async fn prepare_vm(
    resources: &SandboxResources,
    handle: &Handle,
    network: impl Future<Output = Result<(), OperationError>>,
    disk: impl Future<Output = Result<Disk, OperationError>>,
) -> Result<VmConfig, Event> {
    let (network, disk) = tokio::join!(network, disk);
    network.map_err(Event::Failed)?;
    let disk = disk.map_err(Event::Failed)?;
    if handle.removing.is_cancelled() {
        return Err(Event::Remove);
    }
    vm_config(resources, handle, disk)
        .await
        .map_err(Event::Failed)
}

async fn boot(
    vms: &VmResources,
    handle: &Handle,
    config: &VmConfig,
    key: Option<BootKey>,
) -> Result<Started, Event> {
    // A start that is cancelled is ended by the release.
    let booting = handle.unless_removed(try_step("boot", vms.engine.driver.boot(config)));
    let booted = booting.await.ok_or(Event::Remove)?;
    let vm = booted.map_err(|error| Event::Failed(OperationKind::Vm.error(error)))?;
    fail::fail_point!("create::vm-booted");
    Ok((vm.into(), BootKind::Booted { key }))
}

async fn restore(
    vms: &VmResources,
    handle: &Handle,
    config: &VmConfig,
    from: &Path,
    of_template: bool,
) -> Result<Started, Event> {
    let snapshot = read_snapshot(vms, from).await.map_err(Event::Failed)?;
    let memory = from.join(MEMORY);
    // A start that is cancelled is ended by the release.
    let restoring = try_step("restore", async {
        let vm: Arc<dyn Vm> = vms.engine.driver.restore(config, &memory).await?.into();
        fail::fail_point!("restore::vm-loaded");
        vm.resume().await.map(|()| vm)
    });
    let restoring = handle.unless_removed(restoring);
    let restored = restoring.await.ok_or(Event::Remove)?;
    let vm = restored.map_err(|error| Event::Failed(OperationKind::Vm.error(error)))?;
    fail::fail_point!("create::vm-booted");
    let token = snapshot.token;
    Ok((vm, BootKind::Restored { token, of_template }))
}

/// Reads the snapshot in `dir`, and checks that this agent's engine can restore it.
async fn read_snapshot(vms: &VmResources, dir: &Path) -> Result<Snapshot, OperationError> {
    let from = dir.to_owned();
    let read = OperationKind::Snapshot.run_blocking(move || Snapshot::read(&from));
    let snapshot = read.await.map_err(|error| {
        error.context(format!("its saved state in {} is damaged", dir.display()))
    })?;
    let engine = vms.engine_name();
    if snapshot.engine == engine {
        return Ok(snapshot);
    }
    let saved_by = snapshot.engine;
    Err(StepError::OtherEngine { saved_by, engine }.into())
}

async fn create_network(slots: &SlotResources, handle: &Handle) -> Result<(), OperationError> {
    let slot = slot_of(handle)?;
    let creating = slots.clone();
    let is_open = OperationKind::Network
        .run_blocking(move || {
            let user = creating.jails.user(slot);
            creating.networks.create(slot, user)
        })
        .await?;
    egress::start_egress(slots, handle, is_open).await
}

fn slot_of(handle: &Handle) -> Result<Slot, OperationError> {
    let slot = handle.record.borrow().slot;
    Ok(slot.ok_or(StepError::NoSlot)?)
}

async fn create_disk(
    resources: &SandboxResources,
    handle: &Handle,
    source: &BootSource,
) -> Result<Disk, OperationError> {
    let record = handle.record.borrow().clone();
    let size = record.disk.ok_or(StepError::NoDisk)?.size_bytes;
    let disks = Arc::clone(&resources.disk.disks);
    let boot = Arc::clone(&resources.vm.boot);
    let dir = resources.disk.dirs.sandbox_dir(&handle.id);
    let source = source.clone();
    let create = move || {
        link_boot_files(&boot, &source, &dir).map_err(disk::Error::boot_files(&dir))?;
        let created = match source {
            BootSource::Image(image)
            | BootSource::Snapshot {
                image: Some(image), ..
            } => disks.create(&record.id, &image, &dir, size)?,
            BootSource::Snapshot {
                dir: from,
                image: None,
            } => {
                disks.copy_unused(&from, &dir)?;
                disks.restore_disk(&record.id, &dir, size)?
            }
            BootSource::Restarted => disks.restore_disk(&record.id, &dir, size)?,
        };
        // After the link, which keeps this file even if the image is replaced.
        base_image::check_unchanged(&dir, record.disk)?;
        Ok::<_, disk::Error>(created)
    };
    OperationKind::Disk.run_blocking(create).await
}

async fn restore_disk(
    resources: &DiskResources,
    handle: &Handle,
    saved: &Path,
) -> Result<Disk, OperationError> {
    let record = handle.record.borrow().clone();
    let size = record.disk.map_or(0, |disk| disk.size_bytes);
    let disks = Arc::clone(&resources.disks);
    let dir = resources.dirs.sandbox_dir(&handle.id);
    let saved = saved.to_owned();
    let restore = move || {
        base_image::check_unchanged(&dir, record.disk)?;
        // A snapshot with a disk of its own replaces what an earlier attempt wrote.
        disks.replace_with_copy(&saved, &dir)?;
        disks.restore_disk(&record.id, &dir, size)
    };
    OperationKind::Disk.run_blocking(restore).await
}

/// Links kernel and initramfs into the sandbox's directory: it may be resumed when this host has
/// others.
fn link_boot_files(boot: &BootFiles, source: &BootSource, dir: &Path) -> io::Result<()> {
    match source {
        BootSource::Snapshot { dir: from, .. } => format::link_boot_files(from, dir),
        BootSource::Image(_) | BootSource::Restarted => {
            format::link_or_copy(&boot.kernel, &dir.join(KERNEL))?;
            format::link_or_copy(&boot.initramfs, &dir.join(INITRAMFS))?;
            match &boot.modules {
                Some(modules) => format::link_or_copy(modules, &dir.join(MODULES)),
                None => Ok(()),
            }
        }
    }
}

async fn vm_config(
    resources: &SandboxResources,
    handle: &Handle,
    disk: Disk,
) -> Result<VmConfig, OperationError> {
    let size = handle.record.borrow().spec.machine_size();
    let slot = slot_of(handle)?;
    let own = resources.disk.dirs.sandbox_dir(&handle.id);
    let dir: PathBuf = resources.vm.sandbox_dir(&handle.id);
    let created = dir.clone();
    OperationKind::Vm
        .run_blocking(move || stdx::fs::create_private_dir(&created))
        .await?;
    Ok(VmConfig {
        dir,
        name: handle.id.to_string(),
        vcpus: size.vcpus,
        memory_mb: size.memory_mb,
        kernel: own.join(KERNEL),
        initramfs: own.join(INITRAMFS),
        kernel_args: resources.vm.kernel_args(),
        disk,
        modules: Some(own.join(MODULES)).filter(|modules| modules.exists()),
        net: Some(Net {
            netns: slot.netns(),
            tap: TAP.to_owned(),
            mac: GUEST_MAC,
        }),
        jail: Some(resources.slot.jails.jail(slot)),
    })
}
