//! Removes at the start of the agent what no sandbox has, and returns the records of the rest.
//!
//! | found | means | done |
//! |---|---|---|
//! | disk device without a record | the agent died in the last step of a removal, or a `WRENN_DIR` was deleted | removed |
//! | directory without a record | the agent died before the record, or in the last step of a removal | its processes killed, removed |
//! | claim of ours without a record of it | the agent died between claim and record | control group and network removed |
//! | claim of an agent whose directory is gone | a `WRENN_DIR` was deleted under running sandboxes | its processes killed, the same removed |
//! | record | a sandbox, in whatever phase | its actor decides |

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use linux::file::Lock;
use model::SandboxId;
use stdx::error::chain;

use crate::network::{Holder, Slot};
use crate::operation::{OperationError, OperationKind};
use crate::sandbox::ledger::{self, Ledger, Record};
use crate::sandbox::resources::{DiskResources, SandboxResources, SlotResources};

/// Time that killed processes may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Time to wait for another agent that clears orphans.
const ORPHANS_TIMEOUT: Duration = Duration::from_secs(30);
const ORPHANS_POLL: Duration = Duration::from_millis(50);

/// Removes what no sandbox has. Returns all records.
///
/// # Errors
/// When the ledger or the claims cannot be read. What cannot be removed is logged, and tried at the
/// next start.
pub(super) async fn reclaim_orphans(
    resources: &SandboxResources,
    ledger: &Ledger,
) -> Result<Vec<Record>, OperationError> {
    let ledger = ledger.clone();
    let read = OperationKind::Ledger.run_blocking(move || ledger.read_records());
    let (records, half_made) = read.await?;
    let deleted = read_claims(&resources.slot).await?.into_iter();
    let deleted = deleted.filter_map(|(_, holder)| match holder {
        Holder::Abandoned(dir) => dir,
        Holder::Ours(_) => None,
    });
    let dirs: BTreeSet<PathBuf> = half_made.iter().cloned().chain(deleted).collect();
    // First of all: they hold disk devices and networks.
    for dir in dirs {
        let killed = OperationKind::Vm.run_blocking(move || kill_processes_of(&dir));
        log_failure("processes of a sandbox that has no record", killed.await);
    }
    reclaim_disks(&resources.disk, &records).await;
    for dir in half_made {
        tracing::warn!(dir = %dir.display(), "removing a sandbox that was never finished");
        let removed = OperationKind::Ledger.run_blocking(move || ledger::remove_dir(&dir));
        log_failure("a half-made sandbox", removed.await);
    }
    reclaim_networks(&resources.slot, &records).await?;
    Ok(records)
}

async fn read_claims(slots: &SlotResources) -> Result<Vec<(Slot, Holder)>, OperationError> {
    let networks = Arc::clone(&slots.networks);
    OperationKind::Network
        .run_blocking(move || networks.claimed())
        .await
}

/// Removes networks of slots that no record has. Reads the claims again: while processes ended,
/// another agent may have cleared an orphaned slot, and have it now. The lock keeps others from doing
/// that from now on.
async fn reclaim_networks(slots: &SlotResources, records: &[Record]) -> Result<(), OperationError> {
    let known: BTreeMap<String, Option<Slot>> = records
        .iter()
        .map(|record| (record.id.to_string(), record.slot))
        .collect();
    let lock = lock_orphans(slots).await?;
    for (slot, holder) in read_claims(slots).await? {
        if lock.is_none() && matches!(holder, Holder::Abandoned(_)) {
            continue;
        }
        if matches!(holder, Holder::Ours(sandbox) if known.get(&sandbox) == Some(&Some(slot))) {
            continue;
        }
        let slot_number = slot.number();
        tracing::warn!(slot = slot_number, "clearing a network that no sandbox has");
        let jails = Arc::clone(&slots.jails);
        let removed = OperationKind::Vm.run_blocking(move || jails.remove(slot));
        if let Err(error) = removed.await {
            // The claim stays, and with it the name of what remains.
            log_failure("a control group", Err(error));
            continue;
        }
        let networks = Arc::clone(&slots.networks);
        let cleared = OperationKind::Network.run_blocking(move || networks.clear(slot));
        log_failure("a network", cleared.await);
    }
    Ok(())
}

/// Takes the lock for clearing orphans. Waits up to [`ORPHANS_TIMEOUT`] for another agent that
/// starts now, too; then orphans stay until the next start.
async fn lock_orphans(slots: &SlotResources) -> Result<Option<Lock>, OperationError> {
    let deadline = Instant::now() + ORPHANS_TIMEOUT;
    loop {
        let networks = Arc::clone(&slots.networks);
        let lock = OperationKind::Network.run_blocking(move || networks.try_lock_orphans());
        let lock = lock.await?;
        if lock.is_some() || Instant::now() > deadline {
            return Ok(lock);
        }
        tokio::time::sleep(ORPHANS_POLL).await;
    }
}

async fn reclaim_disks(resources: &DiskResources, records: &[Record]) {
    let known: BTreeSet<SandboxId> = records.iter().map(|record| record.id.clone()).collect();
    let disks = Arc::clone(&resources.disks);
    let reclaim = move || Ok::<_, Infallible>(disks.reclaim_devices(&known));
    let failed = OperationKind::Disk.run_blocking(reclaim).await;
    for error in failed.unwrap_or_default() {
        tracing::error!(error = chain(&error), "cannot clear a disk device");
    }
}

fn log_failure(what: &str, removed: Result<(), OperationError>) {
    if let Err(error) = removed {
        tracing::error!(error = chain(&error), "cannot clear {what}");
    }
}

/// Kills VMMs whose command line names a path below `dir`.
fn kill_processes_of(dir: &Path) -> std::io::Result<()> {
    let needle = format!("{}/", dir.display()).into_bytes();
    let is_vmm = |cmdline: &[u8]| {
        let program = cmdline.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = program
            .rsplit(|byte| *byte == b'/')
            .next()
            .unwrap_or_default();
        (name.starts_with(b"qemu-system") || name.starts_with(b"firecracker"))
            && cmdline.windows(needle.len()).any(|window| window == needle)
    };
    for process in linux::process::find(is_vmm)? {
        process.kill()?;
        process.wait(END_TIMEOUT)?;
    }
    Ok(())
}
