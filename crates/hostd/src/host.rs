//! A host: templates, the resources that sandboxes take, and the state that their tasks share. Only
//! the manager of sandboxes and the service have all of it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use host_rpc as rpc;
use registry::RegistryPolicy;
use stdx::io::OptionalExt;
use stdx::task::run_blocking;
use tokio::sync::broadcast;
use vmm::engine::Engine;

use crate::boot::BootFiles;
use crate::config::{Config, Limits};
use crate::disk::{self, Disks, RecentUse};
use crate::drain::Drain;
use crate::egress::dns::Upstream;
use crate::egress::{EgressProvider, HostEgress};
use crate::generations::Generations;
use crate::images::Images;
use crate::images::import::Imports;
use crate::jail::{Jails, SandboxJails};
use crate::network::{Networks, SandboxNetworks, Slot};
use crate::sandbox::fork_notes::ForkNotes;
use crate::sandbox::ledger::Ledger;
use crate::sandbox::resources::{DiskResources, SandboxResources, SlotResources, VmResources};
use crate::sandbox::start_permits::StartPermits;
use crate::snapshot::preboot::PrebootCache;
use crate::snapshot::template::Templates;
use crate::start_error::StartError;
use crate::stats::HostStats;

/// User of unpackers, counted from `AGENT_UID_BASE`: the first one behind those of slots.
const UNPACKER: u32 = Slot::MAX as u32 + 1;

/// Reports that a slow watcher may be behind before it is sent all of them afresh.
const REPORTS_BEHIND: usize = 1024;

/// A host, ready to run sandboxes.
#[derive(Debug)]
pub struct Host {
    /// Stable over restarts.
    pub id: String,
    pub limits: Limits,
    pub images: Images,
    pub imports: Imports,
    pub templates: Arc<Templates>,
    pub fork_notes: Arc<ForkNotes>,
    pub resources: SandboxResources,
    pub state: Arc<SharedState>,
    pub stats: HostStats,
}

/// State that the tasks of all sandboxes share.
#[derive(Debug)]
pub struct SharedState {
    pub ledger: Ledger,
    pub generations: Arc<Generations>,
    pub start_permits: StartPermits,
    /// Bytes of the host's disk that each sandbox has taken lately.
    pub recent_use: RecentUse,
    pub reports: broadcast::Sender<rpc::SandboxReport>,
    pub command_ends: broadcast::Sender<rpc::CommandsEnded>,
    pub drain: Drain,
}

/// Components of a host: see the fields of [`Host`] and of what is in it.
#[derive(Debug)]
pub struct HostComponents {
    pub id: String,
    pub engine: Engine,
    pub disks: Disks,
    pub boot: BootFiles,
    pub images: Images,
    /// User of processes that unpack images; no other process has it.
    pub unpacker: u32,
    /// Rules by which images are pulled.
    pub registries: RegistryPolicy,
    pub templates: Templates,
    pub preboot: PrebootCache,
    pub networks: Arc<dyn SandboxNetworks>,
    pub jails: Arc<dyn SandboxJails>,
    pub egress: Arc<dyn EgressProvider>,
    pub ledger: Ledger,
    pub fork_notes: ForkNotes,
    pub generations: Generations,
    pub drain: Drain,
}

/// A prepared host, with the parts that the agent keeps up beside its sandboxes.
#[derive(Debug)]
pub(crate) struct PreparedHost {
    pub(crate) host: Host,
    pub(crate) networks: Arc<Networks>,
    pub(crate) jails: Arc<Jails>,
}

impl Host {
    /// Prepares everything that sandboxes need.
    ///
    /// # Errors
    /// The first thing that this host lacks.
    pub(crate) async fn prepare(config: &Config) -> Result<PreparedHost, StartError> {
        let wanted = config.engine.wanted.clone();
        let engine = run_step(move || vmm::engine::choose(&wanted)).await?;
        let upstream = Upstream::from_setting(&config.network.settings.name_servers)?;
        // Creates the directory in which the disks are tried.
        let ledger = Ledger::open(&config.paths.sandboxes)?;
        let disks = prepare_disks(&engine, config).await?;
        let boot = prepare_boot_files(config).await?;
        let owner = config.dir.clone();
        let settings = config.network.settings.clone();
        let networks = run_step(move || Networks::prepare(&owner, &settings)).await?;
        let networks = Arc::new(networks);
        let egress = HostEgress::new(&networks, upstream);
        let uid_base = config.engine.uid_base;
        let disk_limits = config.disks.limits;
        let jails =
            run_step(move || Jails::prepare(uid_base, disk_limits).map_err(StartError::Jail))
                .await?;
        let jails = Arc::new(jails);
        let templates = open_file(&config.paths.snapshots, Templates::open).await?;
        let fork_notes = open_file(&config.dir.join("forks"), ForkNotes::open).await?;
        let open = |path: &Path| Generations::open(path, stdx::time::now_ms);
        let generations = open_file(&config.dir.join("generation"), open).await?;
        let is_on = config.engine.preboot;
        let open = move |dir: &Path| PrebootCache::open(dir, is_on);
        let preboot = open_file(&config.dir.join("warm"), open).await?;
        let images = Images::new(&config.paths.images).with_checksums(&config.dir);
        let unpacker = uid_base + UNPACKER;
        let unfinished = images.clone();
        let sweep = move || -> Result<(), StartError> {
            unfinished.remove_unfinished_imports();
            Ok(())
        };
        run_step(sweep).await?;
        let components = HostComponents {
            id: open_file(&config.dir.join("host-id"), load_host_id).await?,
            engine,
            disks,
            boot,
            images,
            unpacker,
            registries: config.registries.clone(),
            templates,
            preboot,
            networks: Arc::clone(&networks) as Arc<dyn SandboxNetworks>,
            jails: Arc::clone(&jails) as Arc<dyn SandboxJails>,
            egress: Arc::new(egress),
            ledger,
            fork_notes,
            generations,
            drain: Drain::new(&config.dir),
        };
        Ok(PreparedHost {
            host: Self::from_components(components, config.limits),
            networks,
            jails,
        })
    }

    /// Returns a host of these components.
    #[must_use]
    pub fn from_components(components: HostComponents, limits: Limits) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let ledger = components.ledger;
        let resources = SandboxResources {
            slot: SlotResources {
                networks: components.networks,
                jails: components.jails,
                egress: components.egress,
            },
            disk: DiskResources {
                disks: Arc::new(components.disks),
                dirs: ledger.dirs().clone(),
            },
            vm: VmResources {
                engine: components.engine,
                boot: Arc::new(components.boot),
                dirs: ledger.dirs().clone(),
            },
            preboot: Arc::new(components.preboot),
        };
        let state = SharedState {
            ledger,
            generations: Arc::new(components.generations),
            start_permits: StartPermits::new(cpus),
            recent_use: RecentUse::default(),
            reports: broadcast::channel(REPORTS_BEHIND).0,
            command_ends: broadcast::channel(REPORTS_BEHIND).0,
            drain: components.drain,
        };
        Self {
            id: components.id,
            limits,
            imports: Imports::new(components.images.clone(), components.unpacker, &limits)
                .with_registries(components.registries),
            images: components.images,
            templates: Arc::new(components.templates),
            fork_notes: Arc::new(components.fork_notes),
            resources,
            state: Arc::new(state),
            stats: HostStats::default(),
        }
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
    run_step(move || crate::boot::prepare_boot_files(&kernel, &envd, &cache)).await
}

async fn prepare_disks(engine: &Engine, config: &Config) -> Result<Disks, StartError> {
    let images = Images::new(&config.paths.images).list_images()?;
    let image = images.into_iter().next().map(|image| image.path);
    let choice = config.disks.backend;
    let dir = config.paths.sandboxes.clone();
    // The user of no slot, since these begin with 1.
    let reader = config.engine.uid_base;
    let qcow2 = engine.driver.supports(vmm::DiskFormat::Qcow2);
    run_step(move || {
        let chosen = disk::choose_backend(choice, &dir, image.as_deref(), qcow2)?;
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
