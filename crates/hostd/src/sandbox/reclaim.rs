//! At start: clears what nobody will ask for again, and returns the records of the rest.
//!
//! | found | means | done |
//! |---|---|---|
//! | disk device without a record | we died in the last step of a removal, or somebody deleted a `WRENN_DIR` | removed |
//! | directory without a record | we died before the record, or in the last step of a removal | its processes killed, removed |
//! | claim of ours without a record of it | we died between claim and record | control group and network removed |
//! | claim of an agent whose directory is gone | somebody deleted a `WRENN_DIR` under running sandboxes | its processes killed, the same removed |
//! | record | a sandbox, in whatever phase | its actor decides |

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use linux::file::Lock;
use model::SandboxId;
use stdx::error::chain;

use super::ledger::{self, Record};
use super::manager::on_host;
use crate::host::Host;
use crate::network::{Holder, Slot};

/// How long killed processes may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(10);
const ORPHANS_TIMEOUT: Duration = Duration::from_secs(30);

/// # Errors
/// When the ledger or the claims cannot be read. What cannot be cleared is logged, and tried at the
/// next start.
pub(crate) async fn reclaim(host: &Arc<Host>) -> Result<Vec<Record>, String> {
    let (records, half_made) = on_host(host, |host| host.ledger.read()).await?;
    let claimed = on_host(host, |host| host.networks.claimed()).await?;
    let deleted = claimed.iter().filter_map(|(_, holder)| match holder {
        Holder::Nobody(dir) => dir.as_ref(),
        Holder::Ours(_) => None,
    });
    // First of all: they hold disk devices and networks.
    for dir in half_made
        .iter()
        .chain(deleted)
        .cloned()
        .collect::<BTreeSet<_>>()
    {
        warn(
            "processes of a sandbox that nobody has",
            on_host(host, move |_| kill_processes_of(&dir)).await,
        );
    }
    reclaim_disks(host, &records).await;
    for dir in half_made {
        tracing::warn!(dir = %dir.display(), "removing a sandbox that was never finished");
        let cleared = on_host(host, move |_| ledger::remove_dir(&dir));
        warn("a half-made sandbox", cleared.await);
    }
    reclaim_networks(host, &records).await?;
    Ok(records)
}

/// Reads the claims again: while processes ended, another agent may have cleared a slot that nobody
/// had, and have it now. The lock keeps others from doing that from now on.
async fn reclaim_networks(host: &Arc<Host>, records: &[Record]) -> Result<(), String> {
    let known: BTreeMap<String, Option<Slot>> = records
        .iter()
        .map(|record| (record.id.to_string(), record.slot))
        .collect();
    let lock = orphans(host).await?;
    for (slot, holder) in on_host(host, |host| host.networks.claimed()).await? {
        if lock.is_none() && matches!(holder, Holder::Nobody(_)) {
            continue;
        }
        if matches!(holder, Holder::Ours(sandbox) if known.get(&sandbox) == Some(&Some(slot))) {
            continue;
        }
        tracing::warn!(
            slot = slot.number(),
            "clearing a network that no sandbox has"
        );
        match on_host(host, move |host| host.jails.remove(slot)).await {
            Ok(()) => warn(
                "a network",
                on_host(host, move |host| host.networks.clear(slot)).await,
            ),
            // The claim stays, and with it the name of what is left.
            stays => warn("a control group", stays),
        }
    }
    Ok(())
}

/// Waits a while for other agents that start now, too; what they leave goes at the next start.
async fn orphans(host: &Arc<Host>) -> Result<Option<Lock>, String> {
    let deadline = Instant::now() + ORPHANS_TIMEOUT;
    loop {
        let lock = on_host(host, |host| host.networks.try_lock_orphans()).await?;
        if lock.is_some() || Instant::now() > deadline {
            return Ok(lock);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn reclaim_disks(host: &Arc<Host>, records: &[Record]) {
    let known: BTreeSet<SandboxId> = records.iter().map(|record| record.id.clone()).collect();
    let work = on_host(host, move |host| {
        Ok::<_, std::convert::Infallible>(host.disks.reclaim(&known))
    });
    for error in work.await.unwrap_or_default() {
        tracing::error!(error = chain(&error), "cannot clear a disk device");
    }
}

fn warn(what: &str, cleared: Result<(), String>) {
    if let Err(error) = cleared {
        tracing::error!(error, "cannot clear {what}");
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
