//! Guests that have booted and wait to become somebody's: one instant for each shape of sandbox,
//! taken at its first boot before the guest is told who it is. Later sandboxes of that shape go on
//! from there instead of booting.
//!
//! ```text
//!   WARM/KEY/        an instant ([`crate::sandbox::instant`]); KEY is the shape's
//!       /.new-…      half-made; removed at the next start
//! ```
//!
//! Losing any of it costs a boot and nothing else. So nothing is asked of it: one that cannot be
//! restored is removed, and of many shapes those used last stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use linux::untrusted_dir::remove_tree;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::sandbox::instant::{self, Instant};

/// Shapes that are kept. Each takes as much disk as a guest takes memory to boot.
const SHAPES: usize = 8;
const NEW: &str = ".new-";

/// All that makes two guests the same before they are anybody's.
#[derive(Debug)]
pub struct BootParameters<'a> {
    pub image: &'a Path,
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    pub kernel_args: &'a str,
    pub vcpus: u32,
    pub memory_mb: u32,
    pub disk_bytes: u64,
    pub disk_backend: &'a str,
    pub engine: &'a str,
}

/// Name of a shape.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootKey(String);

impl BootParameters<'_> {
    /// # Errors
    /// When one of its files is not there.
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
            vcpus,
            memory_mb,
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

/// The guests that wait on this host.
#[derive(Debug)]
pub struct Warm {
    dir: PathBuf,
    /// Off: every sandbox boots.
    on: bool,
    /// Shapes that are being prepared.
    making: Arc<Mutex<BTreeSet<BootKey>>>,
    /// What keeps the memory of those that were used ready, by directory.
    held: Mutex<BTreeMap<PathBuf, vmm::Held>>,
}

/// The right to prepare a shape, for as long as it lives.
#[derive(Debug)]
pub struct PendingEntry {
    making: Arc<Mutex<BTreeSet<BootKey>>>,
    key: BootKey,
    /// Where, not made yet.
    pub staging: PathBuf,
}

impl Warm {
    /// Opens the directory, making it if need be, and removes what is half-made.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn open(dir: &Path, on: bool) -> io::Result<Self> {
        stdx::fs::create_private_dir_all(dir)?;
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if Instant::read(&path).is_err() {
                remove_tree(&path)?;
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            on,
            making: Arc::default(),
            held: Mutex::default(),
        })
    }

    /// The instant of a shape, if there is one.
    #[must_use]
    pub fn find(&self, key: &BootKey) -> Option<PathBuf> {
        let dir = self.dir.join(&key.0);
        (self.on && Instant::read(&dir).is_ok()).then(|| {
            // Only the order in which shapes go depends on it.
            let _ = File::open(&dir).and_then(|file| file.set_modified(SystemTime::now()));
            dir
        })
    }

    /// Asks to prepare a shape. `None` while somebody else does, or has done it.
    #[must_use]
    pub fn begin(&self, key: &BootKey) -> Option<PendingEntry> {
        if !self.on || self.find(key).is_some() {
            return None;
        }
        let is_first = self.making.lock().insert(key.clone());
        let staging = self.dir.join(format!("{NEW}{}", key.0));
        is_first.then(|| PendingEntry {
            making: Arc::clone(&self.making),
            key: key.clone(),
            staging,
        })
    }

    /// Keeps the memory of an instant ready from now on, until it is taken away or we end. Before
    /// it is first used: who comes first names what is shared.
    ///
    /// # Errors
    /// As [`vmm::Driver::hold`].
    pub fn hold(&self, dir: &Path, driver: &dyn vmm::Driver) -> Result<(), vmm::Error> {
        let lock = || self.held.lock();
        if lock().contains_key(dir) {
            return Ok(());
        }
        // Without the lock, since it asks the kernel. Of two that come at once one is dropped.
        let held = driver.hold(&dir.join(instant::MEMORY))?;
        lock().entry(dir.to_owned()).or_insert(held);
        Ok(())
    }

    /// Takes away an instant that is of no use.
    ///
    /// # Errors
    /// What keeps it.
    pub fn remove(&self, dir: &Path) -> io::Result<()> {
        self.held.lock().remove(dir);
        instant::remove(dir)
    }

    /// Publishes the instant that is finished in the staging directory of `making`. Blocking.
    ///
    /// # Errors
    /// What keeps it from its place.
    pub fn publish(&self, making: &PendingEntry) -> io::Result<()> {
        instant::publish(&making.staging, &self.dir.join(&making.key.0))?;
        self.keep_the_last_used()
    }

    fn keep_the_last_used(&self) -> io::Result<()> {
        let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if Instant::read(&path).is_ok() {
                found.push((fs::metadata(&path)?.modified()?, path));
            }
        }
        found.sort();
        let surplus = found.len().saturating_sub(SHAPES);
        found
            .iter()
            .take(surplus)
            .try_for_each(|(_, path)| self.remove(path))
    }
}

impl Drop for PendingEntry {
    fn drop(&mut self) {
        self.making.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Backend;
    use crate::sandbox::ledger::DiskRecord;

    fn key(dir: &Path, memory_mb: u32) -> BootKey {
        let file = dir.join("file");
        if !file.exists() {
            fs::write(&file, b"content").unwrap();
        }
        let shape = BootParameters {
            image: &file,
            kernel: &file,
            initramfs: &file,
            kernel_args: "quiet",
            vcpus: 1,
            memory_mb,
            disk_bytes: 1 << 30,
            disk_backend: "dm",
            engine: "qemu tcg",
        };
        shape.key().unwrap()
    }

    fn make(warm: &Warm, key: &BootKey) {
        let making = warm.begin(key).unwrap();
        instant::make_dir(&making.staging).unwrap();
        let disk = DiskRecord {
            backend: Backend::Copy,
            size_bytes: 1 << 30,
            base: None,
        };
        Instant::new(1, 192, disk, "qemu tcg", None)
            .finish(&making.staging)
            .unwrap();
        assert!(warm.begin(key).is_none(), "two at once");
        warm.publish(&making).unwrap();
    }

    #[test]
    fn a_shape_is_prepared_once_and_those_used_last_stay() {
        let dir = tempfile::tempdir().unwrap();
        let warm = Warm::open(&dir.path().join("warm"), true).unwrap();
        let keys: Vec<BootKey> = (0..)
            .map(|n| key(dir.path(), 128 + n))
            .take(SHAPES + 2)
            .collect();
        for key in &keys {
            assert!(warm.find(key).is_none());
            make(&warm, key);
            assert!(warm.find(key).is_some() && warm.begin(key).is_none());
            let _ = warm.find(&keys[0]);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(warm.find(&keys[0]).is_some() && warm.find(&keys[1]).is_none());
        assert_eq!(
            keys.iter().filter(|key| warm.find(key).is_some()).count(),
            SHAPES
        );
    }

    #[test]
    fn another_image_is_another_shape() {
        let dir = tempfile::tempdir().unwrap();
        let before = key(dir.path(), 128);
        assert_eq!(key(dir.path(), 128), before);
        fs::write(dir.path().join("new"), b"content").unwrap();
        fs::rename(dir.path().join("new"), dir.path().join("file")).unwrap();
        assert_ne!(key(dir.path(), 128), before);
    }

    #[test]
    fn what_is_half_made_or_off_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let warm = Warm::open(&dir.path().join("warm"), true).unwrap();
        let key = key(dir.path(), 128);
        fs::create_dir(&warm.begin(&key).unwrap().staging).unwrap();
        assert!(warm.find(&key).is_none());
        let again = Warm::open(&dir.path().join("warm"), true).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("warm")).unwrap().count(), 0);
        make(&again, &key);
        let off = Warm::open(&dir.path().join("warm"), false).unwrap();
        assert!(off.find(&key).is_none() && off.begin(&key).is_none());
    }
}
