//! What all sandboxes of a host share: engine, networks, disks, boot files, ledger, and the reports
//! about them.

use std::path::PathBuf;
use std::sync::Arc;

use host_rpc as rpc;
use stdx::error::chain;
use tokio::sync::{broadcast, watch};
use vmm::engine::Engine;

use crate::boot::BootFiles;
use crate::config::{Config, Limits};
use crate::disk::{self, Disks};
use crate::dns::Upstream;
use crate::generations::Generations;
use crate::images::Images;
use crate::jail::Jails;
use crate::network::{GATEWAY_IP, Networks};
use crate::sandbox::Handle;
use crate::sandbox::actor::blocking;
use crate::sandbox::forks::Forks;
use crate::sandbox::ledger::{Ledger, Record};
use crate::sandbox::turns::Turns;
use crate::snapshots::Snapshots;
use crate::warm::Warm;

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
    pub snapshots: Snapshots,
    pub warm: Warm,
    pub networks: Networks,
    pub jails: Jails,
    pub ledger: Ledger,
    pub forks: Forks,
    pub generations: Arc<Generations>,
    pub limits: Limits,
    /// Who may start a VM now.
    pub turns: Turns,
    pub reports: broadcast::Sender<rpc::SandboxReport>,
    /// Whom resolvers of sandboxes ask.
    pub upstream: Arc<Upstream>,
}

/// What a host is made of: see the fields of [`Host`].
#[derive(Debug)]
pub struct Parts {
    pub id: String,
    pub engine: Engine,
    pub disks: Disks,
    pub boot: BootFiles,
    pub images: Images,
    pub snapshots: Snapshots,
    pub warm: Warm,
    pub networks: Networks,
    pub jails: Jails,
    pub ledger: Ledger,
    pub forks: Forks,
    pub generations: Generations,
}

impl Host {
    /// Prepares everything that sandboxes need.
    ///
    /// # Errors
    /// The first thing that this host lacks, with what to do about it.
    pub async fn prepare(config: &Config) -> Result<Self, String> {
        let engine = {
            let wanted = config.engine.wanted.clone();
            blocking(move || vmm::engine::choose(&wanted)).await?
        };
        let ledger = Ledger::open(&config.paths.sandboxes).map_err(|error| chain(&error))?;
        let disks = prepare_disks(&engine, config).await?;
        let boot = {
            let (kernel, envd, cache) = (
                config.paths.kernel.clone(),
                config.paths.envd.clone(),
                config.dir.join("boot"),
            );
            blocking(move || crate::boot::prepare(&kernel, &envd, &cache)).await?
        };
        let networks = {
            let (owner, settings) = (config.dir.clone(), config.network.settings.clone());
            blocking(move || Networks::prepare(&owner, &settings)).await?
        };
        let jails = {
            let (base, limits) = (config.engine.uid_base, config.disks.limits);
            blocking(move || Jails::prepare(base, limits)).await?
        };
        let snapshots = {
            let dir = config.paths.snapshots.clone();
            blocking(move || Snapshots::open(&dir)).await?
        };
        let forks = {
            let dir = config.dir.join("forks");
            blocking(move || Forks::open(&dir)).await?
        };
        let generations = {
            let path = config.dir.join("generation");
            blocking(move || Generations::open(&path, stdx::time::now_ms)).await?
        };
        let warm = {
            let (dir, on) = (config.dir.join("warm"), config.engine.preboot);
            blocking(move || Warm::open(&dir, on)).await?
        };
        let id = host_id(config).map_err(|error| chain(&error))?;
        let images = Images::new(&config.paths.images);
        let parts = Parts {
            id,
            engine,
            disks,
            boot,
            images,
            snapshots,
            warm,
            networks,
            jails,
            ledger,
            forks,
            generations,
        };
        let upstream = Upstream::of_setting(&config.network.settings.name_servers)?;
        Ok(Self::of(parts, config.limits, upstream))
    }

    /// A host of these parts, whose sandboxes' resolvers ask `upstream`. Simulations bring parts of
    /// their own.
    #[must_use]
    pub fn of(parts: Parts, limits: Limits, upstream: Arc<Upstream>) -> Self {
        let Parts {
            id,
            engine,
            disks,
            boot,
            images,
            snapshots,
            warm,
            networks,
            jails,
            ledger,
            forks,
            generations,
        } = parts;
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let reports = broadcast::channel(REPORTS_BEHIND).0;
        Self {
            id,
            engine,
            disks,
            boot,
            images,
            snapshots,
            warm,
            networks,
            jails,
            ledger,
            forks,
            generations: Arc::new(generations),
            limits,
            turns: Turns::new(cpus),
            reports,
            upstream,
        }
    }

    /// Where the VMM driver of a sandbox keeps its files.
    #[must_use]
    pub fn vm_dir(&self, id: &model::SandboxId) -> PathBuf {
        self.ledger.dir(id).join("vm")
    }

    /// The VMM and what runs guest code: memory that was saved by one can be restored by the same
    /// only.
    #[must_use]
    pub fn engine_name(&self) -> String {
        format!("{} {}", self.engine.vmm, self.engine.accel)
    }

    /// What the guest agent reads from the kernel's command line (its boot contract).
    #[must_use]
    pub fn kernel_args(&self) -> String {
        // Whomever a guest asks for names, our resolver answers.
        format!("quiet wrenn.root=/dev/vda wrenn.dns={GATEWAY_IP}")
    }

    /// Tells all watchers of a change.
    pub fn report(&self, record: &Record, handle: &Handle) {
        // Nobody watching is fine: whoever comes is sent everything first.
        let _ = self
            .reports
            .send(crate::service::report(self, record, handle));
    }

    /// Tells all watchers of what is not in the ledger: that a sandbox is in use, or stands still.
    /// The new generation is not written into the record; [`Generations`] has later ones above it
    /// all the same.
    pub fn report_use(&self, record: &watch::Sender<Record>, handle: &Handle) {
        record.send_modify(|record| record.generation = self.generations.next(record.generation));
        self.report(&record.borrow().clone(), handle);
    }
}

async fn prepare_disks(engine: &Engine, config: &Config) -> Result<Disks, String> {
    let images = Images::new(&config.paths.images)
        .list()
        .map_err(|error| chain(&error))?;
    let image = images.into_iter().next().map(|image| image.path);
    let (choice, dir) = (config.disks.backend, config.paths.sandboxes.clone());
    // That of no slot, since these begin with 1.
    let reader = config.engine.uid_base;
    let qcow2 = engine.driver.supports(vmm::DiskFormat::Qcow2);
    blocking(move || {
        let chosen = disk::choose(choice, &dir, image.as_deref(), qcow2)?;
        Disks::new(&dir, chosen).map(|disks| disks.with_reader(reader))
    })
    .await
}

/// Made once and kept.
fn host_id(config: &Config) -> std::io::Result<String> {
    let path = config.dir.join("host-id");
    match std::fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => Ok(id.trim().to_owned()),
        _ => {
            let id = format!("host-{}", stdx::random::hex::<8>());
            linux::file::write_atomic(&path, id.as_bytes(), 0o644)?;
            Ok(id)
        }
    }
}
