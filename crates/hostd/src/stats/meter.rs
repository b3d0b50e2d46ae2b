//! Turns counters of the kernel into usage, and keeps the history of one sandbox and of the host.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use linux::file::Space;
use linux::usage::{self, HostTicks, LinkBytes};
use parking_lot::Mutex;

use super::history::{GuestUsage, History, Point, Query, Series, Usage};
use crate::network::TAP;

/// Processor time per second below which a sandbox is idle: then neither its memory nor its disk
/// nor its traffic changes much, and they are read only every [`IDLE_READ`].
const IDLE_CPU: u32 = 200;
const IDLE_READ: Duration = Duration::from_secs(10);
/// Least time between two questions to one guest.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Age up to which the newest point counts as the present.
const PRESENT_MS: i64 = 5000;

/// Places from which the usage of a running sandbox is read.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    /// Process of the VMM.
    pub(super) pid: u32,
    pub(super) group: Option<PathBuf>,
    /// Directory with the files of its disk.
    pub(super) dir: PathBuf,
}

/// Usage of one sandbox, with its history. Empty until the sandbox runs.
#[derive(Debug, Default)]
pub struct SandboxStats(Mutex<SandboxState>);

#[derive(Debug, Default)]
struct SandboxState {
    history: History,
    /// Counters of the VMM that ran at the last reading.
    counters: Option<Counters>,
    usage: Usage,
    /// Newest point of the VMM that runs.
    latest: Option<Point>,
    asked_at: Option<Instant>,
}

/// Counters at one reading.
#[derive(Debug, Clone, Copy)]
struct Counters {
    pid: u32,
    read_at: Instant,
    cpu: Duration,
    link: LinkBytes,
    /// Time of the last reading of everything but the processor time.
    all_read_at: Instant,
}

impl SandboxStats {
    /// Reads the counters of a running sandbox. Returns true if its guest is to be asked what it
    /// uses. Blocking, for some microseconds.
    pub(super) fn measure(&self, sources: &Sources, now: Instant, now_ms: i64) -> bool {
        let Some(cpu) = read_cpu(sources) else {
            return false;
        };
        let mut state = self.0.lock();
        let before = state.counters.filter(|before| before.pid == sources.pid);
        let Some(before) = before else {
            state.start(sources, cpu, now);
            return false;
        };
        let elapsed = now.duration_since(before.read_at);
        state.usage.cpu_hundredths = hundredths(cpu.saturating_sub(before.cpu), elapsed);
        let mut counters = Counters {
            cpu,
            read_at: now,
            ..before
        };
        let is_idle = state.usage.cpu_hundredths < IDLE_CPU;
        if !is_idle || now.duration_since(before.all_read_at) >= IDLE_READ {
            let link = usage::link_bytes(sources.pid, TAP).unwrap_or(before.link);
            let elapsed = now.duration_since(before.all_read_at);
            // From the TAP's end: what it sends is what the guest receives.
            let received = link.sent.saturating_sub(before.link.sent);
            let sent = link.received.saturating_sub(before.link.received);
            state.usage.rx_bytes_per_sec = per_second(received, elapsed);
            state.usage.tx_bytes_per_sec = per_second(sent, elapsed);
            state.read_sizes(sources);
            counters.link = link;
            counters.all_read_at = now;
        }
        state.counters = Some(counters);
        let usage = state.usage;
        state.history.record(now_ms, usage);
        state.latest = Some(Point {
            time_ms: now_ms / 1000 * 1000,
            usage,
        });
        let is_due = state
            .asked_at
            .is_none_or(|asked| now.duration_since(asked) >= ASK_EVERY);
        let ask = !is_idle && is_due;
        if ask {
            state.asked_at = Some(now);
        }
        ask
    }

    /// Keeps what the guest says of itself.
    pub(super) fn set_guest(&self, guest: GuestUsage) {
        self.0.lock().usage.guest = Some(guest);
    }

    /// Notes that the sandbox does not run, and drops what is too old.
    pub(super) fn rest(&self, now_ms: i64) {
        let mut state = self.0.lock();
        state.counters = None;
        state.latest = None;
        state.usage = Usage::default();
        state.asked_at = None;
        state.history.trim(now_ms);
    }

    /// Returns the present usage; `None` while the sandbox does not run.
    #[must_use]
    pub fn latest(&self, now_ms: i64) -> Option<Point> {
        let latest = self.0.lock().latest;
        latest.filter(|point| now_ms - point.time_ms <= PRESENT_MS)
    }

    /// Returns the series of a query.
    #[must_use]
    pub fn series(&self, query: Query, now_ms: i64) -> Series {
        self.0.lock().history.series(query, now_ms)
    }
}

impl SandboxState {
    /// Begins to measure another VMM: the counters of one before mean nothing for it.
    fn start(&mut self, sources: &Sources, cpu: Duration, now: Instant) {
        self.latest = None;
        self.counters = Some(Counters {
            pid: sources.pid,
            read_at: now,
            cpu,
            link: usage::link_bytes(sources.pid, TAP).unwrap_or_default(),
            all_read_at: now,
        });
        self.read_sizes(sources);
    }

    fn read_sizes(&mut self, sources: &Sources) {
        let group = sources.group.as_deref();
        let of_group = group.and_then(|group| usage::group_memory(group).ok());
        let memory = of_group.or_else(|| usage::process_memory(sources.pid).ok());
        self.usage.memory_bytes = memory.unwrap_or(self.usage.memory_bytes);
        self.usage.disk_bytes = crate::disk::used_bytes(&sources.dir);
    }
}

fn read_cpu(sources: &Sources) -> Option<Duration> {
    let group = sources.group.as_deref();
    let of_group = group.and_then(|group| usage::group_cpu_time(group).ok());
    of_group.or_else(|| usage::process_cpu_time(sources.pid).ok())
}

/// Returns the hundredths of a percent of one processor that `used` is of `elapsed`.
fn hundredths(used: Duration, elapsed: Duration) -> u32 {
    let part = used.as_micros().saturating_mul(10_000) / elapsed.as_micros().max(1);
    u32::try_from(part).unwrap_or(u32::MAX)
}

fn per_second(bytes: u64, elapsed: Duration) -> u32 {
    let rate = u128::from(bytes) * 1_000_000 / elapsed.as_micros().max(1);
    u32::try_from(rate).unwrap_or(u32::MAX)
}

/// Usage of the host, with its history. Its network is that of its sandboxes.
#[derive(Debug, Default)]
pub struct HostStats(Mutex<HostState>);

#[derive(Debug, Default)]
struct HostState {
    history: History,
    ticks: Option<HostTicks>,
}

impl HostStats {
    /// Reads the counters of the host, whose sandboxes use as much of the network as in `traffic`.
    pub(super) fn measure(&self, disk: Space, traffic: Usage, now_ms: i64) {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
        let memory = usage::host_memory().unwrap_or_default();
        let ticks = usage::host_ticks().unwrap_or_default();
        let mut state = self.0.lock();
        let Some(before) = state.ticks.replace(ticks) else {
            return;
        };
        let total = ticks.total.saturating_sub(before.total).max(1);
        let busy = ticks.busy.saturating_sub(before.busy).min(total);
        let usage = Usage {
            cpu_hundredths: u32::try_from(busy * cpus * 10_000 / total).unwrap_or(u32::MAX),
            memory_bytes: memory.total.saturating_sub(memory.available),
            disk_bytes: disk.total.saturating_sub(disk.free),
            ..traffic
        };
        state.history.record(now_ms, usage);
    }

    /// Returns the series of a query.
    #[must_use]
    pub fn series(&self, query: Query, now_ms: i64) -> Series {
        self.0.lock().history.series(query, now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counters of this test's own process, which has no TAP.
    fn own() -> Sources {
        Sources {
            pid: std::process::id(),
            group: None,
            dir: PathBuf::from("/nowhere"),
        }
    }

    #[test]
    fn first_reading_gives_no_point() {
        let stats = SandboxStats::default();
        let start = Instant::now();
        assert!(!stats.measure(&own(), start, 1_000_000));
        assert_eq!(stats.latest(1_000_000), None);
        stats.measure(&own(), start + Duration::from_secs(1), 1_001_000);
        let point = stats.latest(1_001_500).unwrap();
        assert!(point.usage.memory_bytes > 1 << 20, "{point:?}");
        assert_eq!(stats.latest(1_020_000), None, "it is too old");
    }

    #[test]
    fn resumed_sandbox_starts_afresh() {
        let stats = SandboxStats::default();
        let start = Instant::now();
        stats.measure(&own(), start, 1_000_000);
        stats.measure(&own(), start + Duration::from_secs(1), 1_001_000);
        stats.set_guest(GuestUsage::default());
        stats.rest(1_002_000);
        assert_eq!(stats.latest(1_002_000), None);
        let other = Sources { pid: 1, ..own() };
        stats.measure(&other, start + Duration::from_secs(3), 1_003_000);
        assert_eq!(stats.latest(1_003_000), None, "no point over the pause");
        let query = Query {
            from_ms: 0,
            to_ms: i64::MAX,
            step_sec: 60,
        };
        let series = stats.series(query, 1_003_000);
        assert_eq!(series.points.len(), 1, "what was before is kept");
    }

    #[test]
    fn guest_is_asked_only_while_it_works() {
        let stats = SandboxStats::default();
        let start = Instant::now();
        stats.measure(&own(), start, 0);
        let spent = usage::process_cpu_time(std::process::id()).unwrap();
        while usage::process_cpu_time(std::process::id()).unwrap()
            < spent + Duration::from_millis(30)
        {
            std::hint::spin_loop();
        }
        let second = |n| start + Duration::from_secs(n);
        assert!(stats.measure(&own(), second(1), 1000), "30 ms of a second");
        let far = Duration::from_secs(1_000_000);
        assert!(!stats.measure(&own(), second(2) + far, 2000), "it was idle");
    }
}
