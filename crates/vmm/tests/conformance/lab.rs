//! Where a test finds its driver, and the directories of its VMs; nothing of them is left at the
//! end.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use linux::cgroup::DiskLimits;
use linux::process::{self, Process};
use tempfile::TempDir;
use vmm::engine::{Choice, Wanted, choose, find_firecracker};
use vmm::{Disk, DiskFormat, Driver, Jail, VmConfig};

use crate::guest;
use crate::machine::Machine;

/// Memory of a guest, MiB: what the kernel needs and little more.
pub const MEMORY_MB: u32 = 96;

/// Longest time of one test on one driver. None takes a tenth of it on an idle machine.
const LIMIT: Duration = Duration::from_secs(240);

/// The drivers that this machine has, or the one that `CONFORMANCE_DRIVER` names.
fn drivers() -> &'static [Arc<dyn Driver>] {
    static DRIVERS: OnceLock<Vec<Arc<dyn Driver>>> = OnceLock::new();
    DRIVERS.get_or_init(|| {
        let only = std::env::var("CONFORMANCE_DRIVER").ok();
        let wanted = |name| only.as_deref().is_none_or(|only| only == name);
        let qemu =
            wanted("qemu").then(|| engine(Choice::Qemu).unwrap_or_else(|error| panic!("{error}")));
        let firecracker = if wanted("firecracker") {
            firecracker(only.is_some())
        } else {
            None
        };
        let drivers: Vec<_> = qemu.into_iter().chain(firecracker).collect();
        assert!(
            !drivers.is_empty(),
            "CONFORMANCE_DRIVER is {only:?}, but drivers are qemu and firecracker"
        );
        drivers
    })
}

fn engine(vmm: Choice) -> Result<Arc<dyn Driver>, vmm::engine::Error> {
    choose(&Wanted { vmm, ..settings() }).map(|engine| engine.driver)
}

fn settings() -> Wanted {
    let (firecracker, pager) = (
        std::env::var_os("FIRECRACKER_BIN"),
        env!("CARGO_BIN_EXE_vmm-pager"),
    );
    Wanted {
        accel: choice("CONFORMANCE_ACCEL"),
        enforcement: choice("AGENT_SYSCALL_FILTER"),
        firecracker: firecracker.map(PathBuf::from),
        pager: Some(pager.into()),
        ..Wanted::default()
    }
}

fn choice<T: Default + FromStr>(variable: &str) -> T {
    let word = std::env::var(variable).ok();
    let parse = |word: String| word.parse().map_err(|_| format!("{variable} is {word}"));
    word.map_or_else(T::default, |word| parse(word).expect("a known word"))
}

/// What cannot be tried is said loudly, past the test harness, which shows the output of failed
/// tests only.
fn firecracker(must_be: bool) -> Option<Arc<dyn Driver>> {
    let found = find_firecracker(&settings()).map_err(vmm::engine::Error::from);
    match found.and_then(|_| engine(Choice::Firecracker)) {
        Ok(driver) => Some(driver),
        Err(error) if must_be => panic!("{error}"),
        Err(error) => {
            let _ = writeln!(io::stderr(), "\n*** FIRECRACKER IS SKIPPED: {error} ***\n");
            None
        }
    }
}

/// Held by every test; alone by one that counts what the whole program has open.
static PROGRAM: RwLock<()> = RwLock::new(());

/// Runs a test once per driver, beside others.
pub fn on_every_driver(test: impl AsyncFn(&Lab)) {
    let _shared = PROGRAM.read().unwrap_or_else(PoisonError::into_inner);
    run(test);
}

/// The same, while no other test of this program runs.
pub fn alone_on_every_driver(test: impl AsyncFn(&Lab)) {
    let _alone = PROGRAM.write().unwrap_or_else(PoisonError::into_inner);
    run(test);
}

fn run(test: impl AsyncFn(&Lab)) {
    for driver in drivers() {
        println!("driver: {}", driver.name());
        let lab = Lab::new(Arc::clone(driver));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            tokio::time::timeout(LIMIT, test(&lab))
                .await
                .expect("the test hangs");
        });
        drop(runtime);
        lab.close();
    }
}

/// A user that no other VM on this machine has.
fn jail() -> Jail {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let user =
        2_060_000_000 + std::process::id() % 10_000 * 1_000 + NEXT.fetch_add(1, Ordering::Relaxed);
    Jail {
        uid: user,
        gid: user,
        cgroup: None,
        disk: DiskLimits::default(),
    }
}

/// A directory with what a guest boots from, and with the directory of each VM.
pub struct Lab {
    pub driver: Arc<dyn Driver>,
    root: TempDir,
}

impl Lab {
    fn new(driver: Arc<dyn Driver>) -> Self {
        let root = tempfile::tempdir().expect("a temporary directory");
        guest::write_initramfs(&root.path().join("initramfs"))
            .expect("the initramfs can be written");
        Self { driver, root }
    }

    /// A new VM with a disk of its own, whose guest does `task`.
    pub fn config(&self, name: &str, task: &str) -> VmConfig {
        let dir = self.root.path().join(name);
        fs::create_dir_all(&dir).expect("a directory for the VM");
        let disk = self.root.path().join(format!("{name}.disk"));
        File::create(&disk)
            .and_then(|file| file.set_len(4 << 20))
            .expect("a disk");
        VmConfig {
            dir,
            name: name.rsplit('/').next().unwrap_or(name).into(),
            vcpus: 1,
            memory_mb: MEMORY_MB,
            kernel: guest::kernel(),
            initramfs: self.root.path().join("initramfs"),
            // Nothing but emergencies, so that what the guest prints stays whole.
            kernel_args: format!("loglevel=1 do={task}"),
            disk: Disk {
                path: disk,
                format: DiskFormat::Raw,
                base: None,
                size_bytes: 4 << 20,
            },
            modules: None,
            net: None,
            jail: Some(jail()),
        }
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// An empty directory for a snapshot.
    pub fn empty_dir(&self, name: &str) -> PathBuf {
        let dir = self.root.path().join(name);
        fs::create_dir(&dir).expect("a directory");
        dir
    }

    pub async fn boot(&self, config: VmConfig) -> Machine {
        let vm = self.driver.boot(&config).await.expect("the VM boots");
        Machine::new(vm, config)
    }

    /// A VM that counts and has got somewhere with it.
    pub async fn counting(&self, name: &str) -> Machine {
        let mut machine = self.boot(self.config(name, "count")).await;
        machine.count_on().await;
        machine
    }

    /// A paused VM whose guest has hardly begun to boot, for what does not depend on it.
    pub async fn young(&self, name: &str) -> Machine {
        let machine = self.boot(self.config(name, "count")).await;
        machine.vm.pause().await.expect("it can be paused");
        machine
    }

    /// Restores into a new directory, with a copy of the disk of `source`, as `boot` would.
    pub async fn restore(&self, name: &str, source: &VmConfig, snapshot: &Path) -> Machine {
        let config = self.config_of_copy(name, source);
        let vm = self
            .driver
            .restore(&config, snapshot)
            .await
            .expect("the snapshot can be restored");
        Machine::new(vm, config)
    }

    /// As `source`, in its own directory and on a copy of the disk.
    pub fn config_of_copy(&self, name: &str, source: &VmConfig) -> VmConfig {
        let config = self.config(name, "");
        fs::copy(&source.disk.path, &config.disk.path).expect("the disk can be copied");
        VmConfig {
            dir: config.dir,
            name: config.name,
            disk: config.disk,
            jail: config.jail,
            ..source.clone()
        }
    }

    /// Processes that name anything of this lab on their command lines.
    pub fn processes(&self) -> Vec<Process> {
        let needle = self.root.path().as_os_str().as_encoded_bytes();
        process::find(|cmdline| cmdline.windows(needle.len()).any(|window| window == needle))
            .expect("/proc")
    }

    pub fn assert_no_process(&self) {
        let left: Vec<u32> = self.processes().iter().map(Process::pid).collect();
        assert!(left.is_empty(), "processes are left: {left:?}");
    }

    fn close(self) {
        self.assert_no_process();
        let path = self.root.path().to_owned();
        let removed = fs::remove_dir_all(&path);
        assert!(
            removed.is_ok() && !path.exists(),
            "the directory cannot be removed: {removed:?}"
        );
    }
}

impl Drop for Lab {
    /// Only after a failed test does this find anything.
    fn drop(&mut self) {
        for process in self.processes() {
            let _ = end(&process);
        }
    }
}

/// Kills a process behind the driver's back, and reaps it where it is our child.
pub fn end(process: &Process) -> io::Result<()> {
    process.kill()?;
    process.wait(Duration::from_secs(10)).map(drop)
}
