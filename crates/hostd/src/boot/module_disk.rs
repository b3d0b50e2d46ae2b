//! The disk with all modules of a guest kernel: a read-only file that every VM has as its second
//! disk, so that a guest loads the modules that it needs (overlay, fuse, wireguard, …), and others
//! cost nothing.
//!
//! It is made once for each kernel and kept as `DIR/modules-HASH.ext4`, the hash of what tells its
//! content: an image of `/lib/modules/VERSION`, whose root is that directory. Sandboxes have a link
//! to it, which keeps it for as long as one of them or of their snapshots may need it. It is made
//! under a temporary name and renamed when it is whole.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Label of the file system, by which the guest agent finds the disk.
const LABEL: &str = "wrenn-modules";

/// Part of the hash: raise it when the way the disk is made changes.
const FORMAT: &str = "1";

/// Bytes besides the content of files: tables of the file system, and 5 % of the content for what
/// blocks leave unused.
const OVERHEAD: u64 = 8 << 20;
const OVERHEAD_PART: u64 = 20;

/// Bytes of a block, and of the inode and name of each file.
const BLOCK: u64 = 4096;
const INODE: u64 = 512;

/// Returns the path of the disk of the modules in `from` below `cache`, making it if need be.
/// Blocking: a second or two the first time.
///
/// # Errors
/// When `from` cannot be read, or the disk not be written.
pub(super) fn prepare_disk(from: &Path, cache: &Path) -> io::Result<PathBuf> {
    let content = Content::of(from)?;
    let disk = cache.join(format!("modules-{}.ext4", content.hash));
    if disk.is_file() {
        return Ok(disk);
    }
    fs::create_dir_all(cache)?;
    let unfinished = disk.with_extension("unfinished");
    let bytes =
        (content.bytes + content.bytes / OVERHEAD_PART + OVERHEAD).next_multiple_of(1 << 20);
    linux::programs::create_ext4(from, &unfinished, LABEL, bytes)?;
    let file = fs::File::open(&unfinished)?;
    // VMMs read it, each as a user of its own; nothing in it is secret.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.sync_all()?;
    fs::rename(&unfinished, &disk)?;
    linux::file::sync_dir(cache)?;
    Ok(disk)
}

/// Size and hash of a directory of modules, for the disk that is made of it. `bytes` is an
/// estimate of what its files take on the disk, without the file system's tables.
struct Content {
    bytes: u64,
    hash: String,
}

impl Content {
    /// Measures the directory. The hash covers names, modes, sizes and times only: reading the
    /// files themselves would take a second at each start.
    fn of(dir: &Path) -> io::Result<Self> {
        let mut hasher = Sha256::new();
        hasher.update(FORMAT);
        let mut bytes = 0;
        let mut open = vec![dir.to_owned()];
        while let Some(next) = open.pop() {
            let mut entries = fs::read_dir(&next)?.collect::<io::Result<Vec<_>>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let path = entry.path();
                let found = entry.metadata()?;
                bytes += INODE
                    + if found.is_file() {
                        found.len().next_multiple_of(BLOCK)
                    } else {
                        BLOCK
                    };
                let facts = format!("{} {} {}", found.mode(), found.len(), found.mtime());
                hasher.update(
                    path.strip_prefix(dir)
                        .unwrap_or(&path)
                        .as_os_str()
                        .as_encoded_bytes(),
                );
                hasher.update(facts);
                if found.is_dir() {
                    open.push(path);
                }
            }
        }
        let hash = hex::encode(&hasher.finalize()[..12]);
        Ok(Self { bytes, hash })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_is_made_once_per_content() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("6.1.0-99");
        let cache = dir.path().join("boot");
        fs::create_dir_all(from.join("kernel/fs")).unwrap();
        fs::write(from.join("modules.dep"), "kernel/fs/a.ko:\n").unwrap();
        fs::write(from.join("kernel/fs/a.ko"), vec![7; 3 << 20]).unwrap();
        let first = prepare_disk(&from, &cache).unwrap();
        let made = fs::metadata(&first).unwrap();
        assert_eq!(made.mode() & 0o777, 0o644);
        let image = fs::read(&first).unwrap();
        assert_eq!(&image[1024 + 0x78..][..LABEL.len()], LABEL.as_bytes());
        assert_eq!(prepare_disk(&from, &cache).unwrap(), first);
        assert_eq!(fs::metadata(&first).unwrap().ino(), made.ino());
        fs::write(from.join("kernel/fs/b.ko"), "new").unwrap();
        assert_ne!(prepare_disk(&from, &cache).unwrap(), first);
        assert_eq!(
            fs::read_dir(&cache).unwrap().count(),
            2,
            "nothing unfinished is left"
        );
    }
}
