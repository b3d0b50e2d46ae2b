//! Space that sandboxes, saved states and images take on this host, and what removing them would
//! free.
//!
//! Everything is read from the file system, without a guest, its actor or any lock of ours: what is
//! made or removed while a measurement runs may be in it or not. A measurement of the whole host
//! ([`measure_host`]) looks at each file once; one is enough for all who ask within
//! [`FRESH`], and only one runs at a time ([`DiskUsageCache`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::{SandboxId, TemplateName};
use stdx::io::OptionalExt;
use tokio::time::Instant;

use crate::file_set::{FileSet, Sizes};
use crate::host::Host;
use crate::operation::{OperationError, OperationKind};
use crate::sandbox::ledger::{CHECKPOINTS, PAUSED};
use crate::snapshot::checkpoint;

/// Time for which a measurement of the host counts as true.
const FRESH: Duration = Duration::from_secs(2);

/// Files of one sandbox.
#[derive(Debug, Clone, Default)]
pub struct SandboxFiles {
    /// Disk, log and what its VM uses.
    pub own: FileSet,
    pub paused: FileSet,
    pub checkpoints: Vec<FileSet>,
}

/// Files of a host, by what they belong to.
#[derive(Debug, Clone, Default)]
pub struct HostFiles {
    pub sandboxes: BTreeMap<SandboxId, SandboxFiles>,
    /// Templates made of sandboxes. Several may have had one name.
    pub snapshots: Vec<(TemplateName, FileSet)>,
    pub images: Vec<FileSet>,
    pub preboot: Vec<FileSet>,
    /// Boot files, which all sandboxes link.
    pub boot: FileSet,
}

/// Number of things of one kind, and their sizes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    pub count: usize,
    pub sizes: Sizes,
}

/// Sizes of one sandbox with all that goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SandboxSpace {
    pub total: Sizes,
    pub own: Sizes,
    pub paused: Sizes,
    pub checkpoints: Space,
}

/// Space by kind, of the whole host or of one team.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskUsageReport {
    pub sandboxes: Space,
    pub paused: Space,
    pub checkpoints: Space,
    pub snapshots: Space,
    /// Absent in that of a team, as is the next one.
    pub images: Option<Space>,
    pub preboot: Option<Space>,
    pub total: Sizes,
    pub by_sandbox: BTreeMap<SandboxId, SandboxSpace>,
}

/// What a report is about.
#[derive(Debug, Clone, Default)]
pub struct DiskUsageScope {
    pub sandboxes: BTreeSet<SandboxId>,
    pub snapshots: BTreeSet<TemplateName>,
    /// All sandboxes and snapshots count, and images and the preboot cache.
    pub whole_host: bool,
}

impl DiskUsageScope {
    fn has_sandbox(&self, id: &SandboxId) -> bool {
        self.whole_host || self.sandboxes.contains(id)
    }

    fn has_snapshot(&self, name: &TemplateName) -> bool {
        self.whole_host || self.snapshots.contains(name)
    }
}

impl SandboxFiles {
    /// Measures a sandbox's directory.
    ///
    /// # Errors
    /// The file system's error.
    pub fn measure(dir: &Path) -> io::Result<Self> {
        let saved = checkpoint::list_checkpoints(&dir.join(CHECKPOINTS));
        let checkpoints = saved.iter().map(|saved| FileSet::of_dir(&saved.dir, &[]));
        Ok(Self {
            own: FileSet::of_dir(dir, &[CHECKPOINTS, PAUSED])?,
            paused: FileSet::of_dir(&dir.join(PAUSED), &[])?,
            checkpoints: checkpoints.collect::<io::Result<_>>()?,
        })
    }

    fn all(&self) -> FileSet {
        union(self.checkpoints.iter().chain([&self.own, &self.paused]))
    }

    fn space(&self, host: &FileSet) -> SandboxSpace {
        SandboxSpace {
            total: self.all().sizes_among(host),
            own: self.own.sizes_among(host),
            paused: self.paused.sizes_among(host),
            checkpoints: space(&self.checkpoints, host),
        }
    }
}

impl HostFiles {
    /// Returns the sizes of what is in scope.
    #[must_use]
    pub fn report(&self, scope: &DiskUsageScope) -> DiskUsageReport {
        let host = self.all();
        let sandboxes = self.sandboxes.iter();
        let sandboxes: Vec<_> = sandboxes.filter(|(id, _)| scope.has_sandbox(id)).collect();
        let own = sandboxes.iter().map(|(_, files)| &files.own);
        let paused = sandboxes.iter().map(|(_, files)| &files.paused);
        let checkpoints = sandboxes.iter().flat_map(|(_, files)| &files.checkpoints);
        let snapshots = self.snapshots.iter();
        let snapshots = snapshots
            .filter(|(name, _)| scope.has_snapshot(name))
            .map(|(_, files)| files);
        let of_host: Vec<&FileSet> = if scope.whole_host {
            let shared = self.images.iter().chain(&self.preboot);
            shared.chain([&self.boot]).collect()
        } else {
            Vec::new()
        };
        let total = union(
            own.clone()
                .chain(paused.clone())
                .chain(checkpoints.clone())
                .chain(snapshots.clone())
                .chain(of_host),
        );
        let is_paused = |files: &&FileSet| !files.is_empty();
        DiskUsageReport {
            sandboxes: space(own, &host),
            paused: space(paused.filter(is_paused), &host),
            checkpoints: space(checkpoints, &host),
            snapshots: space(snapshots, &host),
            images: scope.whole_host.then(|| space(&self.images, &host)),
            preboot: scope.whole_host.then(|| space(&self.preboot, &host)),
            total: total.sizes_among(&host),
            by_sandbox: sandboxes
                .into_iter()
                .map(|(id, files)| (id.clone(), files.space(&host)))
                .collect(),
        }
    }

    fn all(&self) -> FileSet {
        let sandboxes: Vec<FileSet> = self.sandboxes.values().map(SandboxFiles::all).collect();
        let snapshots = self.snapshots.iter().map(|(_, files)| files);
        let shared = self.images.iter().chain(&self.preboot).chain([&self.boot]);
        union(sandboxes.iter().chain(snapshots).chain(shared))
    }
}

fn union<'a>(sets: impl IntoIterator<Item = &'a FileSet>) -> FileSet {
    let mut union = FileSet::default();
    sets.into_iter().for_each(|set| union.add_set(set));
    union
}

fn space<'a>(sets: impl IntoIterator<Item = &'a FileSet>, host: &FileSet) -> Space {
    let mut count = 0;
    let counted = sets.into_iter().inspect(|_| count += 1);
    let sizes = union(counted).sizes_among(host);
    Space { count, sizes }
}

/// Measures everything of a host. Blocking; takes some 10 µs for each file, and longer for disks on
/// XFS and Btrfs that are in many pieces.
///
/// # Errors
/// The file system's error.
pub fn measure_host(host: &Host) -> io::Result<HostFiles> {
    let mut files = HostFiles::default();
    let (records, _) = host.state.ledger.read_records().map_err(io::Error::other)?;
    for record in records {
        let dir = host.state.ledger.sandbox_dir(&record.id);
        let sandbox = SandboxFiles::measure(&dir)?;
        files.sandboxes.insert(record.id, sandbox);
    }
    for template in host.templates.list_with_outdated() {
        let set = FileSet::of_dir(&template.dir, &[])?;
        files.snapshots.push((template.name, set));
    }
    let images = host.images.list_images().map_err(io::Error::other)?;
    for image in images {
        // A team may have just removed it.
        let set = image
            .path
            .canonicalize()
            .and_then(|path| FileSet::of_file(&path));
        files.images.extend(set.optional()?);
    }
    for entry in subdirectories(host.resources.preboot.dir())? {
        files.preboot.push(FileSet::of_dir(&entry, &[])?);
    }
    for path in host.resources.vm.boot.paths() {
        files.boot.add_file(path)?;
    }
    Ok(files)
}

fn subdirectories(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path()));
    let paths: io::Result<Vec<PathBuf>> = paths.collect();
    paths.map(|paths| paths.into_iter().filter(|path| path.is_dir()).collect())
}

/// The last measurement of a host.
#[derive(Debug, Default)]
pub struct DiskUsageCache(tokio::sync::Mutex<Option<(Instant, Arc<HostFiles>)>>);

impl DiskUsageCache {
    /// Returns a measurement that is at most [`FRESH`] old, measuring if need be. Callers at the
    /// same time wait for one.
    ///
    /// # Errors
    /// As [`measure_host`].
    pub async fn get(&self, host: &Arc<Host>) -> Result<Arc<HostFiles>, OperationError> {
        let mut last = self.0.lock().await;
        if let Some((measured_at, files)) = &*last
            && measured_at.elapsed() < FRESH
        {
            return Ok(Arc::clone(files));
        }
        let measured = Arc::clone(host);
        let measure = move || measure_host(&measured);
        let files = Arc::new(OperationKind::Disk.run_blocking(measure).await?);
        *last = Some((Instant::now(), Arc::clone(&files)));
        Ok(files)
    }
}
