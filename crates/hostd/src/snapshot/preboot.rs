//! The preboot cache: guests that have booted and have no identity yet, one snapshot for each
//! [`BootKey`], taken at the first boot before `/init`. Later sandboxes with that key are restored
//! from it instead of booting.
//!
//! ```text
//!   WARM/KEY/        a snapshot ([`super::format`])
//!       /.new-…      half-made; removed at the next start
//! ```
//!
//! Losing an entry costs a boot and nothing else: one that cannot be restored is removed, and of
//! many the most recently used stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use linux::untrusted_dir::remove_tree;
use model::MachineSize;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::format::{self, Snapshot};

/// Number of entries. Each takes as much disk as a guest takes memory to boot.
const MAX_ENTRIES: usize = 8;
const STAGING_PREFIX: &str = ".new-";

/// Parameters of a boot; two boots with equal ones lead to the same guest.
#[derive(Debug)]
pub struct BootParameters<'a> {
    pub image: &'a Path,
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    pub kernel_args: &'a str,
    pub size: MachineSize,
    pub disk_bytes: u64,
    pub disk_backend: &'a str,
    pub engine: &'a str,
}

/// Hash of [`BootParameters`]: the name of an entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootKey(String);

impl BootParameters<'_> {
    /// Returns the key. Files count by device, inode, length and time.
    ///
    /// # Errors
    /// When one of the files does not exist.
    pub fn key(&self) -> io::Result<BootKey> {
        let mut hash = Sha256::new();
        for file in [self.image, self.kernel, self.initramfs] {
            let meta = fs::metadata(file)?;
            hash.update(format!(
                "{} {} {} {} {}\n",
                meta.dev(),
                meta.ino(),
                meta.len(),
                meta.mtime(),
                meta.mtime_nsec()
            ));
        }
        let Self {
            size: MachineSize { vcpus, memory_mb },
            disk_bytes,
            disk_backend,
            engine,
            kernel_args,
            ..
        } = self;
        hash.update(format!(
            "{vcpus} {memory_mb} {disk_bytes} {disk_backend} {engine}\n{kernel_args}"
        ));
        Ok(BootKey(hex::encode(&hash.finalize()[..16])))
    }
}

/// The cache of this host.
#[derive(Debug)]
pub struct PrebootCache {
    dir: PathBuf,
    /// If false, every sandbox boots.
    is_on: bool,
    /// Entries that are being added.
    pending: Arc<Mutex<BTreeSet<BootKey>>>,
    /// Memory that is kept ready, by directory of the entry.
    held: Mutex<BTreeMap<PathBuf, vmm::HeldMemory>>,
}

/// The exclusive right to add an entry while this lives.
#[derive(Debug)]
pub struct PendingEntry {
    pending: Arc<Mutex<BTreeSet<BootKey>>>,
    key: BootKey,
    /// Directory to write the snapshot into, not created yet.
    pub staging: PathBuf,
}

impl PrebootCache {
    /// Opens the directory, creating it if need be, and removes half-made entries.
    ///
    /// # Errors
    /// When it cannot be created or read.
    pub fn open(dir: &Path, is_on: bool) -> io::Result<Self> {
        stdx::fs::create_private_dir_all(dir)?;
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if Snapshot::read(&path).is_err() {
                remove_tree(&path)?;
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            is_on,
            pending: Arc::default(),
            held: Mutex::default(),
        })
    }

    /// Returns the directory of all entries.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the directory of an entry, which counts as used now.
    #[must_use]
    pub fn find_entry(&self, key: &BootKey) -> Option<PathBuf> {
        let dir = self.dir.join(&key.0);
        (self.is_on && Snapshot::read(&dir).is_ok()).then(|| {
            // Failure affects only which entry is removed first.
            let _ = File::open(&dir).and_then(|file| file.set_modified(SystemTime::now()));
            dir
        })
    }

    /// Starts to add an entry; `None` if it exists, is being added, or the cache is off.
    #[must_use]
    pub fn begin_entry(&self, key: &BootKey) -> Option<PendingEntry> {
        if !self.is_on || !self.pending.lock().insert(key.clone()) {
            return None;
        }
        let pending = PendingEntry {
            pending: Arc::clone(&self.pending),
            key: key.clone(),
            staging: self.dir.join(format!("{STAGING_PREFIX}{}", key.0)),
        };
        // Only now: another add may have published the entry and dropped its claim in between.
        self.find_entry(key).is_none().then_some(pending)
    }

    /// Keeps the memory of an entry ready until the entry is removed or the process ends. Call it
    /// before the first restore: the first to open the memory names what is shared.
    ///
    /// # Errors
    /// As [`vmm::SnapshotStore::hold_memory`].
    pub fn hold_memory(&self, dir: &Path, store: vmm::SnapshotStore) -> Result<(), vmm::Error> {
        let lock = || self.held.lock();
        if lock().contains_key(dir) {
            return Ok(());
        }
        // Without the lock, since it calls the kernel. Of two concurrent holds one is dropped.
        let held = store.hold_memory(&dir.join(format::MEMORY))?;
        lock().entry(dir.to_owned()).or_insert(held);
        Ok(())
    }

    /// Removes an entry.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, dir: &Path) -> io::Result<()> {
        let held = self.held.lock().remove(dir);
        // Without the lock, since it closes a loop device.
        drop(held);
        format::remove(dir)
    }

    /// Publishes the snapshot that is finished in the staging directory, in place of one without a
    /// manifest. Blocking.
    ///
    /// # Errors
    /// When it cannot be renamed, or old entries cannot be removed.
    pub fn publish_entry(&self, pending: &PendingEntry) -> io::Result<()> {
        let dir = self.dir.join(&pending.key.0);
        // When this entry was begun there was none that can be found.
        self.remove(&dir)?;
        format::publish_dir(&pending.staging, &dir)?;
        self.remove_least_used()
    }

    fn remove_least_used(&self) -> io::Result<()> {
        let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if Snapshot::read(&path).is_ok() {
                found.push((fs::metadata(&path)?.modified()?, path));
            }
        }
        found.sort();
        let surplus = found.len().saturating_sub(MAX_ENTRIES);
        found
            .iter()
            .take(surplus)
            .try_for_each(|(_, path)| self.remove(path))
    }
}

impl Drop for PendingEntry {
    fn drop(&mut self) {
        self.pending.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Backend, DiskRecord};

    fn key(dir: &Path, memory_mb: u32) -> BootKey {
        let file = dir.join("file");
        if !file.exists() {
            fs::write(&file, b"content").unwrap();
        }
        let parameters = BootParameters {
            image: &file,
            kernel: &file,
            initramfs: &file,
            kernel_args: "quiet",
            size: MachineSize {
                vcpus: 1,
                memory_mb,
            },
            disk_bytes: 1 << 30,
            disk_backend: "dm",
            engine: "qemu tcg",
        };
        parameters.key().unwrap()
    }

    fn add(cache: &PrebootCache, key: &BootKey) {
        let pending = cache.begin_entry(key).unwrap();
        format::create_dir(&pending.staging).unwrap();
        let disk = DiskRecord {
            backend: Backend::Copy,
            size_bytes: 1 << 30,
            base: None,
        };
        let size = MachineSize {
            vcpus: 1,
            memory_mb: 192,
        };
        Snapshot::new(size, disk, "qemu tcg", None)
            .write_manifest(&pending.staging)
            .unwrap();
        assert!(cache.begin_entry(key).is_none(), "two at once");
        cache.publish_entry(&pending).unwrap();
    }

    #[test]
    fn recently_used_entries_stay() {
        let dir = tempfile::tempdir().unwrap();
        let cache = PrebootCache::open(&dir.path().join("warm"), true).unwrap();
        let keys: Vec<BootKey> = (0..)
            .map(|n| key(dir.path(), 128 + n))
            .take(MAX_ENTRIES + 2)
            .collect();
        for key in &keys {
            assert!(cache.find_entry(key).is_none());
            add(&cache, key);
            assert!(cache.find_entry(key).is_some() && cache.begin_entry(key).is_none());
            let _ = cache.find_entry(&keys[0]);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(cache.find_entry(&keys[0]).is_some() && cache.find_entry(&keys[1]).is_none());
        assert_eq!(
            keys.iter()
                .filter(|key| cache.find_entry(key).is_some())
                .count(),
            MAX_ENTRIES
        );
    }

    #[test]
    fn other_image_is_other_key() {
        let dir = tempfile::tempdir().unwrap();
        let before = key(dir.path(), 128);
        assert_eq!(key(dir.path(), 128), before);
        fs::write(dir.path().join("new"), b"content").unwrap();
        fs::rename(dir.path().join("new"), dir.path().join("file")).unwrap();
        assert_ne!(key(dir.path(), 128), before);
    }

    #[test]
    fn unfinished_entry_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let cache = PrebootCache::open(&dir.path().join("warm"), true).unwrap();
        let key = key(dir.path(), 128);
        fs::create_dir(&cache.begin_entry(&key).unwrap().staging).unwrap();
        assert!(cache.find_entry(&key).is_none());
        let again = PrebootCache::open(&dir.path().join("warm"), true).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("warm")).unwrap().count(), 0);
        add(&again, &key);
        let off = PrebootCache::open(&dir.path().join("warm"), false).unwrap();
        assert!(off.find_entry(&key).is_none() && off.begin_entry(&key).is_none());
    }
}
