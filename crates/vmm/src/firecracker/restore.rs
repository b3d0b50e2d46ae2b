//! Restores a VM from the directory that [`snapshot`](super::snapshot) wrote.
//!
//! A full memory file is mapped by Firecracker. Layers are served page by page ([`pager`]); on a
//! host without a pager, they are merged first.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use linux::program_file::ProgramFile;
use stdx::error::chain;

use crate::compat::{self, check_lengths, check_sha256, require_equal};
use crate::files::in_file;
use crate::memory_files::{self, MEMORY, MemoryLayout};
use crate::pager::{self, Prepared};
use crate::run_dir::RunDir;
use crate::{Error, Result, SnapshotError, VmConfig, cpu, record};

use super::api::{MemoryBackend, NetworkOverride, SnapshotLoad};
use super::args::{NIC, STATE};
use super::snapshot::{Manifest, VERSION};
use super::start::{Files, Started, check_config, instance_data, prepare_dir, start_firecracker};
use super::vm::FirecrackerVm;
use super::{Host, memory};

/// Restores the VM, which is paused when this returns. After an error no process is left.
pub(super) async fn restore(
    host: Host,
    config: VmConfig,
    snapshot: PathBuf,
) -> Result<FirecrackerVm> {
    check_config(&config).await?;
    let found = read_compatible(&config, &snapshot).map_err(|source| Error::BadSnapshot {
        dir: snapshot.clone(),
        source,
    })?;
    let disk = &config.disk.path;
    File::open(disk).map_err(in_file("open", disk))?;
    let run = prepare_dir(&config)?;
    let from = snapshot.clone();
    let to = config.clone();
    let has_pager = host.pager.is_some();
    let own_run = Arc::clone(&run);
    let prepared = tokio::task::spawn_blocking(move || {
        prepare_files(&from, &found.memory, &to, &own_run, has_pager)
    })
    .await;
    let pager = prepared
        .map_err(io::Error::other)
        .flatten()
        .map_err(memory_files::memory_error(&snapshot))?;
    let files = match pager {
        None => Files {
            write: &[STATE],
            read: &[MEMORY],
            devices: &[],
        },
        Some(_) => Files {
            write: &[STATE],
            read: &[],
            devices: &[linux::uffd::DEVICE],
        },
    };
    let mut started = start_firecracker(&host, &config, run, files).await?;
    let loaded = async {
        if let (Some(prepared), Some(program)) = (pager, &host.pager) {
            start_pager(&mut started, program, &config, prepared, &snapshot).await?;
        }
        load(&started, &config, &snapshot).await
    };
    match loaded.await {
        Ok(()) => Ok(FirecrackerVm::new(started)),
        Err(error) => Err(started.end_after(error).await),
    }
}

/// Links or copies the files of the snapshot into the VM's directory. Returns the prepared pager;
/// `None` if Firecracker maps the memory itself. Blocking.
///
/// # Errors
/// `InvalidData` when the memory is damaged, otherwise the system's error.
fn prepare_files(
    snapshot: &Path,
    memory: &MemoryLayout,
    config: &VmConfig,
    run: &RunDir,
    has_pager: bool,
) -> io::Result<Option<Prepared>> {
    if config.jail.is_some() {
        // Before the files in them are made readable for all, below.
        for dir in [snapshot, &config.dir] {
            fs::set_permissions(dir, Permissions::from_mode(0o700))?;
        }
    }
    // A copy, since its owner becomes the user of the jail.
    linux::sparse::copy(&snapshot.join(STATE), &config.dir.join(STATE))?;
    if !has_pager && memory.clone().on_disk(snapshot) != MemoryLayout::Full {
        memory_files::ensure_full(snapshot, memory, u64::from(config.memory_mb) << 20)?;
    }
    let memory = memory_files::link_memory(snapshot, memory, &config.dir)?;
    memory::write_layout(&config.dir, &memory)?;
    let prepared = match &memory {
        MemoryLayout::Full => {
            // A private mapping writes nothing to the memory, so it is the snapshot's own file,
            // which all siblings share. Its mode lets the user of Firecracker's jail read it where
            // the jail shows it, read-only; other users do not get through the directories that it
            // is in.
            if config.jail.is_some() {
                fs::set_permissions(config.dir.join(MEMORY), Permissions::from_mode(0o444))?;
            }
            None
        }
        MemoryLayout::Layers(_) => {
            pager::check_layers(&memory, &config.dir)?;
            Some(pager::open_layers(config, &memory, run, snapshot)?)
        }
    };
    Ok(prepared)
}

/// Starts the pager, and records it in `vm.json` before anything depends on it.
async fn start_pager(
    started: &mut Started,
    program: &ProgramFile,
    config: &VmConfig,
    prepared: Prepared,
    snapshot: &Path,
) -> Result<()> {
    let pager = started
        .pager
        .insert(pager::start(program, config, prepared, snapshot).await?);
    started.record.pager = pager.identity().cloned();
    record::write(&started.record, &started.dir).map_err(in_file("write vm.json in", &started.dir))
}

async fn load(started: &Started, config: &VmConfig, snapshot: &Path) -> Result<()> {
    let taps = config.net.iter().map(|net| NetworkOverride {
        iface_id: NIC.into(),
        host_dev_name: net.tap.clone(),
    });
    let request = SnapshotLoad {
        snapshot_path: started.dir.join(STATE),
        mem_backend: match started.pager {
            None => MemoryBackend::File(started.dir.join(MEMORY)),
            Some(_) => MemoryBackend::Uffd(pager::SOCKET.into()),
        },
        track_dirty_pages: true,
        resume_vm: false,
        network_overrides: taps.collect(),
    };
    let bad = |reason| Error::BadSnapshot {
        dir: snapshot.into(),
        source: SnapshotError::Refused(reason),
    };
    // Firecracker waits for ever when it needs a page and its pager has ended.
    let loaded = tokio::select! {
        loaded = started.client.load_snapshot(&request, u64::from(config.memory_mb) << 20) => loaded,
        why = pager::wait_for_exit(started.pager.as_ref()) => return Err(bad(why)),
    };
    // A Firecracker that cannot use the files says so and ends.
    loaded.map_err(|error| match error {
        Error::Refused { reason, .. } => bad(reason),
        other => bad(format!(
            "{}: {}",
            chain(&other),
            super::end::last_words(&started.dir, &started.output)
        )),
    })?;
    match &config.net {
        Some(_) => instance_data(&started.client, config).await,
        None => Ok(()),
    }
}

/// Reads the manifest and compares it with the configuration, and with the files beside it.
/// Blocking.
fn read_compatible(config: &VmConfig, snapshot: &Path) -> Result<Manifest, SnapshotError> {
    let found: Manifest = compat::read_manifest(snapshot, VERSION)?;
    let cpu = cpu::identity().map_err(SnapshotError::Processor)?;
    let network = |has| if has { "there" } else { "not there" };
    require_equal("processor", &found.cpu, &cpu)?;
    require_equal("number of virtual CPUs", found.vcpus, config.vcpus)?;
    require_equal("memory in MiB", found.memory_mb, config.memory_mb)?;
    require_equal("network", network(found.net), network(config.net.is_some()))?;
    check_lengths(snapshot, &[(STATE, found.state_bytes)])?;
    found
        .memory
        .check_files(snapshot, u64::from(found.memory_mb) << 20)?;
    check_sha256(snapshot, STATE, &found.state_sha256)?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::Name;
    use super::*;
    use crate::compat::{MANIFEST, length_and_sha256};
    use crate::{Disk, DiskFormat, Jail};

    /// A snapshot of 1 MiB, and what is to be restored from it.
    fn snapshot(root: &Path, change: impl Fn(&mut Manifest)) -> (PathBuf, VmConfig) {
        let snapshot = root.join("snapshot");
        let dir = root.join("vm");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(&dir).unwrap();
        fs::write(snapshot.join(MEMORY), vec![7; 1 << 20]).unwrap();
        fs::set_permissions(snapshot.join(MEMORY), Permissions::from_mode(0o600)).unwrap();
        fs::write(snapshot.join(STATE), b"devices").unwrap();
        let (state_bytes, state_sha256) = length_and_sha256(&snapshot.join(STATE)).unwrap();
        let cpu = cpu::identity().unwrap();
        let vmm = Name::Firecracker;
        let vcpus = 1;
        let memory_mb = 1;
        let net = false;
        let memory = MemoryLayout::Full;
        let mut manifest = Manifest {
            version: VERSION,
            vmm,
            cpu,
            vcpus,
            memory_mb,
            net,
            state_bytes,
            state_sha256,
            memory,
        };
        change(&mut manifest);
        fs::write(
            snapshot.join(MANIFEST),
            serde_json::to_vec(&manifest).unwrap(),
        )
        .unwrap();
        let config = VmConfig {
            dir,
            name: "vm".into(),
            vcpus,
            memory_mb,
            kernel: "/k".into(),
            initramfs: "/i".into(),
            kernel_args: String::new(),
            disk: Disk {
                path: "/d".into(),
                format: DiskFormat::Raw,
                base: None,
                size_bytes: 1 << 20,
            },
            modules: None,
            net: None,
            jail: Some(Jail {
                uid: 7,
                gid: 7,
                cgroup: None,
                disk: Default::default(),
            }),
        };
        (snapshot, config)
    }

    #[test]
    fn siblings_share_snapshot_memory_read_only() {
        let root = tempfile::tempdir().unwrap();
        let (snapshot, config) = snapshot(root.path(), |_| {});
        assert!(
            prepare_files(
                &snapshot,
                &MemoryLayout::Full,
                &config,
                &RunDir::create(&config).unwrap(),
                true
            )
            .unwrap()
            .is_none()
        );
        let of = |path: PathBuf| fs::metadata(path).unwrap();
        let theirs = of(snapshot.join(MEMORY));
        let own = of(config.dir.join(MEMORY));
        assert_eq!((theirs.ino(), own.mode() & 0o777), (own.ino(), 0o444));
        for dir in [&snapshot, &config.dir] {
            assert_eq!(
                of(dir.clone()).mode() & 0o777,
                0o700,
                "no other user may enter"
            );
        }
        assert_ne!(
            of(snapshot.join(STATE)).ino(),
            of(config.dir.join(STATE)).ino()
        );
    }

    #[test]
    fn layers_are_served_or_merged() {
        let layered = |root: &Path| {
            let (snapshot, config) = snapshot(root, |_| {});
            fs::rename(snapshot.join(MEMORY), snapshot.join(memory_files::BASE)).unwrap();
            let fill = |buffer: &mut [u8], _| {
                buffer.fill(9);
                Ok(())
            };
            let written = std::iter::once(4096..8192).collect::<Vec<_>>();
            let seal =
                crate::diff::write(&snapshot.join(memory_files::DIFF), 1 << 20, &written, fill)
                    .unwrap();
            let run = RunDir::create(&config).unwrap();
            (snapshot, config, run, MemoryLayout::Layers(vec![seal]))
        };
        let root = tempfile::tempdir().unwrap();
        let (snapshot, config, run, memory) = layered(root.path());
        assert!(
            prepare_files(&snapshot, &memory, &config, &run, true)
                .unwrap()
                .is_some()
        );
        assert_eq!(
            memory::read_layout(&config.dir).unwrap(),
            Some(memory.clone())
        );
        assert!(
            !snapshot.join(MEMORY).exists() && memory.check_files(&config.dir, 1 << 20).is_ok()
        );
        run.socket(pager::SOCKET).unwrap();
        run.remove(pager::SOCKET).unwrap();
        // Each restore checks the diffs again.
        memory::remove_layout(&config.dir).unwrap();
        fs::remove_file(config.dir.join(STATE)).unwrap();
        fs::write(snapshot.join(memory_files::DIFF), vec![0; 8192]).unwrap();
        let error = prepare_files(&snapshot, &memory, &config, &run, true).unwrap_err();
        assert!(
            error.kind() == io::ErrorKind::InvalidData && error.to_string().contains("checksum"),
            "{error}"
        );
        let root = tempfile::tempdir().unwrap();
        let (snapshot, config, run, memory) = layered(root.path());
        assert!(
            prepare_files(&snapshot, &memory, &config, &run, false)
                .unwrap()
                .is_none()
        );
        assert_eq!(
            memory::read_layout(&config.dir).unwrap(),
            Some(MemoryLayout::Full)
        );
        let whole = fs::read(config.dir.join(MEMORY)).unwrap();
        assert!(
            whole[..4096] == [7; 4096] && whole[4096..8192] == [9; 4096] && whole.len() == 1 << 20
        );
    }

    #[test]
    fn a_refusal_names_both_sides() {
        let root = tempfile::tempdir().unwrap();
        let refusal = |change: fn(&mut Manifest)| {
            let (snapshot, config) = snapshot(root.path(), change);
            let checked = read_compatible(&config, &snapshot);
            checked.map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(refusal(|_| {}), Ok(()));
        assert_eq!(
            refusal(|found| found.vcpus = 2).unwrap_err(),
            "its number of virtual CPUs is 2, but here it is 1"
        );
        assert_eq!(
            refusal(|found| found.net = true).unwrap_err(),
            "its network is there, but here it is not there"
        );
        assert!(
            refusal(|found| found.cpu = "Z80".into())
                .unwrap_err()
                .starts_with("its processor is Z80, but here")
        );
        assert!(
            refusal(|found| found.state_sha256 = "0".into())
                .unwrap_err()
                .starts_with("the checksum of state is ")
        );
        assert!(
            refusal(|found| found.state_bytes = 8)
                .unwrap_err()
                .contains("7 bytes instead of 8")
        );
    }
}
