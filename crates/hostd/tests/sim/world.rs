//! What stays when the agent dies: the machine, with its virtual machines, its luck, and what was
//! noticed.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{Notify, mpsc};

use crate::barrier::Barrier;
use crate::vm::SimVm;

/// Fail points in blocking work where the file system may say no: a panic there is an error to
/// whoever waits for it.
const IO: [&str; 8] = [
    "fork::decided",
    "fork::noted",
    "ledger::write",
    "snapshot::synced",
    "rollback::disk-moved",
    "disk::file-removed",
    "ledger::files-removed",
    "network::claim-released",
];
/// All fail points at which the agent may die.
const POINTS: [&str; 30] = [
    "capture::taken",
    "capture::vm-stopped",
    "create::disk-and-network-made",
    "create::guest-ready",
    "create::recorded",
    "create::slot-claimed",
    "create::vm-booted",
    "disk::base-released",
    "disk::file-removed",
    "fork::captured",
    "fork::child-runs",
    "fork::decided",
    "fork::noted",
    "snapshot::synced",
    "ledger::files-removed",
    "ledger::write",
    "network::claim-released",
    "pause::captured",
    "release::all-tried",
    "release::begun",
    "release::group-removed",
    "release::vm-ended",
    "restore::vm-loaded",
    "resume::claimed",
    "resume::disk-and-network-made",
    "resume::vm-runs",
    "rollback::disk-moved",
    "template::captured",
    "template::flat",
    "suspend::given-back",
];

/// For calls to be answered while a disk is slow: by the wall clock, and only a failure takes that
/// long.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);

/// Who is told that calls were answered.
pub type Probe = std::sync::mpsc::Sender<()>;

/// Panics that are part of the play.
struct Staged;

thread_local! {
    /// The world that this thread is of, and whether it is one for blocking work.
    static HERE: RefCell<Option<(Arc<World>, bool)>> = const { RefCell::new(None) };
}

/// Everything that goes wrong or right is asked of the world of the thread. Once for the process.
pub fn install() {
    for point in POINTS {
        fail::cfg_callback(point, move || {
            let here = HERE.with_borrow(Clone::clone);
            if let Some((world, blocking)) = here {
                world.reach(point, blocking);
            }
        })
        .unwrap();
    }
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<Staged>() {
            before(info);
        }
    }));
}

/// Whether a thread's panic was one of ours.
pub fn is_staged(payload: &(dyn Any + Send)) -> bool {
    payload.is::<Staged>()
}

pub struct World {
    pub seed: u64,
    vms: Mutex<BTreeMap<PathBuf, Arc<SimVm>>>,
    rng: Mutex<StdRng>,
    /// One call of so many fails; 0: none.
    faults: AtomicU64,
    /// Whether any did.
    pub had_faults: AtomicBool,
    stamps: AtomicU64,
    violations: Mutex<Vec<String>>,
    story: Mutex<Vec<String>>,
    /// Sandboxes whose VM was made to die.
    excused: Mutex<BTreeSet<String>>,
    /// Sandboxes whose VMM answers nothing any more, and those whose guest agent does not.
    silent_vmms: Mutex<BTreeSet<String>>,
    silent_guests: Mutex<BTreeSet<String>>,
    /// An fsync that does not end before it is let go.
    pub barrier: Barrier,
    /// Milliseconds by which the clock is wrong.
    skew_ms: AtomicI64,
    /// One fsync of so many takes as long as another call needs to be answered; 0: none.
    slow: AtomicU64,
    probe: Mutex<Option<mpsc::UnboundedSender<Probe>>>,
    /// Fail points until the agent dies; 0: it lives.
    points_left: AtomicU64,
    dead: AtomicBool,
    pub died: Notify,
    released: (Mutex<bool>, Condvar),
}

impl World {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            seed,
            vms: Mutex::default(),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            faults: AtomicU64::new(0),
            had_faults: AtomicBool::new(false),
            stamps: AtomicU64::new(1000),
            violations: Mutex::default(),
            story: Mutex::default(),
            excused: Mutex::default(),
            silent_vmms: Mutex::default(),
            silent_guests: Mutex::default(),
            barrier: Barrier::default(),
            skew_ms: AtomicI64::new(0),
            slow: AtomicU64::new(0),
            probe: Mutex::default(),
            points_left: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            died: Notify::new(),
            released: (Mutex::new(false), Condvar::new()),
        })
    }

    /// This thread is of this world.
    pub fn enter(self: &Arc<Self>, blocking: bool) {
        HERE.set(Some((Arc::clone(self), blocking)));
    }

    pub fn below(&self, n: u64) -> u64 {
        locked(&self.rng).random_range(0..n)
    }

    pub fn one_in(&self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }

    /// A number that never comes again.
    pub fn fresh(&self) -> u64 {
        self.stamps.fetch_add(1, Ordering::Relaxed)
    }

    pub fn set_faults(&self, one_in: u64) {
        self.faults.store(one_in, Ordering::Relaxed);
    }

    /// Whether what is being done fails.
    pub fn fails(&self, what: &str) -> bool {
        let fails = !self.is_dead() && self.one_in(self.faults.load(Ordering::Relaxed));
        if fails {
            self.had_faults.store(true, Ordering::Relaxed);
            self.tell(format!("    fault: {what}"));
        }
        fails
    }

    /// Milliseconds since the Unix epoch, by a clock that somebody sets now and then.
    pub fn now_ms(&self) -> i64 {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(now.as_millis()).unwrap_or_default() + self.skew_ms.load(Ordering::Relaxed)
    }

    /// Sets the clock forward, or back.
    pub fn set_clock(&self, by_ms: i64) {
        self.tell(format!("the clock goes by {by_ms} ms"));
        self.skew_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    pub fn set_slow(&self, one_in: u64) {
        self.slow.store(one_in, Ordering::Relaxed);
    }

    /// From now on slow fsyncs last until whoever receives these has answered.
    pub fn set_probe(&self, probe: mpsc::UnboundedSender<Probe>) {
        *locked(&self.probe) = Some(probe);
    }

    /// A disk that takes half a minute: this fsync is not done before calls to the agent that need
    /// no disk are answered.
    fn sync_slowly(&self, point: &str) {
        let (answer, answered) = std::sync::mpsc::channel();
        let probe = locked(&self.probe).clone();
        if probe.is_none_or(|probe| probe.send(answer).is_err()) {
            return;
        }
        // A sender that is gone means that the agent is.
        if matches!(
            answered.recv_timeout(PROBE_TIMEOUT),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout)
        ) {
            self.violation(format!("calls wait for a disk that is slow at {point}"));
        }
    }

    /// Time that something takes.
    pub async fn delay(&self) {
        match self.below(4) {
            0 => tokio::time::sleep(Duration::from_millis(self.below(30))).await,
            1 => tokio::task::yield_now().await,
            _ => {}
        }
    }

    /// What happens at a fail point.
    fn reach(&self, point: &str, blocking: bool) {
        if self.is_dead() || self.counts_down() {
            if !self.dead.swap(true, Ordering::SeqCst) {
                self.tell(format!("    the agent dies at {point}"));
            }
            self.died.notify_one();
            if blocking {
                // Nobody may see an answer of the dead.
                let (lock, released) = &self.released;
                let guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
                drop(released.wait_while(guard, |released| !*released));
            }
            std::panic::panic_any(Staged);
        }
        if blocking {
            self.barrier.pass(point);
        }
        if blocking && IO.contains(&point) && self.one_in(self.slow.load(Ordering::Relaxed)) {
            self.sync_slowly(point);
        }
        if blocking && IO.contains(&point) && self.fails(point) {
            std::panic::panic_any(Staged);
        }
    }

    fn counts_down(&self) -> bool {
        let left = self.points_left.load(Ordering::SeqCst);
        if left > 0 {
            self.points_left.store(left - 1, Ordering::SeqCst);
        }
        left == 1
    }

    /// A new agent begins; it dies after so many fail points, or with 0 at none.
    pub fn begins(&self, points: u64) {
        self.points_left.store(points, Ordering::SeqCst);
        self.dead.store(false, Ordering::SeqCst);
        *locked(&self.released.0) = false;
    }

    /// The agent's tasks go on no more; lets its blocking work end.
    pub fn ends(&self) {
        self.dead.store(true, Ordering::SeqCst);
        *locked(&self.probe) = None;
        *locked(&self.released.0) = true;
        self.released.1.notify_all();
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub fn tell(&self, line: String) {
        locked(&self.story).push(line);
    }

    /// Something that must never be.
    pub fn violation(&self, what: String) {
        self.tell(format!("VIOLATION: {what}"));
        locked(&self.violations).push(what);
    }

    /// What must never be and was, with all that happened.
    pub fn verdict(&self) -> Option<String> {
        let violations = locked(&self.violations);
        let story = locked(&self.story).join("\n");
        (!violations.is_empty())
            .then(|| format!("{story}\n\nseed {}: {}", self.seed, violations.join("; ")))
    }

    pub fn excuse(&self, sandbox: &str) {
        locked(&self.excused).insert(sandbox.to_owned());
    }

    pub fn is_excused(&self, sandbox: &str) -> bool {
        locked(&self.excused).contains(sandbox)
    }

    pub fn silence_vmm(&self, sandbox: &str) {
        locked(&self.silent_vmms).insert(sandbox.to_owned());
    }

    pub fn is_silent_vmm(&self, sandbox: &str) -> bool {
        locked(&self.silent_vmms).contains(sandbox)
    }

    pub fn silence_guest(&self, sandbox: &str) {
        locked(&self.silent_guests).insert(sandbox.to_owned());
    }

    pub fn is_silent_guest(&self, sandbox: &str) -> bool {
        locked(&self.silent_guests).contains(sandbox)
    }

    /// Adds a VM. Whoever has its slot or its disk at the same time would meet it.
    pub fn add(&self, vm: &Arc<SimVm>) {
        let mut vms = locked(&self.vms);
        for other in vms.values().filter(|other| other.lives()) {
            if other.slot == vm.slot || other.disk == vm.disk {
                self.violation(format!(
                    "{} and {} share a slot or a disk",
                    other.sandbox, vm.sandbox
                ));
            }
        }
        vms.insert(vm.dir.clone(), Arc::clone(vm));
    }

    pub fn vm_in(&self, dir: &Path) -> Option<Arc<SimVm>> {
        locked(&self.vms).get(dir).cloned()
    }

    pub fn vm_at(&self, slot: u16) -> Option<Arc<SimVm>> {
        locked(&self.vms)
            .values()
            .find(|vm| vm.slot == slot && vm.lives())
            .cloned()
    }

    pub fn take_away(&self, dir: &Path) {
        locked(&self.vms).remove(dir);
    }

    /// All VMs that there are.
    pub fn vms(&self) -> Vec<Arc<SimVm>> {
        locked(&self.vms).values().cloned().collect()
    }
}

pub fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
