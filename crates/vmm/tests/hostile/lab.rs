//! A hostile VM and its neighbour, and what has to be so afterwards.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use linux::cgroup::DiskLimits;
use linux::process;
use tempfile::TempDir;
use vmm::engine::{AccelChoice, Choice, Wanted, choose};
use vmm::{Disk, DiskFormat, Driver, Jail, Result, Vm, VmConfig};

/// Time in which a hostile VM is destroyed. It takes some milliseconds; the limit is for hosts that
/// do other things.
pub const PROMPTLY: Duration = Duration::from_secs(10);

/// Memory by which this process may have grown afterwards, bytes.
pub const MEMORY_SLACK: u64 = 20 << 20;

/// Longest time of one attack, also where the test lets deadlines pass at once.
const LIMIT: Duration = Duration::from_secs(600);

/// How long a flood lasts whose end nobody waits for.
pub const FLOOD: Duration = Duration::from_secs(2);

const PROGRAM: &str = env!("CARGO_BIN_EXE_hostile-vmm");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Qemu,
    Firecracker,
}

impl Engine {
    fn driver(self) -> Arc<dyn Driver> {
        match self {
            Self::Qemu => {
                let (vmm, accel) = (Choice::Qemu, AccelChoice::Tcg);
                let wanted = Wanted {
                    vmm,
                    accel,
                    qemu: Some(PROGRAM.into()),
                    ..Wanted::default()
                };
                choose(&wanted).expect("the program is there").driver
            }
            // Without the look whether KVM works, which this one does not need.
            Self::Firecracker => vmm::firecracker::driver(PROGRAM.into(), None),
        }
    }
}

/// One attack at a time: they are measured.
static ALONE: Mutex<()> = Mutex::new(());

/// Boots a VM whose VMM makes that attack, lets the test look at it, and then whether everything
/// else is as before.
pub fn withstand(engine: Engine, attack: &str, test: impl AsyncFn(&mut Attacked)) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Of one thread, so that a test can stop the clock.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let root = tempfile::tempdir().expect("a directory");
    runtime.block_on(async {
        let driver = engine.driver();
        let mut neighbour = Attacked::boot(&driver, &root, "neighbour").await;
        let (memory, time, begin) = (resident(), processor_time(), Instant::now());
        let mut attacked = Attacked::boot(&driver, &root, attack).await;
        tokio::time::timeout(LIMIT, test(&mut attacked))
            .await
            .expect("the attack is withstood in time");
        let (peak, used) = (resident().saturating_sub(memory), processor_time() - time);
        attacked.destroy().await;
        attacked.assert_no_process();
        drop(attacked);
        println!(
            "{engine:?} {attack}: {} KiB more memory, {used:?} of processor time in {:?}",
            peak >> 10,
            begin.elapsed()
        );
        let grown = resident().saturating_sub(memory);
        assert!(grown <= MEMORY_SLACK, "{attack} leaves {} MiB", grown >> 20);
        neighbour.works().await;
        neighbour.destroy().await;
        neighbour.assert_no_process();
    });
    drop(runtime);
    root.close().expect("all files can be removed");
}

/// A VM, for as long as it is looked at.
pub struct Attacked {
    driver: Arc<dyn Driver>,
    vm: Option<Box<dyn Vm>>,
    pub config: VmConfig,
}

impl Attacked {
    async fn boot(driver: &Arc<dyn Driver>, root: &TempDir, name: &str) -> Self {
        let config = config(root.path(), name);
        let vm = driver
            .boot(&config)
            .await
            .unwrap_or_else(|error| panic!("{name} does not boot: {error:?}"));
        Self {
            driver: Arc::clone(driver),
            vm: Some(vm),
            config,
        }
    }

    pub fn vm(&self) -> &dyn Vm {
        self.vm.as_deref().expect("it was booted")
    }

    pub fn user(&self) -> u32 {
        self.config.jail.as_ref().expect("all are in jails").uid
    }

    /// A directory beside that of the VM.
    pub fn empty_dir(&self, name: &str) -> PathBuf {
        let dir = self.config.dir.with_file_name(name);
        fs::create_dir(&dir).expect("a directory");
        dir
    }

    /// Waits until a line that begins so was printed; the line.
    pub async fn until_printed(&self, beginning: &str) -> String {
        let mut text = String::new();
        loop {
            text.push_str(&String::from_utf8_lossy(&self.vm().console().await));
            let whole = text
                .split_inclusive('\n')
                .find(|line| line.starts_with(beginning) && line.ends_with('\n'));
            if let Some(line) = whole {
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// As an agent that starts again.
    pub async fn adopt_again(&mut self) -> Result<Option<()>> {
        self.vm = None;
        let found = self.driver.adopt(&self.config.dir).await?;
        Ok(found.map(|vm| self.vm = Some(vm)))
    }

    pub async fn destroy(&self) {
        let begin = Instant::now();
        let destroyed = tokio::time::timeout(PROMPTLY, self.driver.destroy(&self.config.dir)).await;
        destroyed
            .expect("it is destroyed promptly")
            .expect("it can be destroyed");
        println!("destroyed in {:?}", begin.elapsed());
    }

    /// Whatever it did to be overlooked.
    pub fn assert_no_process(&self) {
        let left = process::of_user(self.user()).expect("/proc");
        assert!(
            left.is_empty(),
            "processes of user {} are left: {left:?}",
            self.user()
        );
    }

    /// Waits until it has ended, as a process does that was killed while the clock stood still.
    pub async fn until_no_process(&self) {
        let gone = async {
            while !process::of_user(self.user()).expect("/proc").is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PROMPTLY, gone)
            .await
            .expect("it was ended");
    }

    async fn works(&mut self) {
        let vm = self.vm();
        vm.pause().await.expect("a neighbour can be paused");
        vm.resume().await.expect("a neighbour can be resumed");
        assert_eq!(
            self.adopt_again()
                .await
                .expect("a neighbour can be adopted"),
            Some(())
        );
        self.vm().pause().await.expect("a neighbour can be paused");
    }
}

impl Drop for Attacked {
    /// Only after a failed test does this find anything.
    fn drop(&mut self) {
        for process in process::of_user(self.user()).into_iter().flatten() {
            let _ = process.kill();
            let _ = process.wait(Duration::from_secs(10));
        }
    }
}

fn config(root: &Path, name: &str) -> VmConfig {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // A user that no other VM on this machine has.
    let user =
        2_075_000_000 + std::process::id() % 10_000 * 1_000 + NEXT.fetch_add(1, Ordering::Relaxed);
    let [dir, disk, kernel, initramfs] =
        ["vm", "disk", "kernel", "initramfs"].map(|kind| root.join(format!("{name}.{kind}")));
    fs::create_dir(&dir).expect("a directory");
    for file in [&disk, &kernel, &initramfs] {
        File::create(file)
            .and_then(|file| file.set_len(1 << 20))
            .expect("a file");
    }
    VmConfig {
        dir,
        name: name.into(),
        vcpus: 1,
        memory_mb: 1,
        kernel,
        initramfs,
        modules: None,
        kernel_args: String::new(),
        disk: Disk {
            path: disk,
            format: DiskFormat::Raw,
            base: None,
            size_bytes: 4 << 20,
        },
        net: None,
        jail: Some(Jail {
            uid: user,
            gid: user,
            cgroup: None,
            disk: DiskLimits::default(),
        }),
    }
}

/// Memory of this process, bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("the field");
    line.trim()
        .trim_end_matches(" kB")
        .parse::<u64>()
        .expect("a number")
        << 10
}

/// What this process has used of processors.
pub fn processor_time() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)
        .expect("it is known");
    let of = |time: nix::sys::time::TimeVal| {
        Duration::from_micros(
            u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or_default(),
        )
    };
    of(usage.user_time()) + of(usage.system_time())
}
