//! Memory of snapshots, as one driver stores it: in layers while it is written, merged into one
//! full file where restores gain from that, and held in the page cache between restores.
//!
//! | driver | restores from | is a merge of use |
//! |---|---|---|
//! | Firecracker with a pager | layers, served page by page | yes: a full file is mapped and shared |
//! | Firecracker without | a full file only | yes: a restore would have to wait for it |
//! | QEMU | a full file, and small diffs that are copied over its mapping | unless the diff is small and its base has a checksum |
//!
//! The files are described in [`memory_files`](crate::memory_files). Everything here blocks.

use std::path::Path;

use linux::loopdev::LoopDevice;
use tokio_util::sync::CancellationToken;

use crate::Result;
use crate::files::in_file;
use crate::memory_files::{self, MEMORY};

/// Store of the memory of one driver's snapshots.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotStore(RestoresFrom);

/// Forms of memory that a driver can restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestoresFrom {
    /// Form of the driver's own.
    Opaque,
    /// Full memory file.
    FullFile,
    /// Layers, by a pager.
    Layers,
    /// Full memory file behind a loop device, with a small diff over it.
    FullFileAndSmallDiff,
}

impl SnapshotStore {
    pub(crate) fn new(restores_from: RestoresFrom) -> Self {
        Self(restores_from)
    }

    /// Returns the store of a driver that restores from full files.
    #[must_use]
    pub fn of_full_files() -> Self {
        Self(RestoresFrom::FullFile)
    }

    /// Returns the store of a driver that keeps memory in a way of its own: nothing is merged or
    /// held.
    #[must_use]
    pub fn without_merges() -> Self {
        Self(RestoresFrom::Opaque)
    }

    /// Returns true if the snapshot is restored from its files as they are, so that a restore does
    /// not have to wait for a [merge](Self::merge) that is under way.
    #[must_use]
    pub fn restores_unmerged(self, snapshot: &Path) -> bool {
        match self.0 {
            RestoresFrom::Opaque | RestoresFrom::FullFile => false,
            RestoresFrom::Layers => true,
            RestoresFrom::FullFileAndSmallDiff => memory_files::is_small_diff(snapshot),
        }
    }

    /// Returns true if restores are faster or safer after a [merge](Self::merge).
    #[must_use]
    pub fn gains_from_merge(self, snapshot: &Path) -> bool {
        match self.0 {
            RestoresFrom::Opaque => false,
            RestoresFrom::FullFile | RestoresFrom::Layers => true,
            RestoresFrom::FullFileAndSmallDiff => {
                !memory_files::is_small_diff(snapshot) || !memory_files::is_sealed(snapshot)
            }
        }
    }

    /// Merges the memory of a snapshot into one full file. Its files must not be copied nor its
    /// directory renamed at the same time; restores go on. Takes as long as a copy of all memory.
    /// Idempotent.
    ///
    /// # Errors
    /// [`Error::BadSnapshot`](crate::Error::BadSnapshot) when it is damaged,
    /// [`Error::Io`](crate::Error::Io) when a file cannot be written, or soon after `cancel`; then
    /// all is as it was.
    pub fn merge(self, snapshot: &Path, cancel: &CancellationToken) -> Result<()> {
        match self.0 {
            RestoresFrom::Opaque => Ok(()),
            _ => memory_files::merge_memory(snapshot, cancel),
        }
    }

    /// Holds the memory that restores of a snapshot share in the page cache until the result is
    /// dropped, so that the next restore finds the pages that the last one read. Drivers that map
    /// the files themselves share the cache of the file system, and need nothing.
    ///
    /// # Errors
    /// The system's error; restores are slower then, but correct.
    pub fn hold_memory(self, snapshot: &Path) -> Result<HeldMemory> {
        let device = match self.0 {
            RestoresFrom::Opaque | RestoresFrom::FullFile | RestoresFrom::Layers => None,
            RestoresFrom::FullFileAndSmallDiff => {
                let memory = snapshot.join(MEMORY);
                let device = memory.exists().then(|| memory_files::share_device(&memory));
                device
                    .transpose()
                    .map_err(in_file("keep the memory of", snapshot))?
            }
        };
        Ok(HeldMemory { _device: device })
    }
}

/// Memory that stays in the page cache; see [`SnapshotStore::hold_memory`].
#[derive(Debug)]
pub struct HeldMemory {
    _device: Option<LoopDevice>,
}
