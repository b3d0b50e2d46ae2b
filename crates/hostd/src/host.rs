//! State that all sandboxes of a host share: engine, networks, disks, boot files, ledger, and the
//! stream of reports about them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use host_rpc as rpc;
use stdx::io::OptionalExt;
use stdx::task::run_blocking;
use tokio::sync::broadcast;
use vmm::engine::Engine;

use crate::boot::BootFiles;
use crate::config::{Config, Limits};
use crate::disk::{self, Disks, RecentUse};
use crate::egress::dns::Upstream;
use crate::generations::Generations;
use crate::guest::Guest;
use crate::images::Images;
use crate::jail::Jails;
use crate::network::{GATEWAY_IP, Networks};
use crate::operation::{OperationError, OperationKind};
use crate::sandbox::fork_notes::ForkNotes;
use crate::sandbox::ledger::{Ledger, Record};
use crate::sandbox::start_permits::StartPermits;
use crate::snapshot::preboot::PrebootCache;
use crate::snapshot::template::Templates;
use crate::start_error::StartError;

/// Reports that a slow watcher may be behind before it is sent all of them afresh.
const REPORTS_BEHIND: usize = 1024;

/// A host, ready to run sandboxes.
#[derive(Debug)]
pub struct Host {
    /// Stable over restarts.
    pub id: String,
    pub engine: Engine,
    pub disks: Disks,
    pub boot: BootFiles,
    pub images: Images,
    pub templates: Templates,
    pub preboot: PrebootCache,
    pub networks: Networks,
    pub jails: Jails,
    pub ledger: Ledger,
    pub fork_notes: ForkNotes,
    pub generations: Arc<Generations>,
    pub limits: Limits,
    pub start_permits: StartPermits,
    /// Bytes of the host's disk that each sandbox has taken lately.
    pub recent_use: RecentUse,
    pub reports: broadcast::Sender<rpc::SandboxReport>,
    /// Name servers that the resolvers of sandboxes ask.
    pub upstream: Arc<Upstream>,
}

/// Components of a host: see the fields of [`Host`].
#[derive(Debug)]
pub struct HostComponents {
    pub id: String,
    pub engine: Engine,
    pub disks: Disks,
    pub boot: BootFiles,
    pub images: Images,
    pub templates: Templates,
    pub preboot: PrebootCache,
    pub networks: Networks,
    pub jails: Jails,
    pub ledger: Ledger,
    pub fork_notes: ForkNotes,
    pub generations: Generations,
}

impl Host {
    /// Prepares everything that sandboxes need.
    ///
    /// # Errors
    /// The first thing that this host lacks.
    pub async fn prepare(config: &Config) -> Result<Self, StartError> {
        let wanted = config.engine.wanted.clone();
        let engine = run_step(move || vmm::engine::choose(&wanted)).await?;
        // Creates the directory in which the disks are tried.
        let ledger = Ledger::open(&config.paths.sandboxes)?;
        let disks = prepare_disks(&engine, config).await?;
        let boot = prepare_boot_files(config).await?;
        let owner = config.dir.clone();
        let settings = config.network.settings.clone();
        let networks = run_step(move || Networks::prepare(&owner, &settings)).await?;
        let uid_base = config.engine.uid_base;
        let disk_limits = config.disks.limits;
        let jails =
            run_step(move || Jails::prepare(uid_base, disk_limits).map_err(StartError::Jail))
                .await?;
        let templates = open_file(&config.paths.snapshots, Templates::open).await?;
        let fork_notes = open_file(&config.dir.join("forks"), ForkNotes::open).await?;
        let open = |path: &Path| Generations::open(path, stdx::time::now_ms);
        let generations = open_file(&config.dir.join("generation"), open).await?;
        let is_on = config.engine.preboot;
        let open = move |dir: &Path| PrebootCache::open(dir, is_on);
        let preboot = open_file(&config.dir.join("warm"), open).await?;
        let components = HostComponents {
            id: open_file(&config.dir.join("host-id"), load_host_id).await?,
            engine,
            disks,
            boot,
            images: Images::new(&config.paths.images).with_checksums(&config.dir),
            templates,
            preboot,
            networks,
            jails,
            ledger,
            fork_notes,
            generations,
        };
        let upstream = Upstream::from_setting(&config.network.settings.name_servers)?;
        Ok(Self::from_components(components, config.limits, upstream))
    }

    /// Returns a host of these components, whose sandboxes' resolvers ask `upstream`.
    #[must_use]
    pub fn from_components(
        components: HostComponents,
        limits: Limits,
        upstream: Arc<Upstream>,
    ) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let reports = broadcast::channel(REPORTS_BEHIND).0;
        Self {
            id: components.id,
            engine: components.engine,
            disks: components.disks,
            boot: components.boot,
            images: components.images,
            templates: components.templates,
            preboot: components.preboot,
            networks: components.networks,
            jails: components.jails,
            ledger: components.ledger,
            fork_notes: components.fork_notes,
            generations: Arc::new(components.generations),
            limits,
            start_permits: StartPermits::new(cpus),
            recent_use: RecentUse::default(),
            reports,
            upstream,
        }
    }

    /// Returns the directory in which the VMM driver of a sandbox keeps its files.
    #[must_use]
    pub fn vm_dir(&self, id: &model::SandboxId) -> PathBuf {
        self.ledger.dir(id).join("vm")
    }

    /// Returns the VMM and what runs guest code: memory that was saved by one can be restored by the
    /// same only.
    #[must_use]
    pub fn engine_name(&self) -> String {
        format!("{} {}", self.engine.vmm, self.engine.accel)
    }

    /// Returns the kernel's command line, which the guest agent reads (its boot contract).
    #[must_use]
    pub fn kernel_args(&self) -> String {
        // The resolver at the gateway answers, whatever name server a guest asks.
        format!("quiet wrenn.root=/dev/vda wrenn.dns={GATEWAY_IP}")
    }

    /// Returns a client of the guest agent of a sandbox.
    pub(crate) fn guest(&self, record: &Record) -> Guest {
        Guest::new(self.networks.guest(record.slot), &record.token)
    }

    /// Runs blocking work of the host beside the runtime.
    pub(crate) async fn run_blocking<T, E>(
        self: &Arc<Self>,
        kind: OperationKind,
        work: impl FnOnce(&Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, OperationError>
    where
        T: Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
    {
        let host = Arc::clone(self);
        kind.run_blocking(move || work(&host)).await
    }
}

/// Runs a step of the start on a thread that may block.
async fn run_step<T, E>(
    step: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, StartError>
where
    T: Send + 'static,
    E: Into<StartError>,
{
    run_blocking(move || step().map_err(Into::into)).await
}

/// Opens a file or directory of the agent on a thread that may block.
async fn open_file<T: Send + 'static>(
    path: &Path,
    open: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, StartError> {
    let path = path.to_owned();
    run_step(move || open(&path).map_err(|source| StartError::Io { path, source })).await
}

async fn prepare_boot_files(config: &Config) -> Result<BootFiles, StartError> {
    let kernel = config.paths.kernel.clone();
    let envd = config.paths.envd.clone();
    let cache = config.dir.join("boot");
    run_step(move || crate::boot::prepare(&kernel, &envd, &cache)).await
}

async fn prepare_disks(engine: &Engine, config: &Config) -> Result<Disks, StartError> {
    let images = Images::new(&config.paths.images).list()?;
    let image = images.into_iter().next().map(|image| image.path);
    let choice = config.disks.backend;
    let dir = config.paths.sandboxes.clone();
    // The user of no slot, since these begin with 1.
    let reader = config.engine.uid_base;
    let qcow2 = engine.driver.supports(vmm::DiskFormat::Qcow2);
    run_step(move || {
        let chosen = disk::choose(choice, &dir, image.as_deref(), qcow2)?;
        Disks::new(&dir, chosen).map(|disks| disks.with_reader(reader))
    })
    .await
}

/// Returns the host's id, made at the first start.
fn load_host_id(path: &Path) -> io::Result<String> {
    let stored = std::fs::read_to_string(path).optional()?;
    let stored = stored.map(|id| id.trim().to_owned());
    if let Some(id) = stored.filter(|id| !id.is_empty()) {
        return Ok(id);
    }
    let id = format!("host-{}", stdx::random::hex::<8>());
    linux::file::write_atomic(path, id.as_bytes(), 0o644)?;
    Ok(id)
}
