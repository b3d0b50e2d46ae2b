//! Releases everything of a sandbox but its record, its log and its saved state: VM and its control
//! group first, because they hold the others, then network and disk. The slot, by which the others
//! are named, goes with the network. Idempotent. Goes on past problems and returns them all.

use std::convert::Infallible;
use std::sync::Arc;

use linux::untrusted_dir;
use stdx::error::chain;

use super::egress;
use super::handle::Handle;
use super::resources::{DiskResources, SandboxResources, SlotResources, VmResources};
use crate::network::Slot;
use crate::operation::{OperationError, OperationKind};

/// Treatment of the disk's content; its device is removed in both cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskContent {
    Remove,
    Keep,
}

/// Tries once to release everything. Returns the errors.
pub(super) async fn release_resources(
    resources: &SandboxResources,
    handle: &Handle,
    content: DiskContent,
) -> Vec<OperationError> {
    fail::fail_point!("release::begun");
    // While the VM holds them, network and disk must not go.
    if let Err(error) = end_vm(&resources.vm, handle).await {
        return vec![error];
    }
    fail::fail_point!("release::vm-ended");
    let slot = held_slot(&resources.slot, handle).await;
    if let Err(error) = remove_group(&resources.slot, slot).await {
        return vec![error.context("the control group stays")];
    }
    fail::fail_point!("release::group-removed");
    egress::stop_egress(handle).await;
    let network = remove_network(&resources.slot, handle, slot).await;
    let disk = release_disk(&resources.disk, handle, content).await;
    let vm_dir = resources.vm.sandbox_dir(&handle.id);
    let files = OperationKind::Vm.run_blocking(move || untrusted_dir::remove_tree(&vm_dir));
    let outcomes = [network, disk, files.await];
    fail::fail_point!("release::all-tried");
    outcomes.into_iter().filter_map(Result::err).collect()
}

/// Ends the VM, also one that answers no more, or that an earlier run of the agent started and did
/// not record.
async fn end_vm(vms: &VmResources, handle: &Handle) -> Result<(), OperationError> {
    if let Some(vm) = handle.vm.get() {
        // Output since the last read is in the VMM, and ends with it.
        let _ = handle.unless_removed(handle.read_console()).await;
        if let Err(error) = vm.kill().await {
            tracing::warn!(sandbox = %handle.id, error = chain(&error), "the VMM cannot be ended in the usual way");
        }
        handle.read_console().await;
        handle.log.console_ended();
    }
    let destroyed = vms
        .engine
        .driver
        .destroy(&vms.sandbox_dir(&handle.id))
        .await;
    destroyed.map_err(|error| OperationKind::Vm.error(error))
}

/// Returns the slot, unless an earlier attempt released it and the agent died before the record was
/// written: then all that is named by it may be another sandbox's, even its processes.
async fn held_slot(slots: &SlotResources, handle: &Handle) -> Option<Slot> {
    let slot = handle.record.borrow().slot?;
    let networks = Arc::clone(&slots.networks);
    let id = handle.id.clone();
    let held = OperationKind::Network
        .run_blocking(move || Ok::<_, Infallible>(networks.is_held_by(slot, id.as_str())));
    held.await.unwrap_or_default().then_some(slot)
}

async fn remove_group(slots: &SlotResources, slot: Option<Slot>) -> Result<(), OperationError> {
    let jails = Arc::clone(&slots.jails);
    OperationKind::Vm
        .run_blocking(move || slot.map_or(Ok(()), |slot| jails.remove(slot)))
        .await
}

async fn remove_network(
    slots: &SlotResources,
    handle: &Handle,
    slot: Option<Slot>,
) -> Result<(), OperationError> {
    let networks = Arc::clone(&slots.networks);
    let id = handle.id.clone();
    OperationKind::Network
        .run_blocking(move || slot.map_or(Ok(()), |slot| networks.remove(slot, id.as_str())))
        .await
}

async fn release_disk(
    resources: &DiskResources,
    handle: &Handle,
    content: DiskContent,
) -> Result<(), OperationError> {
    let disks = Arc::clone(&resources.disks);
    let id = handle.id.clone();
    let dir = resources.dirs.sandbox_dir(&id);
    OperationKind::Disk
        .run_blocking(move || match content {
            DiskContent::Remove => disks.remove(&id, &dir),
            DiskContent::Keep => disks.release_devices(&id, &dir),
        })
        .await
}
