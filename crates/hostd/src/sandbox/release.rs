//! Gives back everything of a sandbox but its record, its log and its saved state: VM and its
//! control group first, because they hold the others, then network and disk. The slot, by which the
//! others are named, goes with the network. Idempotent. Goes on past problems and tells them all.

use std::io;
use std::sync::Arc;

use linux::untrusted_dir;
use stdx::error::chain;
use tokio::time::timeout;

use super::Handle;
use super::actor::blocking;
use super::handle::CONSOLE_TIMEOUT;
use crate::host::Host;
use crate::network::Slot;

/// What becomes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    Goes,
    /// Its content stays, its device goes.
    Stays,
}

/// Tries once; the problems that are left.
pub(crate) async fn release(host: &Arc<Host>, handle: &Handle, what: Disk) -> Vec<String> {
    fail::fail_point!("release::begun");
    // While the VM holds them, network and disk must not go.
    if let Err(problem) = end_vm(host, handle).await {
        return vec![problem];
    }
    fail::fail_point!("release::vm-ended");
    let slot = held(host, handle).await;
    let group = {
        let host = Arc::clone(host);
        blocking(move || slot.map_or(Ok(()), |slot| host.jails.remove(slot))).await
    };
    if let Err(problem) = group {
        return vec![format!("the control group stays: {problem}")];
    }
    fail::fail_point!("release::group-removed");
    super::egress::stop(handle).await;
    let (dir, vm_dir) = (host.ledger.dir(&handle.id), host.vm_dir(&handle.id));
    let network = {
        let (host, id) = (Arc::clone(host), handle.id.clone());
        blocking(move || slot.map_or(Ok(()), |slot| host.networks.remove(slot, id.as_str()))).await
    };
    let disk = {
        let (host, id) = (Arc::clone(host), handle.id.clone());
        blocking(move || match what {
            Disk::Goes => host.disks.remove(&id, &dir),
            Disk::Stays => host.disks.suspend(&id, &dir),
        })
        .await
    };
    let files = blocking(move || untrusted_dir::remove_tree(&vm_dir));
    let outcomes = [network, disk, files.await];
    fail::fail_point!("release::all-tried");
    outcomes.into_iter().filter_map(Result::err).collect()
}

/// The slot, unless an earlier attempt gave it back and died before the record said so: then all
/// that is named by it may be another sandbox's by now, even its processes.
async fn held(host: &Arc<Host>, handle: &Handle) -> Option<Slot> {
    let slot = handle.record.borrow().slot?;
    let (host, id) = (Arc::clone(host), handle.id.clone());
    let held = blocking(move || Ok::<_, io::Error>(host.networks.is_held_by(slot, id.as_str())));
    held.await.unwrap_or_default().then_some(slot)
}

/// Also a process that answers no more, or that an earlier run of the agent started and never heard
/// of.
async fn end_vm(host: &Host, handle: &Handle) -> Result<(), String> {
    if let Some(vm) = handle.vm.get() {
        if let Err(error) = vm.kill().await {
            tracing::warn!(sandbox = %handle.id, error = chain(&error), "the VMM cannot be ended in the usual way");
        }
        // It has ended; a driver that waits for it all the same is not waited for.
        if let Ok(output) = timeout(CONSOLE_TIMEOUT, vm.console()).await {
            handle.log.console(&output);
        }
        handle.log.console_ended();
    }
    host.engine
        .driver
        .destroy(&host.vm_dir(&handle.id))
        .await
        .map_err(|error| chain(&error))
}
