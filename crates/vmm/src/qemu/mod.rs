//! The qemu driver: one `qemu-system-x86_64 -M microvm` per VM, spoken to over QMP.
//!
//! On disk, in the directory of a VM:
//!
//! | file | written | by |
//! |---|---|---|
//! | `memory` | before a boot | us (0600, of QEMU's user); guest memory |
//! | `memory.base` | before a restore | us; another name of the snapshot's memory, which is never written |
//! | `stderr` | before the start | us: a pipe that is QEMU's standard error ([`output`](crate::output)) |
//! | `vm.json` | once the process runs | us: its identity and how it was started |
//!
//! In memory, in QEMU's working directory ([`run_dir`](crate::run_dir)): `qemu.pid` and `qmp.sock`,
//! `incoming.sock` during a restore, `state.unfinished` during a snapshot. QEMU gets the network
//! device of its guest as an open descriptor and is in a network namespace of its own in which
//! there is nothing.
//!
//! QEMU starts with its virtual CPUs stopped; they run only once `vm.json` is there. If this
//! process dies before that, [`adopt`](Driver::adopt) finds the QEMU by its command line, sees that
//! it never ran, and ends it. If it dies later, the VM goes on, and its console is kept in QEMU's
//! own ring of 64 KiB, which can neither fill the disk nor block the guest. A guest that ends
//! leaves its QEMU stopped but alive (`-action shutdown=pause`): the reason for its end and its
//! last output can still be read, also by a later run of this program.

mod adopt;
mod args;
mod boot;
mod instance;
mod last_memory;
mod manifest;
mod qmp;
mod ram;
mod restore;
mod snapshot;
mod start;
mod state;
mod syscalls;
mod vm;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use qmp::fuzz as fuzz_qmp;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use linux::jail::{Enforcement, Syscalls};
use linux::process::Identity;
use linux::untrusted_dir::DirIdentity;
use serde::{Deserialize, Serialize};

use crate::in_flight::{InFlightStarts, START_LIMIT};
use crate::output::Output;
use crate::process;
use crate::snapshot_store::RestoresFrom;
use crate::{DiskFormat, Driver, Result, SnapshotStore, Vm, VmConfig, record};

/// Accelerator: the part that runs guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Accel {
    Kvm,
    Tcg,
}

impl Accel {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// Returns the value for `-M …,accel=`.
    fn qemu(self) -> &'static str {
        self.name()
    }

    /// Returns the devices of the host that it needs.
    fn devices(self) -> Vec<PathBuf> {
        match self {
            Self::Kvm => vec!["/dev/kvm".into()],
            Self::Tcg => Vec::new(),
        }
    }

    /// Returns the system calls that QEMU may make with it.
    fn syscalls(self, enforcement: Enforcement) -> Syscalls {
        match self {
            Self::Kvm => Syscalls::Only(&[syscalls::CALLS, syscalls::KVM_CALLS], enforcement),
            Self::Tcg => Syscalls::Only(&[syscalls::CALLS], enforcement),
        }
    }

    /// Returns the most memory that QEMU takes besides the guest's, MiB: some 60, and 1 GiB for
    /// translated code.
    fn overhead_mb(self) -> u32 {
        match self {
            Self::Kvm => 128,
            Self::Tcg => 1024 + 256,
        }
    }

    /// Returns the value for `-cpu`. With 5-level page tables or nested virtualisation, emulation
    /// has bugs, and guests gain nothing from them. Guests under KVM get neither hypervisors nor
    /// performance counters of their own: more to attack, nothing for sandboxes. Asynchronous page
    /// faults crash hosts that are themselves emulated, since guest memory is a file.
    fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host,vmx=off,svm=off,pmu=off,kvm-asyncpf=off,kvm-asyncpf-int=off",
            Self::Tcg => "max,la57=off,svm=off",
        }
    }
}

/// Storage of a guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ram {
    /// The file `memory` of the VM's directory: a snapshot takes the file.
    File,
    /// Private pages over the immutable file of a snapshot: a snapshot takes the pages.
    Private,
}

/// Name of the file with QEMU's standard error, for VMs of an earlier version.
const LOG: &str = "qemu.log";

/// Record of a VM in `vm.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    identity: Identity,
    accel: Accel,
    ram: Ram,
    /// Path of the guest's memory, as QEMU maps it.
    memory: PathBuf,
    vcpus: u32,
    memory_mb: u32,
    /// Working directory, where that is in memory.
    #[serde(default)]
    run: Option<DirIdentity>,
}

impl record::Record for Record {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn is_of(cmdline: &[u8], dir: &Path) -> bool {
        args::is_of(cmdline, dir)
    }
}

/// Returns the last output of QEMU, for people.
fn exit_reason(output: &Output) -> String {
    output
        .exit_reason()
        .unwrap_or_else(|| "it gave no reason".into())
}

/// QEMU driver. Holds no state but the starts in flight: that of each VM is in its directory and
/// its process.
#[derive(Debug)]
pub(crate) struct Qemu {
    host: Host,
    starts: InFlightStarts,
}

/// Settings that are the same for all VMs here.
#[derive(Debug, Clone)]
struct Host {
    program: PathBuf,
    accel: Accel,
    /// Rate of the time stamp counter, kHz, for emulated guests, which must be given it.
    tsc_khz: Option<u64>,
    enforcement: Enforcement,
}

impl Qemu {
    /// Creates the driver. Blocks for 100 ms the first time that guests are to be emulated.
    pub(crate) fn new(program: PathBuf, accel: Accel, enforcement: Enforcement) -> Self {
        let tsc_khz = if accel == Accel::Tcg {
            linux::tsc::frequency_khz()
        } else {
            None
        };
        Self {
            host: Host {
                program,
                accel,
                tsc_khz,
                enforcement,
            },
            starts: InFlightStarts::default(),
        }
    }
}

#[async_trait]
impl Driver for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn supports(&self, format: DiskFormat) -> bool {
        matches!(format, DiskFormat::Raw | DiskFormat::Qcow2)
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

    fn snapshot_store(&self) -> SnapshotStore {
        SnapshotStore::new(RestoresFrom::FullFileAndSmallDiff)
    }

    async fn adopt(&self, dir: &Path) -> Result<Option<Box<dyn Vm>>> {
        self.starts.wait_until_idle(dir, START_LIMIT).await;
        let Some((process, record)) = record::find_process::<Record>(dir).await? else {
            return Ok(None);
        };
        let Some(record) = record else {
            process::end(process).await?;
            return Ok(None);
        };
        let vm = adopt::adopt(dir.to_owned(), process, record).await?;
        Ok(vm.map(|vm| Box::new(vm) as Box<dyn Vm>))
    }

    async fn destroy(&self, dir: &Path) -> Result<()> {
        self.starts.destroy::<Record>(dir).await
    }
}
