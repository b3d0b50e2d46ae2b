//! Snapshots: a directory with the memory, the device state, and a manifest that says what they fit.
//!
//! | file | content |
//! |---|---|
//! | `memory` | the guest's memory (holes for what it never touched), unless `ram` is `stream` |
//! | `state` | QEMU's migration stream: devices, and memory too where it is in no file |
//! | `snapshot.json` | the [`Manifest`], written last |
//!
//! A failure removes what it wrote. If this process dies, the directory has no manifest, and no one restores it.
//! QEMU writes the stream to a Unix socket of ours: it may not start programs, and has no other way to a file in
//! the versions of today's distributions.
//!
//! ```text
//!            stream sent                 ┌─ again: the kept stream is used
//!  paused ───────────────→ postmigrate ──┘
//!     ↑ stream failed │         │ resume: the kept stream goes
//!     └───────────────┘         └──→ running
//! ```
//! QEMU sends its state once and then not again before the guest has run on (`postmigrate`). So the stream first goes
//! to the directory of the VM, from where every snapshot of the same moment gets it. It has its name only when
//! it is whole: if this process dies in between, a further snapshot is refused until the guest has been resumed.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown, lchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use qapi::qmp::{
    MigrationCapability, MigrationCapabilityStatus, RunState, migrate, migrate_cancel, migrate_set_capabilities,
};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use crate::files::{self, blocking, in_file, must_be_empty, place, short};
use crate::jail::RUN;
use crate::{Error, Result, Then};

use super::args::MEMORY_FILE;
use super::qmp::{PROMPT, QueryMigrate, SetMigrateBandwidth};
use super::vm::Shared;
use super::{Accel, Ram};

pub(super) const STATE: &str = "state";
pub(super) const MANIFEST: &str = "snapshot.json";

/// Version of this layout.
pub(super) const VERSION: u32 = 1;

/// In the directory of the VM: the stream of the moment at which it was paused, and its name before it is whole.
pub(super) const KEPT: &str = "state";
const UNFINISHED: &str = "state.unfinished";

/// Socket in QEMU's working directory, for the time of the transfer.
const OUTGOING: &str = "outgoing.sock";

/// Time for the stream: under a second for device state, longer for memory.
const TRANSFER: Duration = Duration::from_secs(300);

/// How often QEMU is asked whether it is done.
pub(super) const POLL: Duration = Duration::from_millis(2);

/// Where the memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Memory {
    File,
    Stream,
}

/// What a snapshot fits, and how long its files are, so that a short one is noticed before a guest runs on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) version: u32,
    pub(super) ram: Memory,
    pub(super) accel: Accel,
    pub(super) vcpus: u32,
    pub(super) memory_mb: u32,
    pub(super) state_bytes: u64,
}

/// Writes a snapshot into `dir`, which has to be empty: what a failure removes is then ours.
pub(super) async fn write(vm: Arc<Shared>, dir: PathBuf, then: Then) -> Result<()> {
    let _one_at_a_time = vm.snapshot.lock().await;
    must_be_empty(&dir)?;
    let written = write_files(&vm, &dir, then).await;
    if written.is_err() {
        for name in [MANIFEST, STATE, MEMORY_FILE] {
            let _ = fs::remove_file(dir.join(name));
        }
    }
    written
}

async fn write_files(vm: &Shared, dir: &Path, then: Then) -> Result<()> {
    let ram = match vm.record.ram {
        Ram::File => Memory::File,
        Ram::Private => Memory::Stream,
    };
    let kept = ensure_state(vm, ram).await?;
    let state = dir.join(STATE);
    blocking("write", &state.clone(), move || place(&kept, &state)).await?;
    if ram == Memory::File {
        let (from, to) = (vm.dir.join(MEMORY_FILE), dir.join(MEMORY_FILE));
        blocking("write", &to.clone(), move || write_memory(&from, &to, then)).await?;
    }
    let state_bytes = fs::metadata(dir.join(STATE)).map_err(in_file("measure", dir))?.len();
    let (accel, vcpus, memory_mb) = (vm.record.accel, vm.record.vcpus, vm.record.memory_mb);
    let manifest = Manifest { version: VERSION, ram, accel, vcpus, memory_mb, state_bytes };
    let path = dir.join(MANIFEST);
    let content = serde_json::to_vec(&manifest).map_err(io::Error::other);
    blocking("write", &path.clone(), move || linux::file::write_atomic(&path, &content?, 0o600)).await
}

/// The memory of a guest that will not run again is the snapshot's from now on, without a copy. QEMU has it open until
/// it ends, but can get at it no other way: it belongs to us.
fn write_memory(from: &Path, to: &Path, then: Then) -> io::Result<()> {
    if then == Then::GoOn {
        return linux::sparse::copy(from, to);
    }
    place(from, to)?;
    let owner = fs::metadata(to.parent().unwrap_or(Path::new("/")))?;
    chown(to, Some(owner.uid()), Some(owner.gid()))
}

/// Removes the stream of a moment that is over.
pub(super) fn forget_state(dir: &Path) -> Result<()> {
    files::remove(&dir.join(KEPT))
}

/// The file with the stream of this moment.
async fn ensure_state(vm: &Shared, ram: Memory) -> Result<PathBuf> {
    let refused = |reason: &str| Error::Refused { command: "snapshot".into(), reason: reason.into() };
    let mut state = vm.state().await?;
    if state == RunState::finish_migrate {
        // Whoever had this VM before us was at it and is gone.
        settle(vm).await?;
        state = vm.state().await?;
    }
    let kept = vm.dir.join(KEPT);
    match state {
        RunState::shutdown => Err(Error::Ended),
        RunState::paused => save_state(vm, ram, &kept).await.map(|()| kept),
        RunState::postmigrate if kept.exists() => Ok(kept),
        RunState::postmigrate => Err(refused("an earlier one was cut off; resume the VM and pause it again")),
        RunState::running => Err(refused("the VM runs; pause it first")),
        other => Err(refused(&format!("QEMU is in state {other:?}"))),
    }
}

/// Memory that lies in a file that others can see is not part of the stream. On a restore the file is mapped
/// privately, so every restored VM has its own copy, page by page.
pub(super) fn leave_out_memory(state: bool) -> migrate_set_capabilities {
    let capability = MigrationCapability::x_ignore_shared;
    migrate_set_capabilities { capabilities: vec![MigrationCapabilityStatus { capability, state }] }
}

/// Lets QEMU write the stream to `kept`.
async fn save_state(vm: &Shared, ram: Memory, kept: &Path) -> Result<()> {
    forget_state(&vm.dir)?;
    vm.execute(leave_out_memory(ram == Memory::File), PROMPT).await?;
    vm.execute(SetMigrateBandwidth::unlimited(), PROMPT).await?;
    let unfinished = vm.dir.join(UNFINISHED);
    let saved = in_time("migrate", transfer(vm, &unfinished)).await;
    let _ = fs::remove_file(vm.dir.join(RUN).join(OUTGOING));
    match saved {
        Ok(()) => fs::rename(&unfinished, kept).map_err(in_file("rename", &unfinished)),
        Err(error) => {
            let _ = fs::remove_file(&unfinished);
            // Until QEMU has given up, the guest could not be resumed.
            if let Err(second) = settle(vm).await {
                tracing::warn!(error = %second, dir = %vm.dir.display(), "a failed snapshot does not come to its end");
            }
            Err(error)
        }
    }
}

async fn transfer(vm: &Shared, path: &Path) -> Result<()> {
    let listen = || {
        let run = vm.dir.join(RUN);
        let _ = fs::remove_file(run.join(OUTGOING));
        let short = short(&run)?;
        let listener = UnixListener::bind(short.path(OUTGOING))?;
        // QEMU is another user, and could have put a link there by now: what it links to stays as it is.
        let user = fs::metadata(&run)?.uid();
        lchown(short.path(OUTGOING), Some(user), None)?;
        Ok(listener)
    };
    let listener = listen().map_err(in_file("listen on a socket for", path))?;
    let uri = Some(format!("unix:{OUTGOING}"));
    vm.execute(migrate { uri, channels: None, detach: None, resume: None }, PROMPT).await?;
    let receive = async {
        let (mut socket, _) = listener.accept().await?;
        let file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        tokio::io::copy(&mut socket, &mut tokio::fs::File::from_std(file)).await
    };
    tokio::select! {
        length = receive => drop(length.map_err(in_file("write", path))?),
        error = failure(vm) => return Err(error),
    }
    while migration(vm).await? != "completed" {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Returns only when the transfer has failed.
async fn failure(vm: &Shared) -> Error {
    loop {
        match migration(vm).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => return error,
        }
    }
}

/// The state of the transfer, unless it failed.
async fn migration(vm: &Shared) -> Result<String> {
    let answer = vm.execute(QueryMigrate {}, PROMPT).await?;
    match answer.status.unwrap_or_default() {
        status if status == "failed" || status == "cancelled" => {
            Err(Error::Refused { command: "migrate".into(), reason: answer.error.unwrap_or(status) })
        }
        status => Ok(status),
    }
}

/// Gives up a transfer and waits until QEMU is done with it.
async fn settle(vm: &Shared) -> Result<()> {
    vm.execute(migrate_cancel {}, PROMPT).await?;
    let over = async {
        loop {
            let status = vm.execute(QueryMigrate {}, PROMPT).await?.status.unwrap_or_default();
            let over = ["", "none", "failed", "cancelled", "completed"].contains(&status.as_str());
            if over && vm.state().await? != RunState::finish_migrate {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    };
    in_time("migrate_cancel", over).await
}

pub(super) async fn in_time<T>(command: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let elapsed = Error::Timeout { command: command.into(), seconds: TRANSFER.as_secs() };
    tokio::time::timeout(TRANSFER, work).await.unwrap_or(Err(elapsed))
}
