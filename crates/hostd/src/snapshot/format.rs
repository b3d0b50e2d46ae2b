//! A snapshot: a directory with the saved state of a sandbox at one moment. Paused sandboxes,
//! checkpoints, templates with memory, forks and the preboot cache are made of it.
//!
//! ```text
//!   DIR/memory/             what the VMM driver wrote (absent in a template without memory)
//!      /kernel, initramfs   with which the guest was booted (links), and modules.ext4 where it has that disk
//!      /root.*, base.ext4   the disk (absent where it stays in its place: of a paused sandbox whose file system is frozen)
//!      /snapshot.json       a [`Snapshot`], written last: without it the directory is half-made and is not used;
//!                           `instant.json` where an earlier version wrote it
//! ```
//!
//! A directory is made under a temporary name, made durable, and renamed. What is in it never
//! changes; several may share a file by links.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use linux::untrusted_dir::remove_tree;
use linux::{file, sparse};
use model::{ImageConfig, MachineSize};
use serde::{Deserialize, Serialize};
use stdx::io::OptionalExt;

use crate::disk::DiskRecord;
use crate::file_set::{FileSet, Sizes};

pub(crate) const MEMORY: &str = "memory";
/// Kernel that the VM was booted with, in the directories of sandboxes and snapshots.
pub const KERNEL: &str = "kernel";
/// Initramfs that the VM was booted with.
pub const INITRAMFS: &str = "initramfs";
/// Disk of kernel modules; absent where the VM was booted without.
pub const MODULES: &str = "modules.ext4";
const MANIFEST: &str = "snapshot.json";
/// Its name in earlier versions. Where it is, `snapshot.json` is the description of a template
/// ([`super::template`]).
const FORMER_MANIFEST: &str = "instant.json";
const VERSION: u32 = 1;

/// Description of a snapshot. Holds the guest's token: mode 0600.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    version: u32,
    #[serde(flatten)]
    pub size: MachineSize,
    pub disk: DiskRecord,
    /// The VMM and what runs guest code: only the same can restore the memory.
    pub engine: String,
    /// Access token of the guest agent in the memory; `None` before its first `/init`.
    pub token: Option<String>,
    /// The guest's file system takes no writes until it is thawed: a restored guest can be discarded
    /// without a trace.
    pub frozen: bool,
    /// Configuration of the image that its disk began with; `None` for images without one, and from
    /// earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_config: Option<Box<ImageConfig>>,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: i64,
}

impl Snapshot {
    pub(crate) fn new(
        size: MachineSize,
        disk: DiskRecord,
        engine: &str,
        token: Option<String>,
    ) -> Self {
        let engine = engine.to_owned();
        let created_at_ms = stdx::time::now_ms();
        Self {
            version: VERSION,
            size,
            disk,
            engine,
            token,
            frozen: false,
            image_config: None,
            created_at_ms,
        }
    }

    /// Reads the snapshot in `dir`.
    ///
    /// # Errors
    /// `NotFound` where there is none or only half of one; `InvalidData` for one of another
    /// version.
    pub fn read(dir: &Path) -> io::Result<Self> {
        let manifest = match fs::read(dir.join(FORMER_MANIFEST)).optional()? {
            Some(manifest) => manifest,
            None => fs::read(dir.join(MANIFEST))?,
        };
        let snapshot: Self = serde_json::from_slice(&manifest)?;
        if snapshot.version == VERSION {
            return Ok(snapshot);
        }
        let problem = format!(
            "it has version {}, and this agent knows {VERSION}",
            snapshot.version
        );
        Err(io::Error::new(io::ErrorKind::InvalidData, problem))
    }

    /// Makes everything in `dir` durable, then writes the manifest.
    pub(crate) fn write_manifest(&self, dir: &Path) -> io::Result<()> {
        sync_all(dir)?;
        fail::fail_point!("snapshot::synced");
        file::write_atomic(
            &dir.join(MANIFEST),
            &serde_json::to_vec_pretty(self)?,
            0o600,
        )
    }
}

/// Creates `dir`, empty and private, in place of a half-made one.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    remove(dir)?;
    stdx::fs::create_private_dir(dir)
}

/// Renames a finished directory durably; nothing has the new name yet.
pub(crate) fn publish_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    file::sync_dir(to.parent().unwrap_or(Path::new("/")))
}

/// Removes a snapshot, its manifest first: what remains after a crash is no snapshot. Idempotent,
/// also beside another removal.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    match remove_existing(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !dir.exists() => Ok(()),
        removed => removed,
    }
}

fn remove_existing(dir: &Path) -> io::Result<()> {
    for manifest in [FORMER_MANIFEST, MANIFEST] {
        stdx::fs::remove_file_if_exists(dir.join(manifest))?;
    }
    file::sync_dir(dir)?;
    match remove_tree(dir) {
        // The pager may have written the working set beside the memory at this moment, which it does
        // once.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => remove_tree(dir),
        removed => removed,
    }
}

/// Links kernel, initramfs and modules into another directory, or copies them where that is on
/// another file system.
pub(crate) fn link_boot_files(from: &Path, to: &Path) -> io::Result<()> {
    [KERNEL, INITRAMFS]
        .iter()
        .try_for_each(|name| link_or_copy(&from.join(name), &to.join(name)))?;
    if from.join(MODULES).exists() {
        link_or_copy(&from.join(MODULES), &to.join(MODULES))
    } else {
        Ok(())
    }
}

/// Removes kernel, initramfs and modules from a directory. Idempotent.
pub(crate) fn remove_boot_files(dir: &Path) -> io::Result<()> {
    [KERNEL, INITRAMFS, MODULES]
        .iter()
        .try_for_each(|name| stdx::fs::remove_file_if_exists(dir.join(name)))
}

/// Links the memory into another snapshot's directory.
pub(crate) fn link_memory(from: &Path, to: &Path) -> io::Result<()> {
    let from = from.join(MEMORY);
    let to = to.join(MEMORY);
    stdx::fs::create_private_dir(&to)?;
    for entry in fs::read_dir(&from)? {
        let name = entry?.file_name();
        link_or_copy(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}

/// Links a file, or copies it with its mode where `to` is on another file system.
pub(crate) fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    let real = from.canonicalize()?;
    fs::hard_link(&real, to).or_else(|_| {
        sparse::copy(&real, to)?;
        // Same mode: the VMM's user must be able to read the kernel, and only root the memory.
        fs::set_permissions(to, fs::metadata(&real)?.permissions())
    })
}

/// Returns the bytes that a snapshot takes on disk. All sandboxes share the modules, which do not
/// count as allocated.
pub(crate) fn sizes(dir: &Path) -> Sizes {
    let measure = |without: &[&str]| FileSet::of_dir(dir, without).unwrap_or_default().sizes();
    Sizes {
        allocated: measure(&[MODULES]).allocated,
        exclusive: measure(&[]).exclusive,
    }
}

fn sync_all(dir: &Path) -> io::Result<()> {
    for path in files(dir)? {
        File::open(path)?.sync_all()?;
    }
    if dir.join(MEMORY).is_dir() {
        file::sync_dir(&dir.join(MEMORY))?;
    }
    file::sync_dir(dir)
}

/// Lists all files below `dir`, but no symbolic links.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            found.extend(files(&entry.path())?);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Backend;

    fn snapshot() -> Snapshot {
        let disk = DiskRecord {
            backend: Backend::Copy,
            size_bytes: 1 << 20,
            base: None,
        };
        let size = MachineSize {
            vcpus: 1,
            memory_mb: 192,
        };
        Snapshot::new(size, disk, "qemu tcg", Some("secret".to_owned()))
    }

    #[test]
    fn unfinished_directory_is_no_snapshot() {
        let root = tempfile::tempdir().unwrap();
        let new = root.path().join("new");
        let dir = root.path().join("dir");
        create_dir(&new).unwrap();
        fs::create_dir(new.join(MEMORY)).unwrap();
        fs::write(new.join(MEMORY).join("state"), b"state").unwrap();
        let error = Snapshot::read(&new).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let written = snapshot();
        written.write_manifest(&new).unwrap();
        publish_dir(&new, &dir).unwrap();
        assert_eq!(Snapshot::read(&dir).unwrap(), written);
        create_dir(&new).unwrap();
        link_memory(&dir, &new).unwrap();
        remove(&dir).unwrap();
        remove(&dir).unwrap();
        assert_eq!(fs::read(new.join(MEMORY).join("state")).unwrap(), b"state");
    }

    #[test]
    fn other_version_is_refused_with_reason() {
        let dir = tempfile::tempdir().unwrap();
        let other = Snapshot {
            version: 99,
            ..snapshot()
        };
        other.write_manifest(dir.path()).unwrap();
        let error = Snapshot::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("version 99"), "{error}");
    }

    #[test]
    fn manifest_without_image_config_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut written = snapshot();
        written.image_config = Some(Box::new(ImageConfig {
            user: "app".to_owned(),
            ..ImageConfig::default()
        }));
        let mut manifest = serde_json::to_value(&written).unwrap();
        let path = dir.path().join(MANIFEST);
        fs::write(&path, manifest.to_string()).unwrap();
        assert_eq!(Snapshot::read(dir.path()).unwrap(), written);
        // As versions before wrote it.
        manifest.as_object_mut().unwrap().remove("image_config");
        fs::write(&path, manifest.to_string()).unwrap();
        assert_eq!(Snapshot::read(dir.path()).unwrap().image_config, None);
    }

    #[test]
    fn former_manifest_name_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let written = snapshot();
        let manifest = serde_json::to_vec(&written).unwrap();
        fs::write(dir.path().join("instant.json"), manifest).unwrap();
        // As in a template of that version.
        fs::write(dir.path().join("snapshot.json"), b"{\"name\": \"a\"}").unwrap();
        assert_eq!(Snapshot::read(dir.path()).unwrap(), written);
        remove(dir.path()).unwrap();
        assert!(!dir.path().exists());
    }
}
