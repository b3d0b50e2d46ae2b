//! Begins a sandbox: finds its template, claims its network slot, writes its first record. Blocking.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Generation, ImageConfig, SandboxId, SandboxSpec};

use crate::boot::BootFiles;
use crate::disk::{self, Backend, DiskRecord};
use crate::host::SharedState;
use crate::images::identity::ImageIdentity;
use crate::images::{self, Images};
use crate::keep_alive::KeepAliveLimit;
use crate::operation::OperationKind;
use crate::sandbox::boot_source::BootSource;
use crate::sandbox::error::SandboxError;
use crate::sandbox::ledger::Record;
use crate::sandbox::log::Log;
use crate::sandbox::resources::SlotResources;
use crate::sandbox::state::Phase;
use crate::snapshot::template::{Pin, Template, TemplateId, Templates};

/// Origin of a new sandbox.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// The template in its spec.
    Template,
    /// A snapshot, which stays until the sandbox runs.
    Snapshot {
        dir: PathBuf,
        disk: DiskRecord,
        template: Option<TemplateId>,
        image_config: Option<Box<ImageConfig>>,
        /// That of the sandbox whose commands are in it.
        keep_alive: KeepAliveLimit,
    },
}

/// A sandbox whose first record is written.
pub(super) struct Begun {
    pub(super) record: Record,
    pub(super) source: BootSource,
    pub(super) log: Log,
    /// Keeps the template until the registry has the record.
    pub(super) pin: Option<Pin>,
}

/// Everything that sandboxes are created from.
#[derive(Debug, Clone)]
pub(super) struct Catalog {
    pub(super) images: Images,
    pub(super) templates: Arc<Templates>,
    pub(super) boot: Arc<BootFiles>,
    /// Backend of new disks.
    pub(super) backend: Backend,
}

/// Source and disk of an origin, and the template that must stay for it.
struct Found {
    source: BootSource,
    disk: DiskRecord,
    template: Option<TemplateId>,
    pin: Option<Pin>,
    image_config: Option<Box<ImageConfig>>,
    keep_alive: KeepAliveLimit,
}

/// Claims a slot and writes the first record. If the agent dies in between, the claim names a
/// sandbox without a record and is cleared at the next start.
pub(super) fn begin_sandbox(
    catalog: &Catalog,
    slots: &SlotResources,
    state: &SharedState,
    id: SandboxId,
    spec: SandboxSpec,
    origin: Origin,
) -> Result<Begun, SandboxError> {
    if state.drain.is_requested() {
        return Err(SandboxError::Draining);
    }
    let found = match origin {
        Origin::Template => find_template(catalog, &id, &spec)?,
        Origin::Snapshot {
            dir,
            disk,
            template,
            image_config,
            keep_alive,
        } => Found {
            source: BootSource::Snapshot { dir, image: None },
            disk,
            pin: template
                .as_ref()
                .and_then(|template| catalog.templates.pin_template(template, &id)),
            template,
            image_config,
            keep_alive,
        },
    };
    let claimed = slots.networks.claim(id.as_str());
    let slot = claimed.map_err(|error| OperationKind::Network.error(error))?;
    fail::fail_point!("create::slot-claimed");
    let record = Record {
        id,
        spec,
        phase: Phase::Creating,
        generation: state.generations.next(Generation::FIRST),
        slot: Some(slot),
        disk: Some(found.disk),
        snapshot: found.template,
        image_config: found.image_config,
        token: stdx::random::hex::<32>(),
        keep_alive: found.keep_alive,
        created_at_ms: stdx::time::now_ms(),
        started_at_ms: None,
    };
    if let Err(error) = state.ledger.write_record(&record) {
        let _ = slots.networks.remove(slot, record.id.as_str());
        let _ = state.ledger.remove(&record.id);
        return Err(OperationKind::Ledger.error(error).into());
    }
    fail::fail_point!("create::recorded");
    let log = Log::open(&state.ledger.sandbox_dir(&record.id));
    Ok(Begun {
        record,
        source: found.source,
        log,
        pin: found.pin,
    })
}

/// Finds the template of a spec. Templates made from sandboxes come first; none is made with the
/// name of a base image.
fn find_template(
    catalog: &Catalog,
    id: &SandboxId,
    spec: &SandboxSpec,
) -> Result<Found, SandboxError> {
    match catalog.templates.find_and_pin(&spec.template, id) {
        Some((template, pin)) => from_template(catalog, spec, template, pin),
        None => from_base_image(catalog, spec),
    }
}

fn from_template(
    catalog: &Catalog,
    spec: &SandboxSpec,
    template: Template,
    pin: Pin,
) -> Result<Found, SandboxError> {
    let image = template.image();
    check_content(catalog, &image)?;
    let base = Some(read_identity(&image)?);
    let (source, size_bytes) = if template.has_memory {
        template.check_sizes(spec)?;
        let source = BootSource::Snapshot {
            dir: template.dir,
            image: Some(image),
        };
        (source, template.snapshot.disk.size_bytes)
    } else {
        let size_bytes = disk::size_bytes(&image, spec.disk_mb).map_err(SandboxError::Disk)?;
        (BootSource::Image(image), size_bytes)
    };
    let keep_alive = match template.has_memory {
        true => template.keep_alive,
        false => KeepAliveLimit::Nothing,
    };
    Ok(Found {
        keep_alive,
        source,
        disk: DiskRecord {
            backend: catalog.backend,
            size_bytes,
            base,
        },
        template: Some(template.id),
        image_config: template.snapshot.image_config,
        pin: Some(pin),
    })
}

fn from_base_image(catalog: &Catalog, spec: &SandboxSpec) -> Result<Found, SandboxError> {
    let found = catalog.images.find_image(&spec.template);
    let image = found.map_err(|error| catalog.templates.add_known(error))?;
    check_content(catalog, &image.path)?;
    let image_config = image.read_config().map_err(images::Error::from)?;
    let size_bytes = disk::size_bytes(&image.path, spec.disk_mb).map_err(SandboxError::Disk)?;
    Ok(Found {
        keep_alive: KeepAliveLimit::Nothing,
        disk: DiskRecord {
            backend: catalog.backend,
            size_bytes,
            base: Some(read_identity(&image.path)?),
        },
        source: BootSource::Image(image.path),
        template: None,
        image_config: image_config.map(Box::new),
        pin: None,
    })
}

/// Refuses to create anything from an image or from boot files that are damaged.
fn check_content(catalog: &Catalog, image: &Path) -> Result<(), SandboxError> {
    let modules = catalog.boot.modules.as_deref();
    let boot = [
        catalog.boot.kernel.as_path(),
        catalog.boot.initramfs.as_path(),
    ];
    let mut files = boot.into_iter().chain(modules).chain([image]);
    files
        .try_for_each(|file| catalog.images.check_content(file))
        .map_err(|damaged| SandboxError::Disk(disk::Error::Image(damaged.into())))
}

fn read_identity(image: &Path) -> Result<ImageIdentity, SandboxError> {
    let identity = ImageIdentity::read(image).map_err(|error| {
        let error = OperationKind::Disk.error(error);
        error.context(format!("the image {} cannot be used", image.display()))
    })?;
    Ok(identity)
}
