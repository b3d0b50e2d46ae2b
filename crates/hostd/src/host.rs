//! What all sandboxes of a host share: engine, networks, disks, boot files, ledger, and the reports about them.

use std::path::PathBuf;

use host_rpc as rpc;
use tokio::sync::{Semaphore, broadcast, watch};
use vmm::engine::Engine;

use crate::boot::BootFiles;
use crate::config::Config;
use crate::disk::Backend;
use crate::guest::chain;
use crate::images::Images;
use crate::jail::Jails;
use crate::network::Networks;
use crate::sandbox::activity::Activity;
use crate::sandbox::actor::{blocking, next_generation};
use crate::sandbox::ledger::{Ledger, Record};

/// Reports that a slow watcher may be behind before it is sent all of them afresh.
const REPORTS_BEHIND: usize = 1024;

/// A host, ready to run sandboxes.
#[derive(Debug)]
pub struct Host {
    /// Stable over restarts.
    pub id: String,
    pub engine: Engine,
    pub backend: Backend,
    pub boot: BootFiles,
    pub images: Images,
    pub networks: Networks,
    pub jails: Jails,
    pub ledger: Ledger,
    pub max_sandboxes: usize,
    /// How many guests boot at the same time.
    pub boots: Semaphore,
    pub reports: broadcast::Sender<rpc::SandboxReport>,
    dns: String,
}

impl Host {
    /// Prepares everything that sandboxes need.
    ///
    /// # Errors
    /// The first thing that this host lacks, with what to do about it.
    pub async fn prepare(config: &Config) -> Result<Self, String> {
        let engine = {
            let wanted = config.engine.clone();
            blocking(move || vmm::engine::choose(&wanted)).await?
        };
        let ledger = Ledger::open(&config.sandboxes).map_err(|error| chain(&error))?;
        let backend = choose_disk(&engine, config).await?;
        let boot = {
            let (kernel, envd, cache) = (config.kernel.clone(), config.envd.clone(), config.dir.join("boot"));
            blocking(move || crate::boot::prepare(&kernel, &envd, &cache)).await?
        };
        let networks = {
            let owner = config.dir.clone();
            blocking(move || Networks::prepare(&owner)).await?
        };
        let jails = {
            let base = config.uid_base;
            blocking(move || Jails::prepare(base)).await?
        };
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            id: host_id(config).map_err(|error| chain(&error))?,
            engine,
            backend,
            boot,
            images: Images::new(&config.images),
            networks,
            jails,
            ledger,
            max_sandboxes: config.max_sandboxes,
            boots: Semaphore::new(cpus),
            reports: broadcast::channel(REPORTS_BEHIND).0,
            dns: config.dns.clone(),
        })
    }

    /// Where the VMM driver of a sandbox keeps its files.
    #[must_use]
    pub fn vm_dir(&self, id: &model::SandboxId) -> PathBuf {
        self.ledger.dir(id).join("vm")
    }

    /// What the guest agent reads from the kernel's command line (its boot contract).
    #[must_use]
    pub fn kernel_args(&self) -> String {
        format!("quiet wrenn.root=/dev/vda wrenn.dns={}", self.dns)
    }

    /// Tells all watchers of a change.
    pub fn report(&self, record: &Record, activity: &Activity) {
        // Nobody watching is fine: whoever comes is sent everything first.
        let _ = self.reports.send(crate::service::report(record, activity));
    }

    /// Tells all watchers that a sandbox is in use. The new generation is not written down: the next one after a
    /// restart is larger all the same.
    pub fn report_use(&self, record: &watch::Sender<Record>, activity: &Activity) {
        record.send_modify(|record| record.generation = next_generation(record.generation));
        self.report(&record.borrow().clone(), activity);
    }
}

async fn choose_disk(engine: &Engine, config: &Config) -> Result<Backend, String> {
    let dir = config.sandboxes.clone();
    let backend = blocking(move || Backend::choose(&dir)).await?;
    let images = Images::new(&config.images).list().map_err(|error| chain(&error))?;
    // Blocks can only be shared within one file system.
    let probe = match images.first() {
        Some(image) if backend == Backend::Reflink => {
            let (image, dir) = (image.path.clone(), config.sandboxes.clone());
            blocking(move || same_file_system(&image, &dir)).await?
        }
        _ => true,
    };
    let backend = if probe { backend } else { Backend::Qcow2 };
    if backend == Backend::Qcow2 && !engine.driver.supports(vmm::DiskFormat::Qcow2) {
        return Err(format!(
            "{} needs disks that share blocks: put {} on XFS or Btrfs, or set AGENT_VMM=qemu",
            engine.driver.name(),
            config.sandboxes.display()
        ));
    }
    Ok(backend)
}

fn same_file_system(a: &std::path::Path, b: &std::path::Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata(a)?.dev() == std::fs::metadata(b)?.dev())
}

/// Made once and kept.
fn host_id(config: &Config) -> std::io::Result<String> {
    let path = config.dir.join("host-id");
    match std::fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => Ok(id.trim().to_owned()),
        _ => {
            let random: [u8; 8] = rand::random();
            let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
            let id = format!("host-{id}");
            linux::file::write_atomic(&path, id.as_bytes(), 0o644)?;
            Ok(id)
        }
    }
}
