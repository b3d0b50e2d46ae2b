//! Templates that were made from sandboxes on this host: a directory each, which never changes.
//!
//! ```text
//!   SNAPSHOTS/sn-…/image.ext4     the disk, flat: disks of sandboxes are made over it
//!                 /memory/, …     an instant ([`crate::sandbox`]), unless it is an image only
//!                 /snapshot.json  name and origin, written last
//!            /.new-…              half-made; removed at the next start
//! ```
//!
//! The name is in the file and not in the path, so that another snapshot can take it at one moment:
//! the youngest has it. An older one of the same name goes when no sandbox is made from it any
//! more.

mod uses;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use linux::file;
use linux::untrusted_dir::remove_tree;
use model::{SandboxId, SandboxSpec, TemplateName};
use serde::{Deserialize, Serialize};

use crate::disk::MIB;
use crate::images;
use crate::sandbox::instant::{self, Instant};
use uses::Uses;
pub(crate) use uses::{Pin, Retiring};

const IMAGE: &str = "image.ext4";
const MANIFEST: &str = "snapshot.json";
const NEW: &str = ".new-";

/// `sn-` and 16 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SnapshotId(String);

/// What is written down of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    name: TemplateName,
    source: SandboxId,
    has_memory: bool,
    /// Milliseconds since the Unix epoch.
    published_at_ms: i64,
}

/// A finished snapshot.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub id: SnapshotId,
    pub name: TemplateName,
    /// The sandbox that it was made of.
    pub source: SandboxId,
    pub has_memory: bool,
    pub published_at_ms: i64,
    pub instant: Instant,
    pub dir: PathBuf,
}

impl Snapshot {
    /// Its disk.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.dir.join(IMAGE)
    }

    /// Allocated on the host.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        instant::allocated_bytes(&self.dir)
    }

    /// Bytes of its disk, in MiB.
    #[must_use]
    pub fn disk_mb(&self) -> u32 {
        u32::try_from(self.instant.disk.size_bytes.div_ceil(MIB)).unwrap_or(u32::MAX)
    }

    /// Whether a sandbox of this spec can go on from its memory.
    ///
    /// # Errors
    /// What it has instead of what is asked.
    pub fn fits(&self, spec: &SandboxSpec) -> Result<(), String> {
        let (vcpus, memory_mb, disk_mb) =
            (self.instant.vcpus, self.instant.memory_mb, self.disk_mb());
        let same = (spec.vcpus, spec.memory_mb) == (vcpus, memory_mb);
        if same && spec.disk_mb.is_none_or(|asked| asked == disk_mb) {
            return Ok(());
        }
        Err(format!(
            "snapshot {} has {vcpus} vCPUs, {memory_mb} MiB of memory and a disk of {disk_mb} MiB, and sandboxes made \
             from it have the same; for others make an image of the sandbox, without its memory",
            self.name
        ))
    }
}

/// All snapshots of this host. The directory is read afresh each time.
#[derive(Debug)]
pub struct Snapshots {
    dir: PathBuf,
    uses: Uses,
}

impl Snapshots {
    /// Opens the directory, making it if need be (mode 0700: memory of users is in there), and
    /// removes what is half-made.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn open(dir: &Path) -> io::Result<Self> {
        stdx::fs::create_private_dir_all(dir)?;
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(NEW))
            {
                tracing::warn!(dir = %path.display(), "removing a snapshot that was never finished");
                remove_tree(&path)?;
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            uses: Uses::default(),
        })
    }

    /// A directory for a new one, not made yet.
    #[must_use]
    pub fn staging(&self) -> PathBuf {
        self.dir.join(format!("{NEW}{}", random_hex()))
    }

    /// All of them, by name; of each name the youngest.
    #[must_use]
    pub fn list(&self) -> Vec<Snapshot> {
        let mut all = self.all();
        all.dedup_by(|a, b| a.name == b.name);
        all
    }

    /// The youngest of that name.
    #[must_use]
    pub fn find(&self, name: &TemplateName) -> Option<Snapshot> {
        self.list()
            .into_iter()
            .find(|snapshot| snapshot.name == *name)
    }

    /// Finds the youngest of that name that is not on its way out, and keeps it for the sandbox
    /// that is begun from it.
    pub(crate) fn find_and_pin(
        &self,
        name: &TemplateName,
        sandbox: &SandboxId,
    ) -> Option<(Snapshot, Pin)> {
        self.all()
            .into_iter()
            .filter(|snapshot| snapshot.name == *name)
            .find_map(|snapshot| {
                let pin = self.uses.pin(&snapshot.id, sandbox)?;
                // It may have gone between the look-up and the pin.
                read(&snapshot.dir).map(|snapshot| (snapshot, pin))
            })
    }

    /// Keeps a snapshot for a sandbox that is begun from a copy of one of its users.
    pub(crate) fn pin(&self, id: &SnapshotId, sandbox: &SandboxId) -> Option<Pin> {
        self.uses.pin(id, sandbox)
    }

    /// Keeps sandboxes from being made from a snapshot that is about to go.
    ///
    /// # Errors
    /// The sandboxes that are being begun from it.
    pub(crate) fn begin_retiring(&self, snapshot: &SnapshotId) -> Result<Retiring, Vec<SandboxId>> {
        self.uses.retire(snapshot)
    }

    /// By name; the youngest of each first.
    fn all(&self) -> Vec<Snapshot> {
        let mut all: Vec<Snapshot> = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| read(&entry.path()))
            .collect();
        all.sort_by(|a, b| {
            (&a.name, b.published_at_ms, &b.id).cmp(&(&b.name, a.published_at_ms, &a.id))
        });
        all
    }

    /// Number of snapshots that were made of a sandbox, those that have lost their name too.
    pub(crate) fn count_of(&self, source: &SandboxId) -> usize {
        self.all()
            .iter()
            .filter(|snapshot| snapshot.source == *source)
            .count()
    }

    /// Makes a snapshot of the instant in the directory `staging`, whose disk is `image` in there.
    pub(crate) fn publish(&self, staging: &Path, new: New) -> io::Result<Snapshot> {
        fs::set_permissions(staging.join(IMAGE), fs::Permissions::from_mode(0o644))?;
        let before = self
            .find(&new.name)
            .map_or(0, |snapshot| snapshot.published_at_ms);
        let published_at_ms = stdx::time::now_ms().max(before + 1);
        let manifest = Manifest {
            name: new.name,
            source: new.source,
            has_memory: new.has_memory,
            published_at_ms,
        };
        file::write_atomic(
            &staging.join(MANIFEST),
            &serde_json::to_vec_pretty(&manifest)?,
            0o600,
        )?;
        let dir = self.dir.join(format!("sn-{}", random_hex()));
        instant::publish(staging, &dir)?;
        read(&dir).ok_or_else(|| io::Error::other("the snapshot cannot be read back"))
    }

    /// Where the flat disk of a new snapshot goes.
    pub(crate) fn image_in(staging: &Path) -> PathBuf {
        staging.join(IMAGE)
    }

    /// Takes a snapshot's name away at once. Its directory is to be removed.
    pub(crate) fn retire(&self, snapshot: &Snapshot) -> io::Result<PathBuf> {
        let gone = self.staging();
        fs::rename(&snapshot.dir, &gone)?;
        file::sync_dir(&self.dir)?;
        Ok(gone)
    }

    /// Those whose name another one has by now, and that no sandbox in `used` is made from.
    pub(crate) fn outdated(&self, used: &BTreeSet<SnapshotId>) -> Vec<Snapshot> {
        let current: BTreeSet<SnapshotId> = self
            .list()
            .into_iter()
            .map(|snapshot| snapshot.id)
            .collect();
        let is_outdated =
            |snapshot: &Snapshot| !current.contains(&snapshot.id) && !used.contains(&snapshot.id);
        self.all().into_iter().filter(is_outdated).collect()
    }

    /// An error about an unknown template that names ours, too.
    pub(crate) fn named_too(&self, error: images::Error) -> images::Error {
        match error {
            images::Error::Unknown { name, mut known } => {
                known.extend(
                    self.list()
                        .into_iter()
                        .map(|snapshot| snapshot.name.to_string())
                        .take(20),
                );
                images::Error::Unknown { name, known }
            }
            other => other,
        }
    }
}

/// What a snapshot is called, and of what it is.
#[derive(Debug, Clone)]
pub(crate) struct New {
    pub(crate) name: TemplateName,
    pub(crate) source: SandboxId,
    pub(crate) has_memory: bool,
}

fn read(dir: &Path) -> Option<Snapshot> {
    let id = dir.file_name()?.to_str()?;
    if !id.starts_with("sn-") {
        return None;
    }
    let manifest: Manifest = serde_json::from_slice(&fs::read(dir.join(MANIFEST)).ok()?).ok()?;
    let instant = Instant::read(dir).ok()?;
    let Manifest {
        name,
        source,
        has_memory,
        published_at_ms,
    } = manifest;
    Some(Snapshot {
        id: SnapshotId(id.to_owned()),
        name,
        source,
        has_memory,
        published_at_ms,
        instant,
        dir: dir.to_owned(),
    })
}

/// A name that nothing has yet.
pub(crate) fn random_hex() -> String {
    stdx::random::hex::<8>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Backend;
    use crate::sandbox::ledger::DiskRecord;

    fn publish(snapshots: &Snapshots, name: &str) -> Snapshot {
        let staging = snapshots.staging();
        instant::make_dir(&staging).unwrap();
        let disk = DiskRecord {
            backend: Backend::Copy,
            size_bytes: 8 * MIB,
            base: None,
        };
        Instant::new(1, 192, disk, "qemu tcg", None)
            .finish(&staging)
            .unwrap();
        fs::write(Snapshots::image_in(&staging), b"disk").unwrap();
        let new = New {
            name: name.parse().unwrap(),
            source: SandboxId::random(),
            has_memory: true,
        };
        snapshots.publish(&staging, new).unwrap()
    }

    #[test]
    fn the_youngest_of_a_name_has_it_and_the_older_one_stays_for_its_users() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(&dir.path().join("snapshots")).unwrap();
        let old = publish(&snapshots, "a");
        let new = publish(&snapshots, "a");
        publish(&snapshots, "b");
        assert_eq!(snapshots.find(&"a".parse().unwrap()).unwrap().id, new.id);
        assert_eq!(snapshots.list().len(), 2);
        assert!(
            snapshots
                .outdated(&BTreeSet::from([old.id.clone()]))
                .is_empty()
        );
        assert_eq!(snapshots.outdated(&BTreeSet::new())[0].id, old.id);
        let gone = snapshots.retire(&new).unwrap();
        assert_eq!(snapshots.find(&"a".parse().unwrap()).unwrap().id, old.id);
        assert!(gone.exists());
        Snapshots::open(&dir.path().join("snapshots")).unwrap();
        assert!(!gone.exists());
    }

    #[test]
    fn a_sandbox_with_other_sizes_cannot_go_on_from_memory() {
        let dir = tempfile::tempdir().unwrap();
        let snapshot = publish(&Snapshots::open(dir.path()).unwrap(), "a");
        let spec = |memory_mb, disk_mb| SandboxSpec {
            template: "a".parse().unwrap(),
            vcpus: 1,
            memory_mb,
            timeout_sec: 300,
            on_timeout: model::OnTimeout::Pause,
            auto_resume: true,
            disk_mb,
            envs: std::collections::BTreeMap::new(),
            public_ports: false,
            network: model::NetworkSpec::default(),
        };
        assert!(
            snapshot.fits(&spec(192, None)).is_ok() && snapshot.fits(&spec(192, Some(8))).is_ok()
        );
        assert!(
            snapshot
                .fits(&spec(193, None))
                .unwrap_err()
                .contains("192 MiB of memory")
        );
        assert!(
            snapshot
                .fits(&spec(192, Some(9)))
                .unwrap_err()
                .contains("a disk of 8 MiB")
        );
    }
}
