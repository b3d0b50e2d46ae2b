//! Room on the host's disk for imports, which must not take what sandboxes need.
//!
//! An import asks for room before it writes, so that several at once do not each count the same free
//! bytes. What others write since then is seen by [`Space::wait_until_full`]: an unpacker whose size
//! is not known before it ends is stopped when only the reserve is left.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;

use super::ImportError;
use crate::disk::RESERVE;

/// Time between two looks at the free bytes while images are unpacked. The reserve is what two
/// unpackers write in it at 1 GB/s.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Room of the file system that has `dir`.
#[derive(Debug, Clone)]
pub(super) struct Space {
    dir: PathBuf,
    promised: Arc<Mutex<u64>>,
}

/// Bytes that an import may write, until it is dropped.
#[derive(Debug)]
pub(super) struct Promise {
    promised: Arc<Mutex<u64>>,
    bytes: u64,
}

impl Drop for Promise {
    fn drop(&mut self) {
        *self.promised.lock() -= self.bytes;
    }
}

impl Space {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            promised: Arc::default(),
        }
    }

    /// Returns bytes that are free, neither promised nor part of the reserve of sandboxes. Blocking.
    pub(super) fn available(&self) -> io::Result<u64> {
        self.available_beside(*self.promised.lock())
    }

    fn available_beside(&self, promised: u64) -> io::Result<u64> {
        let free = linux::file::free_bytes(&self.dir)?;
        Ok(free.saturating_sub(RESERVE.1).saturating_sub(promised))
    }

    /// Promises bytes to an import. Blocking.
    ///
    /// # Errors
    /// [`ImportError::NoRoom`].
    pub(super) fn promise(&self, bytes: u64) -> Result<Promise, ImportError> {
        let mut promised = self.promised.lock();
        if self.available_beside(*promised)? < bytes {
            return Err(ImportError::NoRoom);
        }
        *promised += bytes;
        Ok(Promise {
            promised: Arc::clone(&self.promised),
            bytes,
        })
    }

    /// Waits until only the reserve of sandboxes is free.
    pub(super) async fn wait_until_full(&self) -> ImportError {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let dir = self.dir.clone();
            let free = stdx::task::run_blocking(move || linux::file::free_bytes(&dir)).await;
            match free {
                Ok(free) if free >= RESERVE.1 => {}
                Ok(_) => return ImportError::NoRoom,
                Err(error) => return error.into(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promised_bytes_are_given_once() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new(dir.path());
        let free = space.available().unwrap();
        // Other tests write to the same disk.
        let most = free / 3 * 2;
        let promise = space.promise(most).unwrap();
        let refused = space.clone().promise(most).unwrap_err();
        assert!(matches!(refused, ImportError::NoRoom), "{refused}");
        drop(promise);
        space.promise(most).unwrap();
        assert_eq!(*space.promised.lock(), 0);
    }
}
