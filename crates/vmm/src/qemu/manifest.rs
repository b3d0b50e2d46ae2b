//! What a snapshot fits, and how its files are known to be whole.
//!
//! The state of the devices has a SHA-256, which is compared before a guest runs on it; a difference in memory has a
//! checksum, which is compared when it is made flat. Flat memory has only its length: reading all of it would make
//! every restore as slow as a copy.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::flat::{BASE, DIFF, Memory};
use crate::{Error, Result, VmConfig, cpu};

use super::args::MEMORY_FILE;
use super::{Accel, Host};

pub(super) const MANIFEST: &str = "snapshot.json";
pub(super) const STATE: &str = "state";

/// Version of this layout.
pub(super) const VERSION: u32 = 2;

/// Written last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) version: u32,
    pub(super) accel: Accel,
    /// Of the host, where the guest sees it.
    pub(super) cpu: String,
    pub(super) vcpus: u32,
    pub(super) memory_mb: u32,
    /// QEMU's version, `7.2.22`.
    pub(super) qemu: String,
    pub(super) state_bytes: u64,
    pub(super) state_sha256: String,
    pub(super) memory: Memory,
}

/// An emulated processor is the same everywhere.
pub(super) fn processor(accel: Accel) -> io::Result<String> {
    match accel {
        Accel::Kvm => cpu::identity(),
        Accel::Tcg => Ok("emulated".into()),
    }
}

/// Length and checksum of a file that is small.
pub(super) fn sum(path: &Path) -> io::Result<(u64, String)> {
    let content = fs::read(path)?;
    Ok((content.len() as u64, cpu::hex(&Sha256::digest(&content))))
}

/// Reads the manifest and compares it with what is to run, and with the files beside it. Blocking.
pub(super) fn check(host: &Host, config: &VmConfig, snapshot: &Path) -> Result<Manifest> {
    let bad = |reason| Error::BadSnapshot { dir: snapshot.into(), reason };
    let found = read(snapshot).map_err(bad)?;
    fits(&found, host, config).map_err(bad)?;
    is_whole(&found, snapshot).map_err(bad)?;
    Ok(found)
}

fn read(snapshot: &Path) -> Result<Manifest, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let content = fs::read(snapshot.join(MANIFEST)).map_err(|error| format!("{MANIFEST}: {error}"))?;
    let Versioned { version } = serde_json::from_slice(&content).map_err(|error| format!("{MANIFEST}: {error}"))?;
    if version != VERSION {
        return Err(differs("layout", version, VERSION));
    }
    serde_json::from_slice(&content).map_err(|error| format!("{MANIFEST}: {error}"))
}

fn fits(found: &Manifest, host: &Host, config: &VmConfig) -> Result<(), String> {
    let cpu = processor(host.accel).map_err(|error| format!("this processor is not known: {error}"))?;
    let checks = [
        ("accelerator", found.accel.name().to_owned(), host.accel.name().to_owned()),
        ("processor", found.cpu.clone(), cpu),
        ("number of virtual CPUs", found.vcpus.to_string(), config.vcpus.to_string()),
        ("memory in MiB", found.memory_mb.to_string(), config.memory_mb.to_string()),
    ];
    match checks.into_iter().find(|(_, there, here)| there != here) {
        Some((what, there, here)) => Err(differs(what, there, here)),
        None => Ok(()),
    }
}

fn differs(what: &str, there: impl std::fmt::Display, here: impl std::fmt::Display) -> String {
    format!("its {what} is {there}, but here it is {here}")
}

fn is_whole(found: &Manifest, snapshot: &Path) -> Result<(), String> {
    let bytes = u64::from(found.memory_mb) << 20;
    let is_flat = |_: &_| snapshot.join(MEMORY_FILE).exists();
    let lengths = match found.memory.diff().filter(|seal| !is_flat(seal)) {
        None => vec![(MEMORY_FILE, bytes)],
        Some(seal) => vec![(BASE, bytes), (DIFF, seal.bytes)],
    };
    for (name, length) in lengths.into_iter().chain([(STATE, found.state_bytes)]) {
        let actual = fs::metadata(snapshot.join(name)).map_err(|error| format!("{name}: {error}"))?.len();
        if actual != length {
            return Err(format!("{name} has {actual} bytes instead of {length}"));
        }
    }
    let (_, actual) = sum(&snapshot.join(STATE)).map_err(|error| format!("{STATE}: {error}"))?;
    if actual != found.state_sha256 {
        return Err(format!("the checksum of {STATE} is {actual} instead of {}", found.state_sha256));
    }
    Ok(())
}

/// The stream of a QEMU can be loaded by that QEMU and by its later fixes, which do not change its form. The machine
/// `microvm` has no versions, so nobody promises more.
pub(super) fn same_release(found: &Manifest, here: &str) -> Result<(), String> {
    let release = |version: &str| version.splitn(3, '.').take(2).map(str::to_owned).collect::<Vec<_>>();
    if release(&found.qemu) == release(here) { Ok(()) } else { Err(differs("QEMU", &found.qemu, here)) }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            state_sha256: cpu::hex(&Sha256::digest(b"devices")),
            memory: Memory::Flat,
        }
    }

    fn refusal(manifest: &Manifest, state: &[u8]) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MANIFEST), serde_json::to_vec(manifest).unwrap()).unwrap();
        fs::write(dir.path().join(STATE), state).unwrap();
        fs::write(dir.path().join(MEMORY_FILE), vec![0; 1 << 20]).unwrap();
        let host = Host { program: "qemu".into(), accel: Accel::Tcg, tsc_khz: None };
        let config = VmConfig {
            dir: "/vm".into(),
            name: "vm".into(),
            vcpus: 2,
            memory_mb: 1,
            kernel: "/k".into(),
            initramfs: "/i".into(),
            kernel_args: String::new(),
            disk: Disk { path: "/d".into(), format: DiskFormat::Raw, base: None },
            net: None,
            jail: None,
        };
        match check(&host, &config, dir.path()) {
            Ok(_) => None,
            Err(Error::BadSnapshot { reason, .. }) => Some(reason),
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
        assert_eq!(of(|changed| changed.version = 1), "its layout is 1, but here it is 2");
        assert_eq!(of(|changed| changed.accel = Accel::Kvm), "its accelerator is kvm, but here it is tcg");
        assert_eq!(of(|changed| changed.cpu = "Xeon".into()), "its processor is Xeon, but here it is emulated");
        assert_eq!(of(|changed| changed.vcpus = 1), "its number of virtual CPUs is 1, but here it is 2");
        assert!(refusal(&manifest(), b"device!").unwrap().starts_with("the checksum of state is "));
        assert!(refusal(&manifest(), b"devices, more").unwrap().contains("13 bytes instead of 7"));
    }

    #[test]
    fn fixes_of_a_release_take_its_snapshots_and_other_releases_do_not() {
        assert_eq!(same_release(&manifest(), "7.2.23"), Ok(()));
        assert_eq!(same_release(&manifest(), "7.20.0").unwrap_err(), "its QEMU is 7.2.22, but here it is 7.20.0");
        assert!(same_release(&manifest(), "10.0.2").is_err());
    }
}
