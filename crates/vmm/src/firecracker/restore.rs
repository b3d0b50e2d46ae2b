//! Restores a VM from the directory that [`snapshot`](super::snapshot) wrote.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::files::{blocking, in_file};
use crate::{Error, Result, VmConfig};

use super::api::{MemoryBackend, NetworkOverride, SnapshotLoad};
use super::args::{MEMORY, NIC, STATE};
use super::snapshot::{MANIFEST, Manifest, VERSION};
use super::start::{Started, check, instance_data, launch, prepare};
use super::vm::FirecrackerVm;
use super::{Host, Name};

/// The VM is paused when this returns. After an error no process is left.
pub(super) async fn restore(host: Host, config: VmConfig, snapshot: PathBuf) -> Result<FirecrackerVm> {
    check(&config).await?;
    fits(&config, &snapshot)?;
    let disk = &config.disk.path;
    File::open(disk).map_err(in_file("open", disk))?;
    prepare(&config)?;
    for name in [MEMORY, STATE] {
        let (from, to, shared) = (snapshot.join(name), config.dir.join(name), config.jail.is_none());
        blocking("take from the snapshot", &from.clone(), move || take(&from, &to, shared)).await?;
    }
    let started = launch(&host, &config, &[MEMORY, STATE]).await?;
    match load(&started, &config, &snapshot).await {
        Ok(()) => Ok(FirecrackerVm::new(started)),
        Err(error) => Err(started.fail(error).await),
    }
}

/// A private mapping writes nothing to the memory, so it can be the snapshot's own file. A Firecracker in a jail is a
/// user of its own, to whom that does not belong: it gets a copy, by shared blocks where the file system can.
fn take(from: &Path, to: &Path, shared: bool) -> io::Result<()> {
    if shared { fs::hard_link(from, to).or_else(|_| symlink(from, to)) } else { linux::sparse::copy(from, to) }
}

async fn load(started: &Started, config: &VmConfig, snapshot: &Path) -> Result<()> {
    let taps = config.net.iter().map(|net| NetworkOverride { iface_id: NIC.into(), host_dev_name: net.tap.clone() });
    let request = SnapshotLoad {
        snapshot_path: started.dir.join(STATE),
        mem_backend: MemoryBackend::File(started.dir.join(MEMORY)),
        track_dirty_pages: true,
        resume_vm: false,
        network_overrides: taps.collect(),
    };
    // A Firecracker that cannot use the files says so and ends.
    started.client.load_snapshot(&request).await.map_err(|error| match error {
        Error::Refused { reason, .. } => Error::BadSnapshot { dir: snapshot.into(), reason },
        other => {
            Error::BadSnapshot { dir: snapshot.into(), reason: format!("{other}: {}", super::end::words(&started.dir)) }
        }
    })?;
    match &config.net {
        Some(_) => instance_data(&started.client, config).await,
        None => Ok(()),
    }
}

/// Reads the manifest and compares it with what is to run, and with the files beside it.
fn fits(config: &VmConfig, snapshot: &Path) -> Result<()> {
    let bad = |reason: String| Error::BadSnapshot { dir: snapshot.into(), reason };
    let content = fs::read(snapshot.join(MANIFEST)).map_err(|error| bad(format!("{MANIFEST}: {error}")))?;
    let found: Manifest = serde_json::from_slice(&content).map_err(|error| bad(format!("{MANIFEST}: {error}")))?;
    let (vcpus, memory_mb, net, state_bytes) =
        (config.vcpus, config.memory_mb, config.net.is_some(), found.state_bytes);
    let wanted = Manifest { version: VERSION, vmm: Name::Firecracker, vcpus, memory_mb, net, state_bytes };
    if found != wanted {
        return Err(bad(format!("it is of {found:?}, but {wanted:?} is to run")));
    }
    for (name, length) in [(STATE, found.state_bytes), (MEMORY, u64::from(memory_mb) << 20)] {
        let actual = fs::metadata(snapshot.join(name)).map_err(|error| bad(format!("{name}: {error}")))?.len();
        if actual != length {
            return Err(bad(format!("{name} has {actual} bytes instead of {length}")));
        }
    }
    Ok(())
}
