//! Manifest of a snapshot: what it is compatible with, and the checksums of its files.
//!
//! The state of the devices has a SHA-256, which is compared before a guest runs on it; a diff of
//! memory has a checksum, which is compared when it is used. A full memory file carries its own
//! ([`seal`](crate::seal)).

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::compat::{self, check_lengths, check_sha256, mismatch, require_equal};
use crate::memory_files::MemoryLayout;
use crate::{Error, Result, SnapshotError, VmConfig, cpu};

use super::{Accel, Host};

pub(super) const STATE: &str = "state";

/// Version of this layout.
pub(super) const VERSION: u32 = 2;

/// Content of `snapshot.json`, which is written last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) version: u32,
    pub(super) accel: Accel,
    /// Processor that the guest sees: the host's, or the emulated one.
    pub(super) cpu: String,
    pub(super) vcpus: u32,
    pub(super) memory_mb: u32,
    /// QEMU's version, `7.2.22`.
    pub(super) qemu: String,
    pub(super) state_bytes: u64,
    pub(super) state_sha256: String,
    pub(super) memory: MemoryLayout,
}

/// Returns the processor that guests see. An emulated one is the same on every host.
pub(super) fn guest_processor(accel: Accel) -> io::Result<String> {
    match accel {
        Accel::Kvm => cpu::identity(),
        Accel::Tcg => Ok("emulated".into()),
    }
}

/// Reads the manifest and compares it with the configuration, and with the files beside it.
/// Blocking.
pub(super) fn check(host: &Host, config: &VmConfig, snapshot: &Path) -> Result<Manifest> {
    let checked = compat::read_manifest(snapshot, VERSION).and_then(|found: Manifest| {
        check_compatible(&found, host, config)?;
        check_files(&found, snapshot)?;
        Ok(found)
    });
    checked.map_err(|source| Error::BadSnapshot {
        dir: snapshot.into(),
        source,
    })
}

fn check_compatible(found: &Manifest, host: &Host, config: &VmConfig) -> Result<(), SnapshotError> {
    let cpu = guest_processor(host.accel).map_err(SnapshotError::Processor)?;
    require_equal("accelerator", found.accel.name(), host.accel.name())?;
    require_equal("processor", &found.cpu, &cpu)?;
    require_equal("number of virtual CPUs", found.vcpus, config.vcpus)?;
    require_equal("memory in MiB", found.memory_mb, config.memory_mb)
}

fn check_files(found: &Manifest, snapshot: &Path) -> Result<(), SnapshotError> {
    found
        .memory
        .check_files(snapshot, u64::from(found.memory_mb) << 20)?;
    check_lengths(snapshot, &[(STATE, found.state_bytes)])?;
    check_sha256(snapshot, STATE, &found.state_sha256)
}

/// Checks that QEMU's versions agree but for the last part. The state can be loaded by the QEMU
/// that wrote it and by its later fixes, which do not change its form. The machine `microvm` has no
/// versions, so there is no wider promise.
pub(super) fn check_release(found: &Manifest, here: &str) -> Result<(), SnapshotError> {
    let release = |version: &str| {
        version
            .splitn(3, '.')
            .take(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    if release(&found.qemu) == release(here) {
        Ok(())
    } else {
        Err(mismatch("QEMU", &found.qemu, here))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use sha2::{Digest, Sha256};

    use linux::jail::Enforcement;

    use super::*;
    use crate::compat::MANIFEST;
    use crate::memory_files::MEMORY;
    use crate::{Disk, DiskFormat};

    fn manifest() -> Manifest {
        Manifest {
            version: VERSION,
            accel: Accel::Tcg,
            cpu: "emulated".into(),
            vcpus: 2,
            memory_mb: 1,
            qemu: "7.2.22".into(),
            state_bytes: 7,
            state_sha256: hex::encode(Sha256::digest(b"devices")),
            memory: MemoryLayout::Full,
        }
    }

    fn refusal(manifest: &Manifest, state: &[u8]) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join(MANIFEST),
            serde_json::to_vec(manifest).unwrap(),
        )
        .unwrap();
        fs::write(dir.path().join(STATE), state).unwrap();
        fs::write(dir.path().join(MEMORY), vec![0; 1 << 20]).unwrap();
        let host = Host {
            program: "qemu".into(),
            accel: Accel::Tcg,
            tsc_khz: None,
            enforcement: Enforcement::Enforce,
        };
        let config = VmConfig {
            dir: "/vm".into(),
            name: "vm".into(),
            vcpus: 2,
            memory_mb: 1,
            kernel: "/k".into(),
            initramfs: "/i".into(),
            kernel_args: String::new(),
            disk: Disk {
                path: "/d".into(),
                format: DiskFormat::Raw,
                base: None,
                size_bytes: 1 << 30,
            },
            modules: None,
            net: None,
            jail: None,
        };
        match check(&host, &config, dir.path()) {
            Ok(_) => None,
            Err(Error::BadSnapshot { source, .. }) => Some(source.to_string()),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_refusal_names_both_sides() {
        assert_eq!(refusal(&manifest(), b"devices"), None);
        let of = |change: fn(&mut Manifest)| {
            let mut changed = manifest();
            change(&mut changed);
            refusal(&changed, b"devices").expect("it is refused")
        };
        assert_eq!(
            of(|changed| changed.version = 1),
            "its layout is 1, but here it is 2"
        );
        assert_eq!(
            of(|changed| changed.accel = Accel::Kvm),
            "its accelerator is kvm, but here it is tcg"
        );
        assert_eq!(
            of(|changed| changed.cpu = "Xeon".into()),
            "its processor is Xeon, but here it is emulated"
        );
        assert_eq!(
            of(|changed| changed.vcpus = 1),
            "its number of virtual CPUs is 1, but here it is 2"
        );
        assert!(
            refusal(&manifest(), b"device!")
                .unwrap()
                .starts_with("the checksum of state is ")
        );
        assert!(
            refusal(&manifest(), b"devices, more")
                .unwrap()
                .contains("13 bytes instead of 7")
        );
    }

    #[test]
    fn patch_release_takes_snapshots_minor_refuses() {
        check_release(&manifest(), "7.2.23").unwrap();
        assert_eq!(
            check_release(&manifest(), "7.20.0")
                .unwrap_err()
                .to_string(),
            "its QEMU is 7.2.22, but here it is 7.20.0"
        );
        assert!(check_release(&manifest(), "10.0.2").is_err());
    }
}
