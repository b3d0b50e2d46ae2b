//! Templates that were made from sandboxes on this host: a directory each, which never changes.
//! Those that are base images are in [`crate::images`].
//!
//! ```text
//!   SNAPSHOTS/sn-…/image.ext4     the disk, flat: disks of sandboxes are made over it
//!                 /memory/, …     a snapshot ([`super::format`]); no memory in a template of the disk alone
//!                 /template.json  name and source, written last; `snapshot.json` where an earlier version wrote it
//!            /.new-…              half-made; removed at the next start
//! ```
//!
//! The name is in the file and not in the path, so that another template can take it atomically: the
//! youngest has it. An older one of the same name is removed when no sandbox is made from it any
//! more.

mod pins;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use linux::file;
use linux::untrusted_dir::remove_tree;
use model::{MachineSize, SandboxId, SandboxSpec, TemplateName};
use serde::{Deserialize, Serialize};
use stdx::io::OptionalExt;

use super::format::{self, Snapshot};
use crate::disk::MIB;
use crate::file_set::Sizes;
use crate::images;
use crate::keep_alive::KeepAliveLimit;
use pins::Pins;
pub(crate) use pins::{Pin, Retiring};

const IMAGE: &str = "image.ext4";
const MANIFEST: &str = "template.json";
/// Its name in earlier versions, which is now that of the snapshot's manifest.
const FORMER_MANIFEST: &str = "snapshot.json";
const STAGING_PREFIX: &str = ".new-";
/// Templates that an error about an unknown one lists.
const LISTED: usize = 20;

/// `sn-` and 16 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TemplateId(String);

/// Description of a template on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    name: TemplateName,
    source: SandboxId,
    has_memory: bool,
    /// Milliseconds since the Unix epoch.
    published_at_ms: i64,
    /// That of the source, whose commands are in the memory. Of earlier versions it is not known.
    #[serde(default)]
    keep_alive: KeepAliveLimit,
}

/// A finished template.
#[derive(Debug, Clone)]
pub struct Template {
    pub id: TemplateId,
    pub name: TemplateName,
    /// Sandbox that it was made from.
    pub source: SandboxId,
    pub has_memory: bool,
    /// Milliseconds since the Unix epoch.
    pub published_at_ms: i64,
    /// Time for which commands in its memory may keep a sandbox in use.
    pub keep_alive: KeepAliveLimit,
    pub snapshot: Snapshot,
    pub dir: PathBuf,
}

/// Sizes of a template with memory, which its sandboxes must have.
#[derive(Debug, thiserror::Error)]
#[error(
    "snapshot {name} has {} vCPUs, {} MiB of memory and a disk of {disk_mb} MiB, and sandboxes made \
     from it have the same; for others make an image of the sandbox, without its memory",
    size.vcpus, size.memory_mb
)]
pub struct OtherSizes {
    name: TemplateName,
    size: MachineSize,
    disk_mb: u32,
}

impl Template {
    /// Returns the path of its disk.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.dir.join(IMAGE)
    }

    /// Measures the bytes that it takes on the host. Blocking.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        format::sizes(&self.dir)
    }

    /// Returns the size of its disk in MiB.
    #[must_use]
    pub fn disk_mb(&self) -> u32 {
        u32::try_from(self.snapshot.disk.size_bytes.div_ceil(MIB)).unwrap_or(u32::MAX)
    }

    /// Checks that a sandbox of this spec can be restored from its memory.
    ///
    /// # Errors
    /// The sizes that it has instead of those in the spec.
    pub fn check_sizes(&self, spec: &SandboxSpec) -> Result<(), OtherSizes> {
        let size = self.snapshot.size;
        let disk_mb = self.disk_mb();
        if spec.machine_size() == size && spec.allows_disk(disk_mb) {
            return Ok(());
        }
        Err(OtherSizes {
            name: self.name.clone(),
            size,
            disk_mb,
        })
    }
}

/// All templates of this host that were made from sandboxes. The directory is read afresh each
/// time.
#[derive(Debug)]
pub struct Templates {
    dir: PathBuf,
    pins: Pins,
}

/// Name and origin of a new template.
#[derive(Debug, Clone)]
pub(crate) struct NewTemplate {
    pub(crate) name: TemplateName,
    pub(crate) source: SandboxId,
    pub(crate) has_memory: bool,
    pub(crate) keep_alive: KeepAliveLimit,
}

impl Templates {
    /// Opens the directory, creating it if need be (mode 0700: memory of users is in there), and
    /// removes what is half-made.
    ///
    /// # Errors
    /// When it cannot be created or read.
    pub fn open(dir: &Path) -> io::Result<Self> {
        stdx::fs::create_private_dir_all(dir)?;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_string_lossy().starts_with(STAGING_PREFIX) {
                let dir = entry.path();
                tracing::warn!(dir = %dir.display(), "removing a snapshot that was never finished");
                remove_tree(&dir)?;
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            pins: Pins::default(),
        })
    }

    /// Returns the path of a directory for a new template or a fork, not created yet.
    #[must_use]
    pub fn staging_dir(&self) -> PathBuf {
        let random = stdx::random::hex::<8>();
        self.dir.join(format!("{STAGING_PREFIX}{random}"))
    }

    /// Lists all, by name; of each name the youngest.
    #[must_use]
    pub fn list_templates(&self) -> Vec<Template> {
        let mut all = self.list_with_outdated();
        all.dedup_by(|a, b| a.name == b.name);
        all
    }

    /// Returns the youngest of that name.
    #[must_use]
    pub fn find_template(&self, name: &TemplateName) -> Option<Template> {
        let all = self.list_templates();
        all.into_iter().find(|template| template.name == *name)
    }

    /// Finds the youngest of that name that is not retiring, and pins it for a new sandbox.
    pub(crate) fn find_and_pin(
        &self,
        name: &TemplateName,
        sandbox: &SandboxId,
    ) -> Option<(Template, Pin)> {
        let all = self.list_with_outdated().into_iter();
        all.filter(|template| template.name == *name)
            .find_map(|template| {
                let pin = self.pins.pin_template(&template.id, sandbox)?;
                // It may have been removed between the look-up and the pin.
                read(&template.dir).map(|template| (template, pin))
            })
    }

    /// Pins a template for a new sandbox that is a copy of one of its users; `None` if the template
    /// is retiring.
    pub(crate) fn pin_template(&self, id: &TemplateId, sandbox: &SandboxId) -> Option<Pin> {
        self.pins.pin_template(id, sandbox)
    }

    /// Keeps sandboxes from being created from a template that is about to be removed.
    ///
    /// # Errors
    /// The sandboxes that are being created from it.
    pub(crate) fn begin_retiring(&self, id: &TemplateId) -> Result<Retiring, Vec<SandboxId>> {
        self.pins.mark_retiring(id)
    }

    /// Lists all by name, with those that have lost theirs; the youngest of each first.
    pub(crate) fn list_with_outdated(&self) -> Vec<Template> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut all: Vec<Template> = entries.filter_map(|entry| read(&entry.path())).collect();
        all.sort_by(|a, b| {
            (&a.name, b.published_at_ms, &b.id).cmp(&(&b.name, a.published_at_ms, &a.id))
        });
        all
    }

    /// Returns the number of templates that were made from a sandbox, including those that have
    /// lost their name.
    pub(crate) fn count_made_from(&self, source: &SandboxId) -> usize {
        let all = self.list_with_outdated();
        all.iter()
            .filter(|template| template.source == *source)
            .count()
    }

    /// Publishes the snapshot in `staging`, whose disk is at [`Templates::image_in`] there.
    pub(crate) fn publish_template(
        &self,
        staging: &Path,
        new: NewTemplate,
    ) -> io::Result<Template> {
        fs::set_permissions(staging.join(IMAGE), fs::Permissions::from_mode(0o644))?;
        let former = self.find_template(&new.name);
        let former_ms = former.map_or(0, |former| former.published_at_ms);
        // The clock may have been set back, and the new one must be the youngest.
        let published_at_ms = stdx::time::now_ms().max(former_ms + 1);
        let manifest = Manifest {
            name: new.name,
            source: new.source,
            has_memory: new.has_memory,
            published_at_ms,
            keep_alive: new.keep_alive,
        };
        let manifest = serde_json::to_vec_pretty(&manifest)?;
        file::write_atomic(&staging.join(MANIFEST), &manifest, 0o600)?;
        let dir = self.dir.join(format!("sn-{}", stdx::random::hex::<8>()));
        format::publish_dir(staging, &dir)?;
        read(&dir).ok_or_else(|| io::Error::other("the snapshot cannot be read back"))
    }

    /// Returns the path of the flat disk of a new template.
    pub(crate) fn image_in(staging: &Path) -> PathBuf {
        staging.join(IMAGE)
    }

    /// Takes a template's name away durably. Returns its directory, which is to be removed.
    pub(crate) fn retire_template(&self, template: &Template) -> io::Result<PathBuf> {
        let retired = self.staging_dir();
        fs::rename(&template.dir, &retired)?;
        file::sync_dir(&self.dir)?;
        Ok(retired)
    }

    /// Lists templates whose name another one has, and that no sandbox in `used` is made from.
    pub(crate) fn list_outdated(&self, used: &BTreeSet<TemplateId>) -> Vec<Template> {
        let listed = self.list_templates().into_iter();
        let current: BTreeSet<TemplateId> = listed.map(|template| template.id).collect();
        let mut all = self.list_with_outdated();
        all.retain(|template| !current.contains(&template.id) && !used.contains(&template.id));
        all
    }

    /// Adds these templates to an error that lists the known ones.
    pub(crate) fn add_known(&self, error: images::Error) -> images::Error {
        match error {
            images::Error::Unknown { name, mut known } => {
                let listed = self.list_templates().into_iter().take(LISTED);
                known.extend(listed.map(|template| template.name.to_string()));
                images::Error::Unknown { name, known }
            }
            other => other,
        }
    }
}

fn read(dir: &Path) -> Option<Template> {
    let id = dir.file_name()?.to_str()?;
    if !id.starts_with("sn-") {
        return None;
    }
    let manifest = match fs::read(dir.join(MANIFEST)).optional().ok()? {
        Some(manifest) => manifest,
        None => fs::read(dir.join(FORMER_MANIFEST)).ok()?,
    };
    let manifest: Manifest = serde_json::from_slice(&manifest).ok()?;
    Some(Template {
        id: TemplateId(id.to_owned()),
        name: manifest.name,
        source: manifest.source,
        has_memory: manifest.has_memory,
        published_at_ms: manifest.published_at_ms,
        keep_alive: manifest.keep_alive,
        snapshot: Snapshot::read(dir).ok()?,
        dir: dir.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Backend, DiskRecord};

    fn publish(templates: &Templates, name: &str) -> Template {
        let staging = templates.staging_dir();
        format::create_dir(&staging).unwrap();
        let disk = DiskRecord {
            backend: Backend::Copy,
            size_bytes: 8 * MIB,
            base: None,
        };
        let size = MachineSize {
            vcpus: 1,
            memory_mb: 192,
        };
        let snapshot = Snapshot::new(size, disk, "qemu tcg", None);
        snapshot.write_manifest(&staging).unwrap();
        fs::write(Templates::image_in(&staging), b"disk").unwrap();
        let new = NewTemplate {
            name: name.parse().unwrap(),
            source: SandboxId::random(),
            has_memory: true,
            keep_alive: KeepAliveLimit::Millis(5),
        };
        templates.publish_template(&staging, new).unwrap()
    }

    #[test]
    fn youngest_of_name_has_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("snapshots");
        let name: TemplateName = "a".parse().unwrap();
        let templates = Templates::open(&dir).unwrap();
        let old = publish(&templates, "a");
        let new = publish(&templates, "a");
        publish(&templates, "b");
        assert_eq!(templates.find_template(&name).unwrap().id, new.id);
        assert_eq!(templates.list_templates().len(), 2);
        // The older one stays for its users.
        let used = BTreeSet::from([old.id.clone()]);
        assert!(templates.list_outdated(&used).is_empty());
        assert_eq!(templates.list_outdated(&BTreeSet::new())[0].id, old.id);
        let retired = templates.retire_template(&new).unwrap();
        assert_eq!(templates.find_template(&name).unwrap().id, old.id);
        assert!(retired.exists());
        Templates::open(&dir).unwrap();
        assert!(!retired.exists());
    }

    #[test]
    fn other_sizes_cannot_use_memory() {
        let dir = tempfile::tempdir().unwrap();
        let template = publish(&Templates::open(dir.path()).unwrap(), "a");
        let spec = SandboxSpec::builder().memory_mb(192);
        template.check_sizes(&spec.clone().build()).unwrap();
        let same_disk = spec.clone().disk_mb(8).build();
        template.check_sizes(&same_disk).unwrap();
        let other_memory = spec.clone().memory_mb(193).build();
        let error = template.check_sizes(&other_memory).unwrap_err().to_string();
        assert!(error.contains("192 MiB of memory"), "{error}");
        let other_disk = spec.disk_mb(9).build();
        let error = template.check_sizes(&other_disk).unwrap_err().to_string();
        assert!(error.contains("a disk of 8 MiB"), "{error}");
    }

    #[test]
    fn template_of_former_version_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let templates = Templates::open(dir.path()).unwrap();
        let template = publish(&templates, "a");
        let rename = |from, to| fs::rename(template.dir.join(from), template.dir.join(to));
        rename("snapshot.json", "instant.json").unwrap();
        let manifest = fs::read_to_string(template.dir.join("template.json")).unwrap();
        let mut manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        manifest
            .as_object_mut()
            .unwrap()
            .remove("keep_alive")
            .unwrap();
        fs::write(template.dir.join("snapshot.json"), manifest.to_string()).unwrap();
        fs::remove_file(template.dir.join("template.json")).unwrap();
        let found = templates.find_template(&template.name).unwrap();
        assert_eq!(found.id, template.id);
        assert_eq!(template.keep_alive, KeepAliveLimit::Millis(5));
        assert_eq!(found.keep_alive, KeepAliveLimit::Unlimited);
        assert_eq!(found.snapshot, template.snapshot);
    }
}
