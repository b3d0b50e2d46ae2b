//! An instant of a sandbox on disk: what a paused sandbox, a checkpoint, a snapshot and a fork are
//! made of.
//!
//! ```text
//!   DIR/memory/             what the VMM driver wrote (absent in an image)
//!      /kernel, initramfs   with which the guest was booted (links), and modules.ext4 where it has that disk
//!      /root.*, base.ext4   the disk (absent where it stays in its place: of a paused sandbox whose file system is frozen)
//!      /instant.json        an [`Instant`], written last: without it the directory is half-made and nobody uses it
//! ```
//!
//! A directory is made under a temporary name, made durable, and renamed. What is in it never
//! changes; several may share a file by links.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use linux::untrusted_dir::remove_tree;
use linux::{file, sparse};
use serde::{Deserialize, Serialize};
use stdx::io::OptionalExt;

use super::ledger::DiskRecord;

pub(crate) const MEMORY: &str = "memory";
pub(crate) const KERNEL: &str = "kernel";
pub(crate) const INITRAMFS: &str = "initramfs";
/// Disk of kernel modules; absent where the VM was booted without.
pub(crate) const MODULES: &str = "modules.ext4";
const MANIFEST: &str = "instant.json";
const VERSION: u32 = 1;

/// What an instant is of. Holds the guest's token: mode 0600.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instant {
    version: u32,
    pub vcpus: u32,
    pub memory_mb: u32,
    pub disk: DiskRecord,
    /// The VMM and what runs guest code: only the same can restore the memory.
    pub engine: String,
    /// What the guest agent in the memory wants to hear; `None` while it has not been told any.
    pub token: Option<String>,
    /// The guest's file system takes no writes until it is told to: a restored guest can be given
    /// up without a trace.
    pub frozen: bool,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: i64,
}

impl Instant {
    pub(crate) fn new(
        vcpus: u32,
        memory_mb: u32,
        disk: DiskRecord,
        engine: &str,
        token: Option<String>,
    ) -> Self {
        let (engine, created_at_ms) = (engine.to_owned(), stdx::time::now_ms());
        Self {
            version: VERSION,
            vcpus,
            memory_mb,
            disk,
            engine,
            token,
            frozen: false,
            created_at_ms,
        }
    }

    /// The instant in `dir`.
    ///
    /// # Errors
    /// `NotFound` where there is none or only half of one; `InvalidData` for one of another
    /// version.
    pub fn read(dir: &Path) -> io::Result<Self> {
        let instant: Self = serde_json::from_slice(&fs::read(dir.join(MANIFEST))?)?;
        if instant.version == VERSION {
            return Ok(instant);
        }
        let problem = format!(
            "it has version {}, and this agent knows {VERSION}",
            instant.version
        );
        Err(io::Error::new(io::ErrorKind::InvalidData, problem))
    }

    /// Makes everything that is in `dir` durable, then the instant itself.
    pub(crate) fn finish(&self, dir: &Path) -> io::Result<()> {
        sync_all(dir)?;
        fail::fail_point!("instant::synced");
        file::write_atomic(
            &dir.join(MANIFEST),
            &serde_json::to_vec_pretty(self)?,
            0o600,
        )
    }
}

/// Makes `dir`, empty and private, in place of a half-made one.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    remove(dir)?;
    stdx::fs::create_private_dir(dir)
}

/// Gives a finished directory its name, which nothing has yet.
pub(crate) fn publish(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    file::sync_dir(to.parent().unwrap_or(Path::new("/")))
}

/// Takes away an instant for good, its manifest first: what is left of it after a crash is no
/// instant. Idempotent.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    let fine = |result: io::Result<()>| result.optional().map(drop);
    if !dir.exists() {
        return Ok(());
    }
    fine(fs::remove_file(dir.join(MANIFEST)))?;
    file::sync_dir(dir)?;
    match remove_tree(dir) {
        // What a guest touched first may have been put beside its memory at this moment, which
        // happens once.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => remove_tree(dir),
        removed => removed,
    }
}

/// What the guest was booted from, in another directory: by links, or copies where the file system
/// is another one.
pub(crate) fn link_boot_files(from: &Path, to: &Path) -> io::Result<()> {
    [KERNEL, INITRAMFS]
        .iter()
        .try_for_each(|name| link(&from.join(name), &to.join(name)))?;
    if from.join(MODULES).exists() {
        link(&from.join(MODULES), &to.join(MODULES))
    } else {
        Ok(())
    }
}

/// The same memory in another instant's directory.
pub(crate) fn link_memory(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (from.join(MEMORY), to.join(MEMORY));
    stdx::fs::create_private_dir(&to)?;
    for entry in fs::read_dir(&from)? {
        let name = entry?.file_name();
        link(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}

pub(crate) fn link(from: &Path, to: &Path) -> io::Result<()> {
    let real = from.canonicalize()?;
    fs::hard_link(&real, to).or_else(|_| {
        sparse::copy(&real, to)?;
        // The VMM's user reads the kernel, and nobody but us memory: as it was.
        fs::set_permissions(to, fs::metadata(&real)?.permissions())
    })
}

/// Bytes that it takes on disk, also where others share them; but not the modules, which all
/// sandboxes share.
pub(crate) fn allocated_bytes(dir: &Path) -> u64 {
    let files = files(dir).unwrap_or_default();
    files
        .iter()
        .filter(|path| !path.ends_with(MODULES))
        .filter_map(|path| file::allocated_bytes(path).ok())
        .sum()
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

/// All files in it, but no links to elsewhere.
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

    fn instant() -> Instant {
        let disk = DiskRecord {
            backend: Backend::Copy,
            size_bytes: 1 << 20,
            base: None,
        };
        Instant::new(1, 192, disk, "qemu tcg", Some("secret".to_owned()))
    }

    #[test]
    fn only_a_finished_directory_is_an_instant() {
        let root = tempfile::tempdir().unwrap();
        let (new, dir) = (root.path().join("new"), root.path().join("dir"));
        make_dir(&new).unwrap();
        fs::create_dir(new.join(MEMORY)).unwrap();
        fs::write(new.join(MEMORY).join("state"), b"state").unwrap();
        assert_eq!(
            Instant::read(&new).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        instant().finish(&new).unwrap();
        publish(&new, &dir).unwrap();
        assert_eq!(Instant::read(&dir).unwrap(), instant_like(&dir));
        make_dir(&new).unwrap();
        link_memory(&dir, &new).unwrap();
        remove(&dir).unwrap();
        remove(&dir).unwrap();
        assert_eq!(fs::read(new.join(MEMORY).join("state")).unwrap(), b"state");
    }

    fn instant_like(dir: &Path) -> Instant {
        Instant {
            created_at_ms: Instant::read(dir).unwrap().created_at_ms,
            ..instant()
        }
    }

    #[test]
    fn another_version_is_refused_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        Instant {
            version: 99,
            ..instant()
        }
        .finish(dir.path())
        .unwrap();
        assert!(
            Instant::read(dir.path())
                .unwrap_err()
                .to_string()
                .contains("version 99")
        );
    }
}
