//! Restores a VM from the directory that [`snapshot`](super::snapshot) wrote.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use qapi::qmp::{RunState, migrate_incoming, query_status};
use tokio::net::UnixStream;

use crate::files::{self, blocking, in_file, private_file, short};
use crate::jail::RUN;
use crate::{Error, Result, VmConfig, starts};

use super::args::MEMORY_FILE;
use super::qmp::PROMPT;
use super::snapshot::{MANIFEST, Manifest, Memory, POLL, STATE, VERSION, in_time, leave_out_memory};
use super::start::{Started, launch};
use super::vm::QemuVm;
use super::{Host, Ram, Record, last_words};

/// Socket in QEMU's working directory, for the time of the transfer.
const INCOMING: &str = "incoming.sock";

/// The VM is paused when this returns. After an error no process is left.
pub(super) async fn restore(host: Host, config: VmConfig, snapshot: PathBuf) -> Result<QemuVm> {
    starts::check::<Record>(&config).await?;
    let manifest = check(&host, &config, &snapshot)?;
    let (ram, memory) = place_memory(&config, manifest.ram, &snapshot).await?;
    let started = launch(&host, &config, ram, &memory, true).await?;
    let loaded = in_time("migrate-incoming", load_state(&started, &manifest, &snapshot)).await;
    let _ = fs::remove_file(config.dir.join(RUN).join(INCOMING));
    match loaded {
        Ok(()) => Ok(QemuVm::new(started)),
        Err(error) => Err(started.fail(error).await),
    }
}

/// The file that the guest's memory is to be in.
///
/// A private mapping writes nothing to the file, but QEMU opens it for writing all the same (before version 8.2 there
/// is no other way). So only a QEMU without a jail maps the snapshot's; one in a jail, which might use that, gets a
/// copy, by shared blocks where the file system can. A stream fills a file of the VM's own.
async fn place_memory(config: &VmConfig, from: Memory, snapshot: &Path) -> Result<(Ram, PathBuf)> {
    let (theirs, own) = (snapshot.join(MEMORY_FILE), config.dir.join(MEMORY_FILE));
    match from {
        Memory::File if config.jail.is_none() => return Ok((Ram::Private, theirs)),
        Memory::File => {
            files::remove(&own)?;
            let to = own.clone();
            blocking("copy the memory to", &own, move || linux::sparse::copy(&theirs, &to)).await?;
        }
        Memory::Stream => drop(private_file(&own).map_err(in_file("make", &own))?),
    }
    Ok((Ram::File, own))
}

/// Sends the stream to QEMU and waits until it has made sense of it.
async fn load_state(started: &Started, manifest: &Manifest, snapshot: &Path) -> Result<()> {
    let bad = |reason: String| Error::BadSnapshot { dir: snapshot.into(), reason };
    started.qmp.execute(leave_out_memory(manifest.ram == Memory::File), PROMPT).await?;
    let uri = Some(format!("unix:{INCOMING}"));
    started.qmp.execute(migrate_incoming { uri, channels: None, exit_on_error: None }, PROMPT).await?;
    let path = snapshot.join(STATE);
    let send = async {
        let mut socket = UnixStream::connect(short(&started.dir.join(RUN))?.path(INCOMING)).await?;
        let mut state = tokio::fs::File::open(&path).await?;
        tokio::io::copy(&mut state, &mut socket).await
    };
    match send.await {
        // QEMU has seen enough: it tells below.
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {}
        sent => drop(sent.map_err(in_file("send to QEMU", &path))?),
    }
    loop {
        // QEMU ends when it cannot use the stream, and says why in its log.
        let answer = started.qmp.execute(query_status {}, PROMPT).await;
        match answer.map_err(|_| bad(last_words(&started.dir)))?.status {
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
