//! Turns counters of the kernel into usage, and keeps the history of one sandbox and of the host.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use linux::file::Space;
use linux::usage::{self, HostTicks, LinkBytes};
use parking_lot::Mutex;

use super::history::{GuestUsage, History, Point, Query, Series, Usage};

/// Processor time per second below which a sandbox is idle: then neither its memory nor its disk
/// nor its traffic changes much, and they are read only every [`IDLE_READ`].
const IDLE_CPU: u32 = 200;
const IDLE_READ: Duration = Duration::from_secs(10);
/// Least time between two questions to one guest.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Time without an answer after which what a guest said is no longer its usage: three questions.
const GUEST_STALE: Duration = Duration::from_secs(15);
/// Age up to which the newest point counts as the present.
const PRESENT_MS: i64 = 5000;

/// Places from which the usage of a running sandbox is read.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    /// Process of the VMM.
    pub(super) pid: u32,
    pub(super) group: Option<PathBuf>,
    /// Host's end of its veth pair. Not the TAP: the VMM has left the namespace with that.
    pub(super) link: Option<String>,
}

/// What else is to be read of a sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Its guest is to be asked what it uses.
    pub(super) guest: bool,
    /// Its disk is to be read, apart, since a file system may not answer.
    pub(super) disk: bool,
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
    /// Time at which the guest was to be asked first since its last answer.
    due_since: Option<Instant>,
    /// True until the disk has been read again.
    is_disk_due: bool,
}

/// Counters at one reading.
#[derive(Debug, Clone, Copy)]
struct Counters {
    pid: u32,
    read_at: Instant,
    cpu: Duration,
    link: LinkBytes,
    /// Time of the last reading of everything but the processor time.
    rest_read_at: Instant,
    /// True if the sandbox was idle then: its rates are those of idleness, and last.
    rest_was_idle: bool,
}

/// Everything but the processor time, as it was read.
#[derive(Debug, Clone, Copy)]
struct Rest {
    link: Option<LinkBytes>,
    memory_bytes: Option<u64>,
}

impl SandboxStats {
    /// Reads the counters of a running sandbox, under no lock: request handlers wait for that.
    /// Returns what else is to be read. Blocking, for some microseconds. Only one thread may call this
    /// and [`Self::rest`].
    pub(super) fn measure(&self, sources: &Sources, now: Instant, now_ms: i64) -> Due {
        let Some(cpu) = read_cpu(sources) else {
            return Due::default();
        };
        let before = self.0.lock().counters;
        let Some(before) = before.filter(|before| before.pid == sources.pid) else {
            let rest = read_rest(sources);
            let mut state = self.0.lock();
            state.start(sources.pid, cpu, rest, now);
            return Due {
                guest: false,
                disk: state.is_disk_due,
            };
        };
        let elapsed = now.duration_since(before.read_at);
        let is_idle = hundredths(cpu.saturating_sub(before.cpu), elapsed) < IDLE_CPU;
        let is_old = now.duration_since(before.rest_read_at) >= IDLE_READ;
        let rest = (!is_idle || is_old).then(|| read_rest(sources));
        let mut state = self.0.lock();
        state.apply(before, cpu, rest, now);
        let due = Due {
            guest: !is_idle && state.is_due(now),
            disk: state.is_disk_due,
        };
        state.record(now_ms);
        due
    }

    /// Keeps what its disk takes.
    pub(super) fn set_disk(&self, bytes: u64) {
        let mut state = self.0.lock();
        state.usage.disk_bytes = bytes;
        state.is_disk_due = false;
    }

    /// Returns the time at which its guest was asked last.
    pub(super) fn asked_at(&self) -> Option<Instant> {
        self.0.lock().asked_at
    }

    /// Notes that its guest is asked.
    pub(super) fn note_asked(&self, now: Instant) {
        self.0.lock().asked_at = Some(now);
    }

    /// Keeps what the guest says of itself.
    pub(super) fn set_guest(&self, guest: GuestUsage) {
        let mut state = self.0.lock();
        state.usage.guest = Some(guest);
        state.due_since = None;
    }

    /// Notes that the sandbox does not run, and drops what is too old.
    pub(super) fn rest(&self, now_ms: i64) {
        let mut state = self.0.lock();
        state.counters = None;
        state.latest = None;
        state.usage = Usage::default();
        state.asked_at = None;
        state.due_since = None;
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
    fn start(&mut self, pid: u32, cpu: Duration, rest: Rest, now: Instant) {
        self.latest = None;
        self.counters = Some(Counters {
            pid,
            read_at: now,
            cpu,
            link: rest.link.unwrap_or_default(),
            rest_read_at: now,
            rest_was_idle: false,
        });
        self.set_sizes(rest);
    }

    /// Computes usage out of what was read; `rest` is `None` where the sandbox is idle and the rest
    /// was read a short time ago.
    fn apply(&mut self, before: Counters, cpu: Duration, rest: Option<Rest>, now: Instant) {
        let elapsed = now.duration_since(before.read_at);
        self.usage.cpu_hundredths = hundredths(cpu.saturating_sub(before.cpu), elapsed);
        let mut counters = Counters {
            cpu,
            read_at: now,
            ..before
        };
        if let Some(rest) = rest {
            let link = rest.link.unwrap_or(before.link);
            let elapsed = now.duration_since(before.rest_read_at);
            // From the host's end: what that sends is what the sandbox receives.
            let received = link.sent.saturating_sub(before.link.sent);
            let sent = link.received.saturating_sub(before.link.received);
            self.usage.rx_bytes_per_sec = per_second(received, elapsed);
            self.usage.tx_bytes_per_sec = per_second(sent, elapsed);
            self.set_sizes(rest);
            counters.link = link;
            counters.rest_read_at = now;
            counters.rest_was_idle = self.usage.cpu_hundredths < IDLE_CPU;
        } else if !before.rest_was_idle {
            // The rate of a second of work is not that of the idle ones after it.
            self.usage.rx_bytes_per_sec = 0;
            self.usage.tx_bytes_per_sec = 0;
        }
        self.counters = Some(counters);
    }

    fn record(&mut self, now_ms: i64) {
        self.history.record(now_ms, self.usage);
        self.latest = Some(Point {
            time_ms: now_ms / 1000 * 1000,
            usage: self.usage,
        });
    }

    /// Returns true if the guest is to be asked again; drops what it said if it has not answered
    /// for too long.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self
            .asked_at
            .is_none_or(|asked| now.duration_since(asked) >= ASK_EVERY);
        if is_due {
            let since = *self.due_since.get_or_insert(now);
            if now.duration_since(since) > GUEST_STALE {
                self.usage.guest = None;
            }
        }
        is_due
    }

    fn set_sizes(&mut self, rest: Rest) {
        self.usage.memory_bytes = rest.memory_bytes.unwrap_or(self.usage.memory_bytes);
        self.is_disk_due = true;
    }
}

fn read_rest(sources: &Sources) -> Rest {
    let group = sources.group.as_deref();
    let of_group = group.and_then(|group| usage::group_memory(group).ok());
    Rest {
        link: sources
            .link
            .as_deref()
            .and_then(|link| usage::link_bytes(link).ok()),
        memory_bytes: of_group.or_else(|| usage::process_memory(sources.pid).ok()),
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
    space: Option<Space>,
}

impl HostStats {
    /// Keeps the space of the file system with the sandboxes.
    pub(super) fn set_space(&self, space: Space) {
        self.0.lock().space = Some(space);
    }

    /// Returns the space of the file system with the sandboxes as it was read last.
    #[must_use]
    pub fn space(&self) -> Option<Space> {
        self.0.lock().space
    }

    /// Reads the counters of the host, whose sandboxes use as much of the network as in `traffic`.
    pub(super) fn measure(&self, traffic: Usage, now_ms: i64) {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
        let memory = usage::host_memory().unwrap_or_default();
        let ticks = usage::host_ticks().unwrap_or_default();
        let mut state = self.0.lock();
        let before = state.ticks.replace(ticks);
        let (Some(before), Some(disk)) = (before, state.space) else {
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

    /// Counters of this test's own process, which has no link.
    fn own() -> Sources {
        Sources {
            pid: std::process::id(),
            group: None,
            link: None,
        }
    }

    #[test]
    fn first_reading_gives_no_point() {
        let stats = SandboxStats::default();
        let start = Instant::now();
        let due = stats.measure(&own(), start, 1_000_000);
        assert_eq!((due.guest, due.disk), (false, true));
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
    fn reading_holds_no_lock() {
        let group = tempfile::tempdir().unwrap();
        std::fs::write(group.path().join("cpu.stat"), "usage_usec 0\n").unwrap();
        let slow = group.path().join("memory.current");
        nix::unistd::mkfifo(&slow, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let sources = Sources {
            group: Some(group.path().to_owned()),
            ..own()
        };
        let stats = SandboxStats::default();
        std::thread::scope(|scope| {
            scope.spawn(|| stats.measure(&sources, Instant::now(), 0));
            // Waits until the other side has opened it, and reads.
            let answer = std::fs::OpenOptions::new().write(true).open(&slow).unwrap();
            assert!(!stats.0.is_locked());
            drop(answer);
        });
        assert!(stats.0.lock().counters.is_some());
    }

    #[test]
    fn burst_is_not_repeated_while_idle() {
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        let carried = |sent| Rest {
            link: Some(LinkBytes { received: 0, sent }),
            memory_bytes: None,
        };
        let mut state = SandboxState::default();
        state.start(1, Duration::ZERO, carried(0), start);
        let mut rate = |at, cpu_ms, rest| {
            let before = state.counters.unwrap();
            state.apply(before, Duration::from_millis(cpu_ms), rest, second(at));
            state.usage.rx_bytes_per_sec
        };
        assert_eq!(rate(1, 500, Some(carried(100_000_000))), 100_000_000);
        assert_eq!(rate(2, 500, None), 0, "it is not known yet");
        assert_eq!(rate(11, 500, Some(carried(100_020_000))), 2000);
        assert_eq!(
            rate(12, 500, None),
            2000,
            "traffic of an idle sandbox goes on"
        );
        assert_eq!(rate(13, 900, Some(carried(100_020_000))), 0);
    }

    #[test]
    fn silent_guest_stays_due_and_stale() {
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        let stats = SandboxStats::default();
        stats.set_guest(GuestUsage::default());
        let is_due = |at| stats.0.lock().is_due(second(at));
        assert!(is_due(0) && is_due(1), "it has not been asked yet");
        stats.note_asked(second(1));
        assert!(!is_due(5) && is_due(6) && is_due(15));
        assert!(stats.0.lock().usage.guest.is_some());
        assert!(is_due(16));
        assert_eq!(stats.0.lock().usage.guest, None);
        stats.set_guest(GuestUsage::default());
        stats.note_asked(second(17));
        assert!(is_due(40), "it was idle, and has not been asked since");
        assert!(stats.0.lock().usage.guest.is_some());
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
        assert!(
            stats.measure(&own(), second(1), 1000).guest,
            "30 ms of a second"
        );
        let far = Duration::from_secs(1_000_000);
        assert!(
            !stats.measure(&own(), second(2) + far, 2000).guest,
            "it was idle"
        );
    }
}
