//! The firecracker driver: one `firecracker` per VM, spoken to over HTTP on its Unix socket.
//!
//! On disk, in the directory of a VM:
//!
//! | file | written | by |
//! |---|---|---|
//! | `memory`, or `memory.base` and others; `layers.json` | see [`memory`] | us (mode 0600; 0444 where it is mapped, in a directory of 0700) |
//! | `pager.stderr`, `working-set` | before a restore | see [`pager`] |
//! | `state` | before a restore | us (mode 0600) |
//! | `console`, `metrics` | before the start | us: pipes of Firecracker's user, that it writes to |
//! | `firecracker.log` | before the start | us, for Firecracker to write to |
//! | `stderr` | before the start | us: a pipe that is Firecracker's standard error ([`output`](crate::output)) |
//! | `out/memory.unfinished` | during a snapshot | us, for Firecracker to fill; it can make no names in `out` |
//! | `vm.json` | once the process runs | us: its identity and how it was started |
//! | `metrics.json` | once a minute | us: the newest metrics |
//!
//! In memory, in its working directory ([`run_dir`](crate::run_dir)): `disk`, a link to the disk,
//! whose name is in snapshots; `api.sock`; `pager.sock` during a restore; `state.unfinished` during
//! a snapshot.
//!
//! If this process dies before `vm.json` is there, [`adopt`](Driver::adopt) finds the Firecracker
//! by its command line and ends it; also one that has not started its guest. If it dies later, the
//! VM goes on. Console output then stays in the pipe, up to 64 KiB: Firecracker does not block on a
//! full pipe but drops new output. A guest that ends takes its Firecracker and the pipe with it;
//! [`end`] describes what can still be found out then.
//!
//! No action of a guest makes a file grow but the log. Firecracker itself limits each of its
//! messages to ten in five seconds, and the watcher frees the disk space of all but the newest.

mod adopt;
pub mod api;
mod args;
mod boot;
mod client;
mod end;
mod exited;
mod halt;
mod instance;
mod memory;
mod pipe;
mod restore;
mod snapshot;
mod start;
mod version;
mod vm;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use linux::process::Identity;
use linux::program_file::ProgramFile;
use linux::untrusted_dir::DirIdentity;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::in_file;
use crate::in_flight::{InFlightStarts, START_LIMIT};
use crate::process;
use crate::snapshot_store::RestoresFrom;
use crate::{DiskFormat, Driver, Result, SnapshotStore, Vm, VmConfig, pager, record};

pub use client::{Client, SOCKET};
pub use version::Error as VersionError;
pub(crate) use version::check;

/// Returns the driver of a Firecracker that is not checked:
/// [`engine::choose`](crate::engine::choose) checks its version and KVM. `pager` is the program
/// that serves memory in layers.
#[must_use]
pub fn driver(program: PathBuf, pager: Option<ProgramFile>) -> Arc<dyn Driver> {
    Arc::new(Firecracker::new(program, None, pager))
}

/// Record of a VM in `vm.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    identity: Identity,
    vmm: Name,
    vcpus: u32,
    memory_mb: u32,
    /// True if it has a network interface.
    net: bool,
    /// Process that serves its memory.
    #[serde(default)]
    pager: Option<Identity>,
    /// Working directory, where that is in memory.
    #[serde(default)]
    run: Option<DirIdentity>,
    /// True if it writes memory to files in `out`, not in its working directory.
    #[serde(default)]
    out: bool,
}

/// Name that tells records and manifests of this driver from those of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Name {
    Firecracker,
}

impl record::Record for Record {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn is_of(cmdline: &[u8], dir: &Path) -> bool {
        args::is_of(cmdline, dir)
    }
}

/// Firecracker driver. Holds no state but the starts in flight: that of each VM is in its directory
/// and its process.
#[derive(Debug)]
pub(crate) struct Firecracker {
    host: Host,
    starts: InFlightStarts,
}

/// Settings that are the same for all VMs here.
#[derive(Debug, Clone)]
struct Host {
    program: PathBuf,
    /// Custom CPU template, in Firecracker's form.
    cpu_template: Option<Arc<Value>>,
    /// Program that serves memory in layers; without it layers are merged first.
    pager: Option<ProgramFile>,
}

impl Firecracker {
    pub(crate) fn new(
        program: PathBuf,
        cpu_template: Option<Value>,
        pager: Option<ProgramFile>,
    ) -> Self {
        let cpu_template = cpu_template.map(Arc::new);
        Self {
            host: Host {
                program,
                cpu_template,
                pager,
            },
            starts: InFlightStarts::default(),
        }
    }
}

#[async_trait]
impl Driver for Firecracker {
    fn name(&self) -> &'static str {
        "firecracker"
    }

    fn supports(&self, format: DiskFormat) -> bool {
        format == DiskFormat::Raw
    }

    fn keeps_exit_reason(&self) -> bool {
        false
    }

    fn snapshot_store(&self) -> SnapshotStore {
        SnapshotStore::new(match self.host.pager {
            Some(_) => RestoresFrom::Layers,
            None => RestoresFrom::FullFile,
        })
    }

    async fn boot(&self, config: &VmConfig) -> Result<Box<dyn Vm>> {
        self.starts
            .run_start(&config.dir, boot::boot(self.host.clone(), config.clone()))
            .await
    }

    async fn restore(&self, config: &VmConfig, snapshot: &Path) -> Result<Box<dyn Vm>> {
        self.starts
            .run_start(
                &config.dir,
                restore::restore(self.host.clone(), config.clone(), snapshot.to_owned()),
            )
            .await
    }

    async fn adopt(&self, dir: &Path) -> Result<Option<Box<dyn Vm>>> {
        self.starts.wait_until_idle(dir, START_LIMIT).await;
        match record::find_process::<Record>(dir).await? {
            Some((process, Some(record))) => adopt::adopt(dir.to_owned(), process, record).await,
            Some((stray, None)) => process::end(stray).await.map(|()| None),
            None => exited::find_exited(dir).await,
        }
    }

    async fn destroy(&self, dir: &Path) -> Result<()> {
        self.starts.destroy::<Record>(dir).await?;
        // The pager ends by itself as well, but a moment later.
        match record::read::<Record>(dir)
            .map_err(in_file("read the record in", dir))?
            .and_then(|record| record.pager)
        {
            Some(identity) => pager::destroy(dir, &identity).await,
            None => Ok(()),
        }
    }
}
