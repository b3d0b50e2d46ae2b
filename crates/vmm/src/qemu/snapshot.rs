//! Snapshots: a directory with the memory, the device state, and a manifest that says what they fit.
//!
//! | file | content |
//! |---|---|
//! | `memory` | the guest's memory (holes for what it never touched), unless `ram` is `stream` |
//! | `state` | QEMU's migration stream: devices, and memory too where it is in no file |
//! | `snapshot.json` | the [`Manifest`], written last |
//!
//! A failure removes what it wrote. If this process dies, the directory has no manifest, and no one restores it.
//! QEMU writes the stream to a Unix socket of ours and reads it from one of its own: it may not start programs,
//! and has no other way to a file in the versions of today's distributions.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qapi::qmp::{
    MigrationCapability, MigrationCapabilityStatus, RunState, migrate, migrate_incoming, migrate_set_capabilities,
    query_status,
};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};

use crate::{Error, Result, VmConfig};

use super::args::MEMORY_FILE;
use super::qmp::{PROMPT, QueryMigrate, SetMigrateBandwidth, short};
use super::start::{Started, launch, private_file};
use super::vm::QemuVm;
use super::{Accel, Host, Ram};

const STATE: &str = "state";
const MANIFEST: &str = "snapshot.json";

/// Version of this layout.
const VERSION: u32 = 1;

/// Sockets in the directory of the VM, for the time of one transfer.
const OUTGOING: &str = "outgoing.sock";
const INCOMING: &str = "incoming.sock";

/// Time for the stream: under a second for device state, longer for memory.
const TRANSFER: Duration = Duration::from_secs(300);

/// How often QEMU is asked whether it is done.
const POLL: Duration = Duration::from_millis(2);

/// Where the memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Memory {
    File,
    Stream,
}

/// What a snapshot fits, and how long its files are, so that a short one is noticed before a guest runs on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    ram: Memory,
    accel: Accel,
    vcpus: u32,
    memory_mb: u32,
    state_bytes: u64,
}

pub(super) async fn write(vm: &QemuVm, dir: &Path) -> Result<()> {
    let written = write_files(vm, dir).await;
    if written.is_err() {
        for name in [MANIFEST, STATE, MEMORY_FILE] {
            let _ = fs::remove_file(dir.join(name));
        }
    }
    let _ = fs::remove_file(vm.shared.dir.join(OUTGOING));
    written
}

async fn write_files(vm: &QemuVm, dir: &Path) -> Result<()> {
    if vm.execute(query_status {}, PROMPT).await?.running {
        return Err(Error::Refused { command: "snapshot".into(), reason: "the VM runs; pause it first".into() });
    }
    let record = &vm.shared.record;
    let ram = match record.ram {
        Ram::File => Memory::File,
        Ram::Private => Memory::Stream,
    };
    vm.execute(leave_out_memory(ram == Memory::File), PROMPT).await?;
    vm.execute(SetMigrateBandwidth::unlimited(), PROMPT).await?;
    let state_bytes = save_state(vm, dir.join(STATE)).await?;
    if ram == Memory::File {
        let (from, to) = (vm.shared.dir.join(MEMORY_FILE), dir.join(MEMORY_FILE));
        blocking("copy the memory to", &to.clone(), move || linux::sparse::copy(&from, &to)).await?;
    }
    let (accel, vcpus, memory_mb) = (record.accel, record.vcpus, record.memory_mb);
    let manifest = Manifest { version: VERSION, ram, accel, vcpus, memory_mb, state_bytes };
    let path = dir.join(MANIFEST);
    let content = serde_json::to_vec(&manifest).map_err(io::Error::other);
    blocking("write", &path.clone(), move || linux::file::write_atomic(&path, &content?, 0o600)).await
}

/// Memory that lies in a file that others can see is not part of the stream. On a restore the file is mapped
/// privately, so every restored VM has its own copy, page by page.
fn leave_out_memory(state: bool) -> migrate_set_capabilities {
    let capability = MigrationCapability::x_ignore_shared;
    migrate_set_capabilities { capabilities: vec![MigrationCapabilityStatus { capability, state }] }
}

/// Returns the length of the stream.
async fn save_state(vm: &QemuVm, path: PathBuf) -> Result<u64> {
    let listen = || {
        let _ = fs::remove_file(vm.shared.dir.join(OUTGOING));
        UnixListener::bind(short(&vm.shared.dir)?.path(OUTGOING))
    };
    let listener = listen().map_err(in_file("listen on a socket for", &path))?;
    let uri = Some(format!("unix:{OUTGOING}"));
    vm.execute(migrate { uri, channels: None, detach: None, resume: None }, PROMPT).await?;
    let receive = async {
        let (mut socket, _) = listener.accept().await?;
        let file = fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        let mut file = tokio::fs::File::from_std(file);
        let length = tokio::io::copy(&mut socket, &mut file).await?;
        file.sync_all().await?;
        Ok(length)
    };
    let transfer = async {
        tokio::select! {
            length = receive => length.map_err(in_file("write", &path)),
            error = failure(vm) => Err(error),
        }
    };
    let length = in_time("migrate", transfer).await?;
    in_time("migrate", completion(vm)).await?;
    Ok(length)
}

/// Returns only when the transfer has failed.
async fn failure(vm: &QemuVm) -> Error {
    loop {
        match migration(vm).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => return error,
        }
    }
}

async fn completion(vm: &QemuVm) -> Result<()> {
    while migration(vm).await? != "completed" {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// The state of the transfer, unless it failed.
async fn migration(vm: &QemuVm) -> Result<String> {
    let answer = vm.execute(QueryMigrate {}, PROMPT).await?;
    match answer.status.unwrap_or_default() {
        status if status == "failed" || status == "cancelled" => {
            Err(Error::Refused { command: "migrate".into(), reason: answer.error.unwrap_or(status) })
        }
        status => Ok(status),
    }
}

/// The VM is paused when this returns. After an error no process is left.
pub(super) async fn restore(host: Host, config: VmConfig, snapshot: PathBuf) -> Result<QemuVm> {
    let manifest = check(&host, &config, &snapshot)?;
    // A private mapping writes nothing to the file; a stream fills a file of the VM's own.
    let (ram, memory) = match manifest.ram {
        Memory::File => (Ram::Private, snapshot.join(MEMORY_FILE)),
        Memory::Stream => (Ram::File, config.dir.join(MEMORY_FILE)),
    };
    if ram == Ram::File {
        private_file(&memory).map_err(in_file("make", &memory))?;
    }
    let started = launch(&host, &config, ram, &memory, true).await?;
    let loaded = in_time("migrate-incoming", load_state(&started, &manifest, &snapshot)).await;
    let _ = fs::remove_file(config.dir.join(INCOMING));
    match loaded {
        Ok(()) => Ok(QemuVm::new(started)),
        Err(error) => Err(started.fail(error).await),
    }
}

async fn load_state(started: &Started, manifest: &Manifest, snapshot: &Path) -> Result<()> {
    let bad = |reason: String| Error::BadSnapshot { dir: snapshot.into(), reason };
    started.qmp.execute(leave_out_memory(manifest.ram == Memory::File), PROMPT).await?;
    let uri = Some(format!("unix:{INCOMING}"));
    started.qmp.execute(migrate_incoming { uri, channels: None, exit_on_error: None }, PROMPT).await?;
    let path = snapshot.join(STATE);
    let send = async {
        let mut socket = UnixStream::connect(short(&started.dir)?.path(INCOMING)).await?;
        let mut state = tokio::fs::File::open(&path).await?;
        tokio::io::copy(&mut state, &mut socket).await
    };
    send.await.map_err(in_file("send to QEMU", &path))?;
    loop {
        // QEMU ends when it cannot use the stream, and says why in its log.
        let answer = started.qmp.execute(query_status {}, PROMPT).await;
        match answer.map_err(|_| bad(super::end::last_words(&started.dir)))?.status {
            RunState::paused => return Ok(()),
            RunState::inmigrate => tokio::time::sleep(POLL).await,
            other => return Err(bad(format!("QEMU is in state {other:?} after loading it"))),
        }
    }
}

/// Reads the manifest and compares it with what is to run, and with the files beside it.
fn check(host: &Host, config: &VmConfig, snapshot: &Path) -> Result<Manifest> {
    let bad = |reason: String| Error::BadSnapshot { dir: snapshot.into(), reason };
    let content = fs::read(snapshot.join(MANIFEST)).map_err(|error| bad(format!("{MANIFEST}: {error}")))?;
    let found: Manifest = serde_json::from_slice(&content).map_err(|error| bad(format!("{MANIFEST}: {error}")))?;
    let (accel, vcpus, memory_mb) = (host.accel, config.vcpus, config.memory_mb);
    let wanted = Manifest { version: VERSION, accel, vcpus, memory_mb, ..found.clone() };
    if found != wanted {
        return Err(bad(format!("it is of {found:?}, but {wanted:?} is to run")));
    }
    let mut files = vec![(STATE, found.state_bytes)];
    if found.ram == Memory::File {
        files.push((MEMORY_FILE, u64::from(memory_mb) << 20));
    }
    for (name, length) in files {
        let actual = fs::metadata(snapshot.join(name)).map_err(|error| bad(format!("{name}: {error}")))?.len();
        if actual != length {
            return Err(bad(format!("{name} has {actual} bytes instead of {length}")));
        }
    }
    Ok(found)
}

async fn in_time<T>(command: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let elapsed = Error::Timeout { command: command.into(), seconds: TRANSFER.as_secs() };
    tokio::time::timeout(TRANSFER, work).await.unwrap_or(Err(elapsed))
}

async fn blocking<T: Send + 'static>(
    action: &'static str,
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten().map_err(in_file(action, path))
}

fn in_file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}
