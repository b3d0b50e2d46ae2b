//! Takes an instant of a sandbox: of its VM, which stands still for it, or of its saved state.
//!
//! The guest agent flushes and freezes the file system first. So the disk is clean in the instant,
//! and a guest that is restored from it writes nothing before it is told that it may: it can be
//! given up without a trace, and the instant is whole. A guest that does not answer is taken as it
//! is.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use guest_rpc::http::FreezeRequest;
use stdx::error::chain;
use tokio::time::timeout;
use vmm::{AfterSnapshot, Vm};

use super::Handle;
use super::actor::blocking;
use super::instant::{self, Instant, MEMORY};
use crate::host::Host;

/// For the guest to flush what it has not written yet, and to freeze. It goes on with that in the
/// instant, if need be.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);
/// Milliseconds after which no more of a disk's unused blocks are given back before a freeze.
const TRIM_MS: u64 = 3000;
/// Characters of the guest's word about why it did not.
const MAX_REASON: usize = 1000;
const THAW_TIMEOUT: Duration = Duration::from_secs(5);
/// Milliseconds that a guest runs frozen if no agent comes back to it; longer than a restored one
/// is waited for.
const ALONE_MS: u64 = 300_000;

/// Directories in that of a sandbox.
pub(crate) const PAUSED: &str = "paused";
pub(crate) const PAUSED_NEW: &str = "paused.new";
pub(crate) const ROLLBACK: &str = "rollback";
pub(crate) const CHECKPOINTS: &str = "checkpoints";

/// What an instant is to have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) memory: bool,
    /// A copy of the disk; else it is only made durable where it is.
    pub(crate) disk: bool,
    /// The guest has been told its token.
    pub(crate) token: bool,
}

/// Writes the present instant of a running VM into `dir`. Afterwards the VM runs, unless it is to
/// end and all went well.
///
/// # Errors
/// What failed; nothing is left in `dir` then.
pub(crate) async fn of_vm(
    host: &Arc<Host>,
    handle: &Handle,
    vm: &Arc<dyn Vm>,
    dir: &Path,
    parts: Parts,
    then: AfterSnapshot,
) -> Result<(), String> {
    if let Some(hold) = handle.hold.get() {
        return Err(hold);
    }
    let mut manifest = manifest(host, handle, parts.token)?;
    begin(host, handle, dir).await?;
    // One that nobody has used yet has nothing to flush, and takes no orders.
    manifest.frozen = parts.token && freeze(handle, parts).await;
    // The guest may write as soon as it is restored, before it is known to be well: that must not
    // be to the only disk.
    let parts = Parts {
        disk: parts.disk || !manifest.frozen,
        ..parts
    };
    let mut outcome = take(host, handle, vm, dir, parts, then).await;
    if then == AfterSnapshot::Resume {
        let back = match parts.token {
            true => go_on(handle, vm).await,
            false => vm.resume().await.map_err(|error| chain(&error)),
        };
        outcome = outcome.and(back);
    }
    if outcome.is_ok() {
        outcome = finish(dir, manifest).await;
    }
    if outcome.is_err() {
        // Before it goes on: what is the VM's own may be in there.
        discard(dir).await;
        if then == AfterSnapshot::Terminate {
            go_on(handle, vm).await?;
        }
    }
    outcome
}

/// Whether the guest has frozen its file system.
async fn freeze(handle: &Handle, parts: Parts) -> bool {
    // Nobody waits in the dark for a template of the disk alone, and what its files no longer need
    // is not copied.
    let (trim, limit_ms) = (!parts.memory, Some(TRIM_MS));
    let request = FreezeRequest {
        trim,
        limit_ms,
        thaw_after_ms: Some(ALONE_MS),
        ..FreezeRequest::default()
    };
    let why = match timeout(FREEZE_TIMEOUT, handle.guest().freeze(&request)).await {
        Ok(Ok(answer)) if answer.frozen => return true,
        Ok(Ok(answer)) => answer
            .why
            .unwrap_or_default()
            .chars()
            .take(MAX_REASON)
            .collect(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("it did not answer within {} s", FREEZE_TIMEOUT.as_secs()),
    };
    tracing::warn!(sandbox = %handle.id, why, "the guest did not freeze its file system");
    false
}

/// Writes the saved instant of a paused sandbox into `dir`, with a copy of its disk.
///
/// # Errors
/// What failed; nothing is left in `dir` then.
pub(crate) async fn of_paused(
    host: &Arc<Host>,
    handle: &Handle,
    dir: &Path,
    memory: bool,
) -> Result<(), String> {
    let saved = host.ledger.dir(&handle.id).join(PAUSED);
    let (host, id, to) = (Arc::clone(host), handle.id.clone(), dir.to_owned());
    let copied = blocking(move || {
        let manifest = Instant::read(&saved)?;
        super::base::check(&host.ledger.dir(&id), Some(manifest.disk))
            .map_err(std::io::Error::other)?;
        instant::make_dir(&to)?;
        if memory {
            instant::link_memory(&saved, &to)?;
        }
        instant::link_boot_files(&saved, &to)?;
        let of = if manifest.frozen {
            host.ledger.dir(&id)
        } else {
            saved
        };
        host.disks
            .duplicate(&id, &of, &to)
            .map_err(std::io::Error::other)?;
        manifest.finish(&to)
    })
    .await;
    if copied.is_err() {
        discard(dir).await;
    }
    copied
}

/// Puts the instant of `from` into `dir`, with a disk of its own.
///
/// # Errors
/// What failed; nothing is left in `dir` then.
pub(crate) async fn of_instant(host: &Arc<Host>, from: &Path, dir: &Path) -> Result<(), String> {
    let (host, from, to) = (Arc::clone(host), from.to_owned(), dir.to_owned());
    let copied = blocking(move || {
        let manifest = Instant::read(&from)?;
        instant::make_dir(&to)?;
        instant::link_memory(&from, &to)?;
        instant::link_boot_files(&from, &to)?;
        host.disks.copy(&from, &to).map_err(std::io::Error::other)?;
        manifest.finish(&to)
    })
    .await;
    if copied.is_err() {
        discard(dir).await;
    }
    copied
}

fn manifest(host: &Host, handle: &Handle, token: bool) -> Result<Instant, String> {
    let record = handle.record.borrow();
    let disk = record
        .disk
        .ok_or("the sandbox is of a version that cannot be paused")?;
    let (vcpus, memory_mb) = (record.spec.vcpus, record.spec.memory_mb);
    let token = token.then(|| record.token.clone());
    Ok(Instant::new(
        vcpus,
        memory_mb,
        disk,
        &host.engine_name(),
        token,
    ))
}

async fn begin(host: &Arc<Host>, handle: &Handle, dir: &Path) -> Result<(), String> {
    let (of, dir) = (host.ledger.dir(&handle.id), dir.to_owned());
    let disk = handle.record.borrow().disk;
    blocking(move || {
        super::base::check(&of, disk).map_err(std::io::Error::other)?;
        instant::make_dir(&dir)?;
        instant::link_boot_files(&of, &dir)
    })
    .await
}

/// Stops the VM, and copies.
async fn take(
    host: &Arc<Host>,
    handle: &Handle,
    vm: &Arc<dyn Vm>,
    dir: &Path,
    parts: Parts,
    then: AfterSnapshot,
) -> Result<(), String> {
    vm.pause().await.map_err(|error| chain(&error))?;
    fail::fail_point!("capture::vm-stopped");
    let memory = async {
        if parts.memory {
            let memory = dir.join(MEMORY);
            make_private(memory.clone()).await?;
            vm.snapshot(&memory, then)
                .await
                .map_err(|error| chain(&error))?;
        }
        Ok::<_, String>(())
    };
    let disk = async {
        let (host, id, to) = (Arc::clone(host), handle.id.clone(), dir.to_owned());
        blocking(move || {
            let from = host.ledger.dir(&id);
            if parts.disk {
                host.disks.duplicate(&id, &from, &to)
            } else {
                host.disks.sync(&id, &from)
            }
        })
        .await
    };
    let (memory, disk) = tokio::join!(memory, disk);
    fail::fail_point!("capture::taken");
    memory.and(disk)
}

async fn make_private(dir: PathBuf) -> Result<(), String> {
    blocking(move || stdx::fs::create_private_dir(&dir)).await
}

/// Lets the VM run, tells the guest the time, and lets it write. What fails here is tried again by
/// whoever attends the sandbox.
pub(crate) async fn go_on(handle: &Handle, vm: &Arc<dyn Vm>) -> Result<(), String> {
    // It may be stopped, and has heard nothing.
    handle.frozen.store(true, Ordering::Relaxed);
    vm.resume()
        .await
        .map_err(|error| format!("it cannot be made to run on: {}", chain(&error)))?;
    tokio::join!(super::clock::set(handle), thaw(handle));
    Ok(())
}

/// Lets the guest write.
pub(crate) async fn thaw(handle: &Handle) {
    let thawed = matches!(
        timeout(THAW_TIMEOUT, handle.guest().thaw()).await,
        Ok(Ok(()))
    );
    if !thawed {
        tracing::warn!(sandbox = %handle.id, "the guest does not say that it has thawed its file system");
    }
    handle.frozen.store(!thawed, Ordering::Relaxed);
}

async fn finish(dir: &Path, manifest: Instant) -> Result<(), String> {
    let dir = dir.to_owned();
    blocking(move || manifest.finish(&dir)).await
}

/// Removes an instant that is not finished, or that nobody waits for. What stays goes at the next
/// start.
pub(crate) async fn discard(dir: &Path) {
    let dir = dir.to_owned();
    if let Err(error) = blocking(move || instant::remove(&dir)).await {
        tracing::error!(
            error,
            "cannot remove an instant that nobody needs; it goes at the next start"
        );
    }
}
