//! Drives VMM processes. Knows virtual machines, not sandboxes or tenants.
//!
//! One [`Driver`] per engine. A driver boots a [`Vm`] from a [`VmConfig`], restores one from a
//! snapshot directory, or adopts one that an earlier run of this program started and that still
//! runs. Everything of one VM lives in its own directory ([`VmConfig::dir`]): sockets, pid file,
//! console.
//!
//! ```text
//!  boot ───→ running ⇄ paused ───→ exited (notice: Exit)
//!  restore ────────────↑   └─ snapshot (any number of times, VM stays paused)
//! ```

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

mod budget;
mod compat;
mod console;
mod cpu;
mod diff;
pub mod engine;
mod files;
pub mod firecracker;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod in_flight;
mod jail;
pub mod kernel;
pub mod limits;
mod memory_files;
mod output;
pub mod pager;
mod process;
mod qemu;
mod record;
mod run_dir;
mod seal;
mod snapshot_store;
mod watcher;

pub use compat::SnapshotError;
pub use jail::Jail;
pub use snapshot_store::{HeldMemory, SnapshotStore};

/// Configuration of a VM to boot. Paths are absolute and exist; the driver does not validate names.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// Private directory of this VM, created by the caller; the driver keeps its files and sockets
    /// there.
    pub dir: PathBuf,
    /// Name for the process and for logs, for example the sandbox id.
    pub name: String,
    pub vcpus: u32,
    pub memory_mb: u32,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// Kernel arguments that are appended to those of the driver.
    pub kernel_args: String,
    pub disk: Disk,
    /// Raw file with a file system of kernel modules, the same for all guests of a kernel: the
    /// second virtio block device, read-only. Part of the machine: a VM is restored with one if,
    /// and only if, it was booted with one.
    pub modules: Option<PathBuf>,
    pub net: Option<Net>,
    /// Jail of the VMM. Without it the VMM runs with our privileges and sees all of the host: for
    /// measurements, not for untrusted guests.
    pub jail: Option<Jail>,
}

/// Root disk: the first virtio block device, writable.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Path of a file, which is given to the VMM's user, or of a block device.
    pub path: PathBuf,
    pub format: DiskFormat,
    /// Base of an overlay. Never taken from the overlay itself, which the VMM writes.
    pub base: Option<PathBuf>,
    /// Size of the disk as the guest sees it, bytes. No file of the VMM becomes much longer.
    pub size_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    Raw,
    /// Supported by the qemu driver only.
    Qcow2,
}

/// Network interface of the guest, its only one.
#[derive(Debug, Clone)]
pub struct Net {
    /// Name of the network namespace (under `/run/wrenn/netns`) in which the VMM process runs.
    pub netns: String,
    /// TAP device in that namespace.
    pub tap: String,
    pub mac: [u8; 6],
}

/// Memory of a guest as it reports it, bytes. Hostile, as everything from a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestMemory {
    pub total: u64,
    /// Memory available to new programs without swapping.
    pub available: u64,
}

/// Fate of the VM after a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterSnapshot {
    /// The VM is resumed, or may be.
    Resume,
    /// The VM is terminated, so that its memory file can become the snapshot's. If it is resumed
    /// all the same, because something failed, the snapshot must be removed first; it is not whole
    /// before the VM's process has ended.
    Terminate,
}

/// Reason for the end of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered itself off.
    Shutdown,
    /// The guest rebooted itself, which ends a VM here.
    Reset,
    /// The guest's kernel panicked; the text is the first line of its message, bounded and
    /// printable.
    Panic(String),
    /// The VMM process ended without a report of the guest: killed, or crashed. The text is all
    /// that is known of it.
    Vmm(String),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot start {program}; {hint}")]
    Start {
        program: String,
        hint: String,
        source: std::io::Error,
    },
    #[error("{program} ended before it was ready: {stderr}")]
    EndedEarly { program: String, stderr: String },
    #[error("the VMM did not answer {command} within {seconds} s")]
    Timeout { command: String, seconds: u64 },
    #[error("the VMM refused {command}: {reason}")]
    Refused { command: String, reason: String },
    /// The VMM has been taken over by its guest, or is none.
    #[error("{program} was ended, since it {violation}")]
    Hostile {
        program: &'static str,
        violation: String,
    },
    #[error("cannot make the VMM's jail")]
    Jail(#[source] std::io::Error),
    #[error("the VM has ended")]
    Ended,
    #[error("the snapshot in {dir} cannot be restored")]
    BadSnapshot { dir: PathBuf, source: SnapshotError },
    #[error("cannot {action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An engine that runs virtual machines.
#[async_trait]
pub trait Driver: Send + Sync + std::fmt::Debug {
    /// Returns the engine's name: `qemu` or `firecracker`.
    fn name(&self) -> &'static str;

    /// Returns true if disks of this format can be used.
    fn supports(&self, format: DiskFormat) -> bool;

    /// Returns true if the reason for the end of a guest is known in full even if it was not
    /// watched. Otherwise a VM that is [adopted](Driver::adopt) after its guest panicked is
    /// reported as [reset](Exit::Reset).
    fn keeps_exit_reason(&self) -> bool {
        true
    }

    /// Starts a VM. It runs when this returns; the guest may still be booting. Dropping the future
    /// does not stop the start: call [`destroy`](Driver::destroy) then. After an error no process
    /// is left; a directory with a living VM is refused and that VM left alone.
    async fn boot(&self, config: &VmConfig) -> Result<Box<dyn Vm>>;

    /// Starts a VM from a snapshot that [`Vm::snapshot`] wrote, otherwise like
    /// [`boot`](Driver::boot). It is paused when this returns. The snapshot serves any number of
    /// VMs at the same time, each with a disk of its own; they share its memory as far as they do
    /// not write to it. Its memory is merged first where this driver
    /// [needs](SnapshotStore::restores_unmerged) one file, which takes as long as a copy of all
    /// memory.
    async fn restore(&self, config: &VmConfig, snapshot: &Path) -> Result<Box<dyn Vm>>;

    /// Returns how the memory of this driver's snapshots is kept.
    fn snapshot_store(&self) -> SnapshotStore {
        SnapshotStore::without_merges()
    }

    /// Adopts the VM in `dir` that an earlier run of this program started. `None` if it has no
    /// living process and its guest did not end by itself; then only its files are left. A process
    /// whose boot or restore was cut short is ended, and counts as none. A VM whose guest has ended
    /// since is found: its [`wait`](Vm::wait) returns the reason.
    async fn adopt(&self, dir: &Path) -> Result<Option<Box<dyn Vm>>>;

    /// Ends every living process of the VM in `dir`, even one that does not answer or has no
    /// record. Returns when it is gone; leaves the files. Idempotent.
    async fn destroy(&self, dir: &Path) -> Result<()>;
}

/// Running virtual machine. Dropping it leaves the process alone, so that a restart can adopt it.
#[async_trait]
pub trait Vm: Send + Sync + std::fmt::Debug {
    fn pid(&self) -> u32;

    /// Stops the virtual CPUs. Idempotent.
    async fn pause(&self) -> Result<()>;

    /// Starts the virtual CPUs again. Idempotent.
    async fn resume(&self) -> Result<()>;

    /// Writes memory and device state of the paused VM into the empty directory `dir`, which the
    /// caller makes durable and private (mode 0700). The VM stays paused, also after an error,
    /// which leaves `dir` empty. Files may share their content with files in the directory of the
    /// VM and of other snapshots, so they must never be changed. For a restored VM the memory may
    /// be a diff only, over a second name of the memory that it was restored from;
    /// [`SnapshotStore::merge`] makes that one file. Dropping the future does not stop the work: a
    /// [`resume`](Vm::resume) waits for its end.
    async fn snapshot(&self, dir: &Path, after: AfterSnapshot) -> Result<()>;

    /// Ends the process, at once and without asking the guest. Returns when it is reaped.
    /// Idempotent.
    async fn kill(&self) -> Result<()>;

    /// Waits until the VM has ended, for whatever reason. Can be called any number of times.
    async fn wait(&self) -> Exit;

    /// Returns the guest's output on its serial console since the last call, at most some 64 KiB:
    /// older output is dropped. Written by the guest, so hostile.
    async fn console(&self) -> Vec<u8>;

    /// Returns the memory that the guest reports; `None` while it reports nothing, or where the
    /// engine cannot ask it.
    async fn guest_memory(&self) -> Result<Option<GuestMemory>> {
        Ok(None)
    }
}

/// Address of every guest; each has a network namespace of its own, so they never meet (the
/// original Wrenn's plan).
pub const GUEST_IP: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 21);
