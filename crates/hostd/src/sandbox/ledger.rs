//! The ledger: records of this agent's sandboxes. Each has one directory, with one JSON file that
//! is replaced atomically.
//!
//! ```text
//!   SANDBOXES/sb-…/sandbox.json    the record; without it the directory is half-made and is removed
//!                 /removing.json   its last record, where that it is to be removed could not be written, for lack of room
//!                 /log.jsonl       console and events
//!                 /vm/             the VMM driver's own files
//!                 /kernel, initramfs   with which it was booted, under names that live as long as it
//!                 /paused/         its saved state ([`crate::snapshot::format`]); `paused.new` while it is written
//!                 /rollback/       a checkpoint that is about to replace disk and saved state
//!                 /checkpoints/    snapshots of it that have names ([`crate::snapshot::checkpoint`])
//!                 /root.*, base.*  the disk (`crate::disk`)
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use linux::{file, untrusted_dir};
use model::{Generation, ImageConfig, SandboxId, SandboxSpec};
use serde::{Deserialize, Serialize};

use super::state::Phase;
use crate::disk::DiskRecord;
use crate::keep_alive::KeepAliveLimit;
use crate::network::Slot;
use crate::snapshot::template::TemplateId;

/// Names of directories in that of a sandbox.
pub(crate) const PAUSED: &str = "paused";
pub(crate) const PAUSED_NEW: &str = "paused.new";
pub(crate) const ROLLBACK: &str = "rollback";
pub(crate) const CHECKPOINTS: &str = "checkpoints";

const RECORD: &str = "sandbox.json";
/// Name of a record that was renamed: its phase is [`Phase::Removing`], whatever it contains.
const REMOVING: &str = "removing.json";

/// Everything about a sandbox that must outlive the agent. Holds the guest's token: mode 0600.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub id: SandboxId,
    pub spec: SandboxSpec,
    #[serde(flatten)]
    pub phase: Phase,
    pub generation: Generation,
    /// Network slot, until the network is removed: then the number may be another sandbox's.
    pub slot: Option<Slot>,
    /// Disk of the sandbox. `None` for sandboxes of versions that had one backend only.
    #[serde(default)]
    pub disk: Option<DiskRecord>,
    /// Template that it was made from, whose files are not removed before this record.
    #[serde(default)]
    pub snapshot: Option<TemplateId>,
    /// Configuration of the image that its disk began with, as it was then: the image's own may
    /// change. `None` for images without one, and for sandboxes of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_config: Option<Box<ImageConfig>>,
    /// Access token of calls to the guest agent.
    pub token: String,
    /// Time for which background commands may keep it in use.
    #[serde(default)]
    pub keep_alive: KeepAliveLimit,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    pub started_at_ms: Option<i64>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct Error {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Directories of sandboxes, by id: no access to their records.
#[derive(Debug, Clone)]
pub struct SandboxDirs {
    root: PathBuf,
}

impl SandboxDirs {
    /// Returns the directory of all sandboxes.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the directory of a sandbox.
    #[must_use]
    pub fn sandbox_dir(&self, id: &SandboxId) -> PathBuf {
        self.root.join(id.as_str())
    }
}

/// The directory of all sandboxes.
#[derive(Debug, Clone)]
pub struct Ledger {
    dirs: SandboxDirs,
}

impl Ledger {
    /// Opens the ledger, making its directory if need be (mode 0700: disks hold what users wrote).
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let made = stdx::fs::create_private_dir_all(root);
        made.map_err(|source| Error {
            action: "make the directory",
            path: root.to_owned(),
            source,
        })?;
        Ok(Self {
            dirs: SandboxDirs {
                root: root.to_owned(),
            },
        })
    }

    /// Returns the directories of its sandboxes.
    pub(crate) fn dirs(&self) -> &SandboxDirs {
        &self.dirs
    }

    /// Returns the directory of a sandbox.
    #[must_use]
    pub fn sandbox_dir(&self, id: &SandboxId) -> PathBuf {
        self.dirs.sandbox_dir(id)
    }

    /// Writes a record so that it survives a crash, making the sandbox's directory if need be. The
    /// phase [`Phase::Removing`] can be written on a full disk, too, by a rename, since the removal
    /// frees space.
    ///
    /// # Errors
    /// When the disk is full or the file system fails; the former record stays then.
    pub fn write_record(&self, record: &Record) -> Result<(), Error> {
        match self.try_write(record) {
            Err(error) if record.phase == Phase::Removing => {
                tracing::warn!(%error, source = %error.source, "the record of a removal is renamed instead");
                self.rename(&record.id)
            }
            other => other,
        }
    }

    fn rename(&self, id: &SandboxId) -> Result<(), Error> {
        let dir = self.sandbox_dir(id);
        let renamed = match fs::rename(dir.join(RECORD), dir.join(REMOVING)) {
            // There is no record under either name: it was never written. The next run removes
            // such a directory, too.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && !dir.join(REMOVING).exists() =>
            {
                return Ok(());
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => file::sync_dir(&dir),
        };
        renamed.map_err(|source| Error {
            action: "rename",
            path: dir.join(RECORD),
            source,
        })
    }

    fn try_write(&self, record: &Record) -> Result<(), Error> {
        let dir = self.sandbox_dir(&record.id);
        let path = dir.join(RECORD);
        let write = || {
            if !dir.is_dir() {
                fs::create_dir(&dir)?;
                file::sync_dir(&self.dirs.root)?;
            }
            fail::fail_point!("ledger::write");
            file::write_atomic(&path, &serde_json::to_vec_pretty(record)?, 0o600)
        };
        write().map_err(|source| Error {
            action: "write",
            path: path.clone(),
            source,
        })
    }

    /// Removes a sandbox's directory and all that is in it. The record goes last, so that an
    /// interrupted removal is found and goes on. Idempotent.
    ///
    /// # Errors
    /// The removal that failed.
    pub fn remove(&self, id: &SandboxId) -> Result<(), Error> {
        remove_dir(&self.sandbox_dir(id))
    }

    /// Returns all records, and the directories without a readable one.
    ///
    /// # Errors
    /// When the ledger cannot be listed.
    pub fn read_records(&self) -> Result<(Vec<Record>, Vec<PathBuf>), Error> {
        let failed = |source| Error {
            action: "list",
            path: self.dirs.root.clone(),
            source,
        };
        let mut records = Vec::new();
        let mut strangers = Vec::new();
        for entry in fs::read_dir(&self.dirs.root).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            match read_record(&path) {
                Some(record) if path == self.sandbox_dir(&record.id) => records.push(record),
                // Only directories with the name of a sandbox are ours to remove.
                _ if is_ours(&path) => strangers.push(path),
                _ => {}
            }
        }
        Ok((records, strangers))
    }
}

fn is_ours(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.parse::<SandboxId>().is_ok())
}

fn read_record(dir: &Path) -> Option<Record> {
    let read = |name: &str| serde_json::from_slice::<Record>(&fs::read(dir.join(name)).ok()?).ok();
    read(RECORD).or_else(|| {
        Some(Record {
            phase: Phase::Removing,
            ..read(REMOVING)?
        })
    })
}

/// Removes a sandbox's directory, its record last.
///
/// # Errors
/// The removal that failed.
pub fn remove_dir(dir: &Path) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error {
            action: "remove",
            path,
            source,
        }
    };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed(dir))?,
    };
    for entry in entries
        .flatten()
        .filter(|entry| entry.file_name() != RECORD && entry.file_name() != REMOVING)
    {
        let path = entry.path();
        // A VMM of an earlier version may have made a tree of any depth in there.
        untrusted_dir::remove_tree(&path).map_err(failed(&path))?;
    }
    fail::fail_point!("ledger::files-removed");
    untrusted_dir::remove_tree(dir).map_err(failed(dir))
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::disk::Backend;
    use crate::sandbox::state::End;

    pub(in crate::sandbox) fn record() -> Record {
        let network = model::NetworkSpec::parse(&["*.a.com".to_owned()], &[], false).unwrap();
        let spec = SandboxSpec::builder()
            .disk_mb(8192)
            .envs(BTreeMap::from([("A".to_owned(), "b".to_owned())]))
            .network(network)
            .build();
        Record {
            id: SandboxId::random(),
            spec,
            phase: Phase::Releasing {
                end: End {
                    failed: true,
                    reason: "it broke".to_owned(),
                    cause: None,
                    refused: true,
                },
            },
            generation: Generation(7),
            slot: Slot::new(9),
            disk: Some(DiskRecord {
                backend: Backend::DeviceMapper,
                size_bytes: 1 << 30,
                base: None,
            }),
            snapshot: None,
            image_config: Some(Box::new(ImageConfig {
                user: "app".to_owned(),
                ..ImageConfig::default()
            })),
            token: "secret".to_owned(),
            keep_alive: KeepAliveLimit::Millis(5),
            created_at_ms: 1,
            started_at_ms: None,
        }
    }

    #[test]
    fn records_come_back_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&dir.path().join("sandboxes")).unwrap();
        let record = record();
        ledger.write_record(&record).unwrap();
        let (records, strangers) = ledger.read_records().unwrap();
        assert!(strangers.is_empty());
        assert_eq!(
            (&records[0].phase, records[0].generation),
            (&record.phase, record.generation)
        );
        assert_eq!(
            (records[0].disk, &records[0].spec),
            (record.disk, &record.spec)
        );
        assert_eq!(records[0].image_config, record.image_config);
        ledger.remove(&record.id).unwrap();
        ledger.remove(&record.id).unwrap();
        assert!(ledger.read_records().unwrap().0.is_empty());
    }

    #[test]
    fn a_removal_needs_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        let record = record();
        ledger.write_record(&record).unwrap();
        // Nothing can be written under the name that a new record is written under first.
        fs::create_dir(file::temporary_name(
            &ledger.sandbox_dir(&record.id).join(RECORD),
        ))
        .unwrap();
        assert!(ledger.write_record(&record).is_err());
        ledger
            .write_record(&Record {
                phase: Phase::Removing,
                ..record.clone()
            })
            .unwrap();
        let (records, strangers) = ledger.read_records().unwrap();
        assert!(strangers.is_empty());
        assert_eq!(
            (&records[0].phase, records[0].slot),
            (&Phase::Removing, record.slot)
        );
        ledger.remove(&record.id).unwrap();
        assert!(ledger.read_records().unwrap().0.is_empty());
    }

    #[test]
    fn half_made_directories_are_told_from_other_peoples() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        let half = ledger.sandbox_dir(&SandboxId::random());
        fs::create_dir(&half).unwrap();
        fs::write(half.join(RECORD), b"{ cut o").unwrap();
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        let (records, strangers) = ledger.read_records().unwrap();
        assert!(records.is_empty());
        assert_eq!(strangers, [half]);
    }
}
