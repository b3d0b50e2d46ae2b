//! Boot files of all guests: an ELF kernel and an initramfs with the guest agent as `/init`.
//!
//! Both are made once for a (kernel, modules, guest agent) and kept under `DIR/HASH/`, the hash of
//! what goes in: a start that finds them unpacks nothing. The directory is made under a temporary
//! name and renamed when it is whole, so an interrupted run leaves nothing that looks finished. All
//! modules of the kernel are on a disk beside it: see [`module_disk`].

mod initramfs;
mod module_disk;
mod modules;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use linux::untrusted_dir::remove_tree;
use sha2::{Digest, Sha256};

use vmm::kernel;
pub use vmm::kernel::vmlinux;

/// Part of the hash: raise it when the way the files are made changes.
const FORMAT: &str = "3";
const KERNEL: &str = "vmlinux";
const INITRAMFS: &str = "initramfs.cpio";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {what} {path}; {hint}")]
    Read {
        what: &'static str,
        path: PathBuf,
        hint: &'static str,
        source: io::Error,
    },
    #[error("cannot use the kernel {path}")]
    Kernel {
        path: PathBuf,
        source: kernel::Error,
    },
    #[error("cannot read the kernel's modules in {dir}")]
    Modules { dir: PathBuf, source: io::Error },
    #[error("cannot write the boot files to {dir}")]
    Write { dir: PathBuf, source: io::Error },
}

/// Files that exist and are whole.
#[derive(Debug, Clone)]
pub struct BootFiles {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// Disk with all modules of the kernel. `None` where there are none, or none could be made.
    pub modules: Option<PathBuf>,
}

impl BootFiles {
    /// Returns the paths of the files.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        let both = [&self.kernel, &self.initramfs];
        both.into_iter().chain(&self.modules).map(PathBuf::as_path)
    }
}

/// Makes the boot files, or finds them made. Blocking.
///
/// # Errors
/// When the kernel or the guest agent is missing or damaged, with what to do.
pub fn prepare_boot_files(kernel: &Path, envd: &Path, cache: &Path) -> Result<BootFiles, Error> {
    let image = read(
        "the guest kernel",
        kernel,
        "get one with `make kernel`, or set AGENT_KERNEL_PATH",
        kernel,
    )?;
    let agent = read(
        "the guest agent",
        envd,
        "build it with `make build-envd`, or set AGENT_ENVD_PATH",
        envd,
    )?;
    let modules_dir = modules_dir(kernel, &image);
    let modules = match modules_dir.clone() {
        Some(dir) => modules::find_needed(&dir).map_err(|source| Error::Modules { dir, source })?,
        None => Vec::new(),
    };
    let dir = cache.join(hash(&image, &agent, &modules));
    if !dir.is_dir() {
        let elf = vmlinux(&image).map_err(|source| Error::Kernel {
            path: kernel.to_owned(),
            source,
        })?;
        make(&dir, &elf, &agent, &modules).map_err(|source| Error::Write {
            dir: dir.clone(),
            source,
        })?;
    }
    let disk = modules_dir.and_then(|from| match module_disk::prepare_disk(&from, cache) {
        Ok(disk) => Some(disk),
        Err(error) => {
            let from = from.display();
            tracing::warn!(%error, "guests get no kernel modules but those they boot with: no disk can be made of {from}");
            None
        }
    });
    remove_others(cache, &[Some(&dir), disk.as_ref()]);
    Ok(BootFiles {
        kernel: dir.join(KERNEL),
        initramfs: dir.join(INITRAMFS),
        modules: disk,
    })
}

fn read(
    what: &'static str,
    path: &Path,
    hint: &'static str,
    shown: &Path,
) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read {
        what,
        path: shown.to_owned(),
        hint,
        source,
    })
}

/// Returns the directory of the kernel's modules: beside the kernel, where `make kernel` puts them,
/// or those of the host if it has the same kernel. `None` if there is neither.
fn modules_dir(kernel: &Path, image: &[u8]) -> Option<PathBuf> {
    let version = kernel::version(image)?;
    let beside = kernel.parent()?.join("modules").join(&version);
    let candidates = [beside, Path::new("/lib/modules").join(&version)];
    candidates
        .into_iter()
        .find(|dir| dir.join("modules.dep").is_file())
}

fn hash(image: &[u8], agent: &[u8], modules: &[modules::Module]) -> String {
    let mut hasher = Sha256::new();
    let parts = [FORMAT.as_bytes(), image, agent];
    let module_parts = modules
        .iter()
        .flat_map(|module| [module.file_name.as_bytes(), &module.content]);
    for part in parts.into_iter().chain(module_parts) {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part);
    }
    hex::encode(&hasher.finalize()[..12])
}

fn make(dir: &Path, elf: &[u8], agent: &[u8], modules: &[modules::Module]) -> io::Result<()> {
    let unfinished = dir.with_extension("unfinished");
    let _ = remove_tree(&unfinished);
    fs::create_dir_all(&unfinished)?;
    fs::write(unfinished.join(KERNEL), elf)?;
    initramfs::write_archive(&unfinished.join(INITRAMFS), agent, modules)?;
    for name in [KERNEL, INITRAMFS] {
        let file = fs::File::open(unfinished.join(name))?;
        // VMMs read them, each as a user of its own; nothing in them is secret.
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.sync_all()?;
    }
    fs::rename(&unfinished, dir)?;
    linux::file::sync_dir(dir.parent().unwrap_or(dir))
}

/// Removes boot files of other kernels and agents: no VM needs them after it has started.
fn remove_others(cache: &Path, keep: &[Option<&PathBuf>]) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let path = entry.path();
        if !keep.contains(&Some(&path)) {
            // Tried again at the next start.
            let _ = remove_tree(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake_elf() -> Vec<u8> {
        let mut elf = b"\x7fELF....Linux version 6.1.0-99-cloud-amd64 (builder)".to_vec();
        elf.resize(4096, 0);
        elf
    }

    #[test]
    fn boot_files_are_renewed_with_agent() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("vmlinux");
        let envd = dir.path().join("envd");
        let cache = dir.path().join("boot");
        fs::write(&kernel, fake_elf()).unwrap();
        fs::write(&envd, b"agent one").unwrap();
        let first = prepare_boot_files(&kernel, &envd, &cache).unwrap();
        assert_eq!(
            prepare_boot_files(&kernel, &envd, &cache)
                .unwrap()
                .initramfs,
            first.initramfs
        );
        assert!(fs::read(&first.initramfs).unwrap().starts_with(b"070701"));
        fs::write(&envd, b"agent two").unwrap();
        let second = prepare_boot_files(&kernel, &envd, &cache).unwrap();
        assert_ne!(second.initramfs, first.initramfs);
        assert!(!first.initramfs.exists() && second.kernel.exists());
    }

    #[test]
    fn missing_files_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = prepare_boot_files(
            &dir.path().join("none"),
            &dir.path().join("envd"),
            dir.path(),
        )
        .unwrap_err();
        assert!(error.to_string().contains("make kernel"), "{error}");
    }
}
