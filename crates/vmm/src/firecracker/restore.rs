//! Restores a VM from the directory that [`snapshot`](super::snapshot) wrote.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::files::{blocking, in_file, place};
use crate::fit::{self, checksum, lengths, same};
use crate::{Error, Result, VmConfig, cpu};

use super::Host;
use super::api::{MemoryBackend, NetworkOverride, SnapshotLoad};
use super::args::{MEMORY, NIC, STATE};
use super::snapshot::{Manifest, VERSION};
use super::start::{Started, check, instance_data, launch, prepare};
use super::vm::FirecrackerVm;

/// The VM is paused when this returns. After an error no process is left.
pub(super) async fn restore(host: Host, config: VmConfig, snapshot: PathBuf) -> Result<FirecrackerVm> {
    check(&config).await?;
    fits(&config, &snapshot).map_err(|reason| Error::BadSnapshot { dir: snapshot.clone(), reason })?;
    let disk = &config.disk.path;
    File::open(disk).map_err(in_file("open", disk))?;
    prepare(&config)?;
    let (from, to) = (snapshot.clone(), config.clone());
    blocking("take the files of", &snapshot, move || take(&from, &to)).await?;
    let started = launch(&host, &config, &[STATE], &[MEMORY]).await?;
    match load(&started, &config, &snapshot).await {
        Ok(()) => Ok(FirecrackerVm::new(started)),
        Err(error) => Err(started.fail(error).await),
    }
}

/// A private mapping writes nothing to the memory, so it is the snapshot's own file, which all siblings share. A
/// Firecracker in a jail is a user of its own, whom its mode lets read it where the jail shows it, read-only; nobody
/// else gets through the directories that it is in. The state is a copy, which is the user's.
fn take(snapshot: &Path, config: &VmConfig) -> io::Result<()> {
    let of = |name| (snapshot.join(name), config.dir.join(name));
    let ((memory, to_memory), (state, to_state)) = (of(MEMORY), of(STATE));
    if config.jail.is_none() {
        let link = |from: &Path, to: &Path| fs::hard_link(from, to).or_else(|_| symlink(from, to));
        return link(&memory, &to_memory).and_then(|()| link(&state, &to_state));
    }
    linux::sparse::copy(&state, &to_state)?;
    // Before anybody may read it.
    for dir in [snapshot, &config.dir] {
        fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    }
    place(&memory, &to_memory)?;
    fs::set_permissions(&to_memory, Permissions::from_mode(0o444))
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

/// Reads the manifest and compares it with what is to run, and with the files beside it. Blocking.
fn fits(config: &VmConfig, snapshot: &Path) -> Result<(), String> {
    let found: Manifest = fit::manifest(snapshot, VERSION)?;
    let cpu = cpu::identity().map_err(|error| format!("this processor is not known: {error}"))?;
    let network = |has| if has { "there" } else { "not there" };
    same("processor", &found.cpu, &cpu)?;
    same("number of virtual CPUs", found.vcpus, config.vcpus)?;
    same("memory in MiB", found.memory_mb, config.memory_mb)?;
    same("network", network(found.net), network(config.net.is_some()))?;
    lengths(snapshot, &[(STATE, found.state_bytes), (MEMORY, u64::from(found.memory_mb) << 20)])?;
    checksum(snapshot, STATE, &found.state_sha256)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::Name;
    use super::*;
    use crate::fit::{MANIFEST, sum};
    use crate::{Disk, DiskFormat, Jail};

    /// A snapshot of 1 MiB, and what is to be restored from it.
    fn snapshot(root: &Path, change: impl Fn(&mut Manifest)) -> (PathBuf, VmConfig) {
        let (snapshot, dir) = (root.join("snapshot"), root.join("vm"));
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(&dir).unwrap();
        fs::write(snapshot.join(MEMORY), vec![7; 1 << 20]).unwrap();
        fs::set_permissions(snapshot.join(MEMORY), Permissions::from_mode(0o600)).unwrap();
        fs::write(snapshot.join(STATE), b"devices").unwrap();
        let (state_bytes, state_sha256) = sum(&snapshot.join(STATE)).unwrap();
        let cpu = cpu::identity().unwrap();
        let (vmm, vcpus, memory_mb, net) = (Name::Firecracker, 1, 1, false);
        let mut manifest = Manifest { version: VERSION, vmm, cpu, vcpus, memory_mb, net, state_bytes, state_sha256 };
        change(&mut manifest);
        fs::write(snapshot.join(MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
        let config = VmConfig {
            dir,
            name: "vm".into(),
            vcpus,
            memory_mb,
            kernel: "/k".into(),
            initramfs: "/i".into(),
            kernel_args: String::new(),
            disk: Disk { path: "/d".into(), format: DiskFormat::Raw, base: None },
            net: None,
            jail: Some(Jail { uid: 7, gid: 7, cgroup: None, disk: Default::default() }),
        };
        (snapshot, config)
    }

    #[test]
    fn siblings_read_the_memory_of_their_snapshot_and_write_to_nothing_of_it() {
        let root = tempfile::tempdir().unwrap();
        let (snapshot, config) = snapshot(root.path(), |_| {});
        take(&snapshot, &config).unwrap();
        let of = |path: PathBuf| fs::metadata(path).unwrap();
        let (theirs, own) = (of(snapshot.join(MEMORY)), of(config.dir.join(MEMORY)));
        assert_eq!((theirs.ino(), own.mode() & 0o777), (own.ino(), 0o444));
        for dir in [&snapshot, &config.dir] {
            assert_eq!(of(dir.clone()).mode() & 0o777, 0o700, "nobody else gets at it");
        }
        assert_ne!(of(snapshot.join(STATE)).ino(), of(config.dir.join(STATE)).ino());
    }

    #[test]
    fn a_refusal_names_both_sides() {
        let root = tempfile::tempdir().unwrap();
        let refusal = |change: fn(&mut Manifest)| {
            let (snapshot, config) = snapshot(root.path(), change);
            fits(&config, &snapshot)
        };
        assert_eq!(refusal(|_| {}), Ok(()));
        assert_eq!(refusal(|found| found.vcpus = 2).unwrap_err(), "its number of virtual CPUs is 2, but here it is 1");
        assert_eq!(refusal(|found| found.net = true).unwrap_err(), "its network is there, but here it is not there");
        assert!(refusal(|found| found.cpu = "Z80".into()).unwrap_err().starts_with("its processor is Z80, but here"));
        assert!(refusal(|found| found.state_sha256 = "0".into()).unwrap_err().starts_with("the checksum of state is "));
        assert!(refusal(|found| found.state_bytes = 8).unwrap_err().contains("7 bytes instead of 8"));
    }
}
