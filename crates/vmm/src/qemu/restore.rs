//! Restores a VM from the directory that [`snapshot`](super::snapshot) wrote.

use std::io;
use std::path::{Path, PathBuf};

use linux::pages::PrivateMapping;
use qapi::qmp::{RunState, query_status};
use tokio::net::UnixStream;

use crate::diff::Seal;
use crate::files::in_file;
use crate::memory_files::memory_error;
use crate::{Error, Result, SnapshotError, VmConfig, in_flight};

use super::args::INCOMING_SOCKET;
use super::last_memory::LastMemory;
use super::manifest::{self, Manifest, STATE};
use super::qmp::PROMPT;
use super::ram::{self, RestoreMemory};
use super::start::{Started, start_qemu};
use super::state::{POLL, in_time};
use super::vm::QemuVm;
use super::{Host, Record, exit_reason};

/// Restores the VM, which is paused when this returns. After an error no process is left.
pub(super) async fn restore(host: Host, config: VmConfig, snapshot: PathBuf) -> Result<QemuVm> {
    in_flight::check_can_start::<Record>(&config).await?;
    let (manifest, memory) = prepare(host.clone(), config.clone(), snapshot.clone()).await?;
    let seals: Vec<Seal> = memory.diffs.iter().map(|(_, seal)| *seal).collect();
    let checked = {
        let diffs = memory.diffs.clone();
        tokio::task::spawn_blocking(move || ram::check_diffs(&diffs))
    };
    let started = start_qemu(&host, &config, memory.ram, &memory.path, true).await?;
    drop(memory.device);
    let loaded = async {
        let bad = |source| Error::BadSnapshot {
            dir: snapshot.clone(),
            source,
        };
        manifest::check_release(&manifest, started.qmp.version()).map_err(bad)?;
        let applied = async {
            checked.await.map_err(io::Error::other).flatten()?;
            apply_diffs(&started, memory.diffs).await
        };
        applied.await.map_err(memory_error(&snapshot))?;
        // Last: devices look for their queues in the memory.
        in_time("the transfer of the state", load_state(&started, &snapshot)).await
    };
    let loaded = loaded.await;
    let _ = started.run.remove(INCOMING_SOCKET);
    match loaded {
        Ok(()) => {
            let last = LastMemory::of_restored(&snapshot, &seals).ok();
            Ok(QemuVm::restored(started, last))
        }
        Err(error) => Err(started.end_after(error).await),
    }
}

/// Checks everything that can be checked before QEMU runs, and prepares the memory.
async fn prepare(
    host: Host,
    config: VmConfig,
    snapshot: PathBuf,
) -> Result<(Manifest, RestoreMemory)> {
    let work = move || {
        let manifest = manifest::check(&host, &config, &snapshot)?;
        let memory = ram::prepare_memory(&snapshot, &manifest.memory, &config)
            .map_err(memory_error(&snapshot))?;
        Ok((manifest, memory))
    };
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|failed| {
            Err(Error::Refused {
                command: "the start of a VM".into(),
                reason: failed.to_string(),
            })
        })
}

/// Writes the diffs into QEMU's mapping, before QEMU reads it.
async fn apply_diffs(started: &Started, diffs: Vec<(PathBuf, Seal)>) -> io::Result<()> {
    if diffs.is_empty() {
        return Ok(());
    }
    let bytes = u64::from(started.record.memory_mb) << 20;
    let memory = PrivateMapping::open(&started.process, &started.record.memory, bytes)?;
    tokio::task::spawn_blocking(move || ram::apply_diffs(&memory, bytes, &diffs))
        .await
        .map_err(io::Error::other)
        .flatten()
}

/// Sends the state to QEMU and waits until it has loaded it.
async fn load_state(started: &Started, snapshot: &Path) -> Result<()> {
    let bad = |reason: String| Error::BadSnapshot {
        dir: snapshot.into(),
        source: SnapshotError::Refused(reason),
    };
    let path = snapshot.join(STATE);
    let send = async {
        let mut socket = UnixStream::connect(started.run.socket(INCOMING_SOCKET)?.path()).await?;
        let mut state = tokio::fs::File::open(&path).await?;
        tokio::io::copy(&mut state, &mut socket).await
    };
    match send.await {
        // QEMU has stopped reading: its status below tells why.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) => {}
        sent => drop(sent.map_err(in_file("send to QEMU", &path))?),
    }
    loop {
        // QEMU ends when it cannot use it, and writes the reason to its standard error.
        let answer = started.qmp.execute(query_status {}, PROMPT).await;
        match answer
            .map_err(|_| bad(exit_reason(&started.output)))?
            .status
        {
            RunState::paused => return Ok(()),
            RunState::inmigrate => tokio::time::sleep(POLL).await,
            other => return Err(bad(format!("QEMU is in state {other:?} after loading it"))),
        }
    }
}
