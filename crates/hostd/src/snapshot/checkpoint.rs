//! Checkpoints: snapshots that belong to one sandbox, have a name there, and are removed with it.
//!
//! ```text
//!   checkpoints/NAME           a snapshot ([`super::format`]); one that cannot be read is replaced
//!                  /automatic.json   mark of one that was not made by a user ([`super::history`])
//!              /.NAME-RANDOM   being written by one call; removed at the next start
//! ```
//!
//! A name is reserved from before its checkpoint is taken until it has its directory, so that of two
//! calls with one name the second is refused at once.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use linux::file;
use model::CheckpointName;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::format::{self, Snapshot};
use crate::file_set::Sizes;

/// Name of the file with the mark of an automatic checkpoint, beside the manifest.
const MARK: &str = "automatic.json";

/// A named snapshot of a sandbox.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub name: CheckpointName,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    pub dir: PathBuf,
    /// `None` if a user made it.
    pub automatic: Option<Automatic>,
}

impl Checkpoint {
    /// Measures the bytes that it takes on disk. Blocking.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        format::sizes(&self.dir)
    }
}

/// What is noted of an automatic checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Automatic {
    /// Grows from one to the next of a sandbox, whatever the clock does.
    pub number: u64,
    /// Point to which an undo would have gone just before.
    pub after: Option<CheckpointName>,
    /// Checkpoint that the undo went to for which it was made; `None` if the policy made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_to: Option<CheckpointName>,
}

impl Automatic {
    fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(MARK)).ok()?).ok()
    }

    /// Marks the checkpoint in `dir`, which has no name yet, durably.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        file::write_atomic(&dir.join(MARK), &serde_json::to_vec(self)?, 0o600)
    }
}

/// Names of a sandbox's checkpoints that are being written.
#[derive(Debug, Clone, Default)]
pub(crate) struct PendingNames {
    names: Arc<Mutex<BTreeSet<CheckpointName>>>,
    publishing: Arc<Mutex<()>>,
}

/// Reserves a name while this lives.
pub(crate) struct ReservedName {
    names: PendingNames,
    name: CheckpointName,
}

impl PendingNames {
    /// Reserves a name; `None` while another call has it.
    pub(crate) fn reserve_name(&self, name: &CheckpointName) -> Option<ReservedName> {
        let is_new = self.names.lock().insert(name.clone());
        is_new.then(|| ReservedName {
            names: self.clone(),
            name: name.clone(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.names.lock().len()
    }

    /// Gives the finished checkpoint in `from` its name. Its time of creation is moved behind those
    /// of all others if need be, so that the newest one is the last one also where the host's clock
    /// was set back. Blocking.
    pub(crate) fn publish(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _one_at_a_time = self.publishing.lock();
        let others = to.parent().map(list_checkpoints).unwrap_or_default();
        let mut snapshot = Snapshot::read(from)?;
        if let Some(newest) = others.last()
            && newest.created_at_ms >= snapshot.created_at_ms
        {
            snapshot.created_at_ms = newest.created_at_ms + 1;
            snapshot.write_manifest(from)?;
        }
        format::publish_dir(from, to)
    }
}

impl Drop for ReservedName {
    fn drop(&mut self) {
        self.names.names.lock().remove(&self.name);
    }
}

/// Outcome of [`prepare_dir`].
pub(crate) enum Prepared {
    Taken,
    Free {
        /// Number of checkpoints that exist.
        checkpoints: usize,
    },
}

/// Creates the directory of a sandbox's checkpoints if need be.
pub(crate) fn create_root(root: &Path) -> io::Result<()> {
    match stdx::fs::create_private_dir(root) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Creates `root` if need be, and clears the way for a checkpoint in `dir`.
pub(crate) fn prepare_dir(root: &Path, dir: &Path) -> io::Result<Prepared> {
    create_root(root)?;
    if read_checkpoint(dir).is_some() {
        return Ok(Prepared::Taken);
    }
    // An interrupted removal leaves a directory without its manifest.
    format::remove(dir)?;
    Ok(Prepared::Free {
        checkpoints: list_checkpoints(root).len(),
    })
}

/// Returns the path in which a new checkpoint is written, before it has its name.
pub(crate) fn staging_dir(root: &Path, name: &CheckpointName) -> PathBuf {
    root.join(format!(".{name}-{}", stdx::random::hex::<8>()))
}

/// Returns the path of a snapshot that gets no name: its files are opened and it is removed.
pub(crate) fn unnamed_dir(root: &Path) -> PathBuf {
    root.join(format!(".diff-{}", stdx::random::hex::<8>()))
}

/// Removes checkpoints that an earlier run of the agent did not finish.
pub(crate) fn remove_unfinished(root: &Path) -> io::Result<()> {
    let mut unfinished = entries(root);
    unfinished.retain(|path| is_staging(path));
    unfinished.iter().try_for_each(|path| format::remove(path))
}

/// Lists checkpoints, oldest first.
pub(crate) fn list_checkpoints(root: &Path) -> Vec<Checkpoint> {
    let entries = entries(root);
    let mut found: Vec<Checkpoint> = entries
        .iter()
        .filter_map(|path| read_checkpoint(path))
        .collect();
    found.sort_by_key(|checkpoint| checkpoint.created_at_ms);
    found
}

/// Reads the checkpoint in `dir`; `None` if there is no whole one.
pub(crate) fn read_checkpoint(dir: &Path) -> Option<Checkpoint> {
    let name = dir.file_name()?.to_str()?.parse().ok()?;
    let snapshot = Snapshot::read(dir).ok()?;
    Some(Checkpoint {
        name,
        created_at_ms: snapshot.created_at_ms,
        dir: dir.to_owned(),
        automatic: Automatic::read(dir),
    })
}

fn entries(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn is_staging(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Backend, DiskRecord};

    #[test]
    fn mark_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Automatic::read(dir.path()), None);
        let mark = Automatic {
            number: 7,
            after: None,
            undo_to: Some("auto-1".parse().unwrap()),
        };
        mark.write(dir.path()).unwrap();
        assert_eq!(Automatic::read(dir.path()), Some(mark));
    }

    /// As a clock does that is set back before the second one.
    #[test]
    fn later_checkpoint_is_newer() {
        let dir = tempfile::tempdir().unwrap();
        let pending = PendingNames::default();
        for (name, created_at_ms) in [("one", 2000), ("two", 1000), ("three", 1500)] {
            let staging = staging_dir(dir.path(), &name.parse().unwrap());
            format::create_dir(&staging).unwrap();
            let size = model::MachineSize {
                vcpus: 1,
                memory_mb: 64,
            };
            let disk = DiskRecord {
                backend: Backend::Copy,
                size_bytes: 1 << 20,
                base: None,
            };
            let mut snapshot = Snapshot::new(size, disk, "engine", None);
            snapshot.created_at_ms = created_at_ms;
            snapshot.write_manifest(&staging).unwrap();
            pending.publish(&staging, &dir.path().join(name)).unwrap();
        }
        let found = list_checkpoints(dir.path());
        let found: Vec<_> = found
            .iter()
            .map(|it| (it.name.as_str(), it.created_at_ms))
            .collect();
        assert_eq!(found, [("one", 2000), ("two", 2001), ("three", 2002)]);
    }
}
