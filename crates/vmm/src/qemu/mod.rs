//! The qemu driver: one `qemu-system-x86_64 -M microvm` per VM, spoken to over QMP.
//!
//! On disk, in the directory of a VM:
//!
//! | file | written | by |
//! |---|---|---|
//! | `memory` | before a boot | us (0600, of QEMU's user); guest memory |
//! | `memory.base` | before a restore | us; another name of the snapshot's memory, which is never written |
//! | `stderr` | before the start | us: a pipe that is QEMU's standard error ([`output`](crate::output)) |
//! | `vm.json` | once the process runs | us: who it is and how it was started |
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
//! leaves its QEMU stopped but alive (`-action shutdown=pause`): why it ended and what it said last
//! is not lost, whoever comes to read it.

mod adopt;
mod args;
mod boot;
mod instance;
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

/// What runs guest code.
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

    /// For `-M …,accel=`.
    fn qemu(self) -> &'static str {
        self.name()
    }

    /// Devices of the host that it takes.
    fn devices(self) -> Vec<PathBuf> {
        match self {
            Self::Kvm => vec!["/dev/kvm".into()],
            Self::Tcg => Vec::new(),
        }
    }

    /// What it asks the kernel for.
    fn syscalls(self, enforcement: Enforcement) -> Syscalls {
        match self {
            Self::Kvm => Syscalls::Only(&[syscalls::CALLS, syscalls::KVM_CALLS], enforcement),
            Self::Tcg => Syscalls::Only(&[syscalls::CALLS], enforcement),
        }
    }

    /// Memory that QEMU takes besides the guest's, MiB, at most: some 60, and 1 GiB for translated
    /// code.
    fn overhead_mb(self) -> u32 {
        match self {
            Self::Kvm => 128,
            Self::Tcg => 1024 + 256,
        }
    }

    /// For `-cpu`. With 5-level page tables or nested virtualisation, emulation has bugs and gives
    /// guests nothing. Guests under KVM get neither hypervisors nor performance counters of their
    /// own: more to attack, nothing for sandboxes. Asynchronous page faults crash hosts that are
    /// themselves emulated, since guest memory is a file.
    fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host,vmx=off,svm=off,pmu=off,kvm-asyncpf=off,kvm-asyncpf-int=off",
            Self::Tcg => "max,la57=off,svm=off",
        }
    }
}

/// Where the memory of a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ram {
    /// In the file `memory` of the VM's directory: a snapshot takes the file.
    File,
    /// Private pages over the immutable file of a snapshot: a snapshot takes the pages.
    Private,
}

/// QEMU's standard error in the directory of a VM of an earlier version.
const LOG: &str = "qemu.log";

/// What is written down about a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    identity: Identity,
    accel: Accel,
    ram: Ram,
    /// What QEMU maps as the guest's memory, by the name that it knows.
    memory: PathBuf,
    vcpus: u32,
    memory_mb: u32,
    /// Its working directory, where that is in memory.
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

/// The last that QEMU said, for people.
fn exit_reason(output: &Output) -> String {
    output
        .exit_reason()
        .unwrap_or_else(|| "it gave no reason".into())
}

/// The driver. Holds no state but the starts under way: every VM's is in its directory and its
/// process.
#[derive(Debug)]
pub(crate) struct Qemu {
    host: Host,
    starts: InFlightStarts,
}

/// What is the same for all VMs here.
#[derive(Debug, Clone)]
struct Host {
    program: PathBuf,
    accel: Accel,
    /// Rate of the time stamp counter, thousands per second; only emulated guests have to be told.
    tsc_khz: Option<u64>,
    enforcement: Enforcement,
}

impl Qemu {
    /// Blocks for 100 ms the first time that guests are to be emulated.
    pub(crate) fn new(program: PathBuf, accel: Accel, enforcement: Enforcement) -> Self {
        let tsc_khz = if accel == Accel::Tcg {
            linux::tsc::khz()
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
            .run(&config.dir, boot::boot(self.host.clone(), config.clone()))
            .await
    }

    async fn restore(&self, config: &VmConfig, snapshot: &Path) -> Result<Box<dyn Vm>> {
        self.starts
            .run(
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
        let Some((process, record)) = record::find::<Record>(dir).await? else {
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
