//! History of usage in two rings of fixed step: seconds and minutes. A ring grows with its content
//! up to its capacity, so a sandbox of a minute takes 2 KiB, and one of a day [`MAX_BYTES`].

use std::collections::VecDeque;
use std::mem::size_of;

const SECOND_MS: i64 = 1000;
const MINUTE_MS: i64 = 60 * SECOND_MS;
/// Points of seconds: ten minutes.
pub const SECONDS: usize = 600;
/// Points of minutes: a day.
pub const MINUTES: usize = 1440;
/// Most bytes that the points of one sandbox take. Growing by doubling can hold as much again for a
/// ring, which the capacity bounds.
pub const MAX_BYTES: usize = (SECONDS + MINUTES) * size_of::<Packed>();

/// Usage at one time, or over the time of one point.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Hundredths of a percent of one processor.
    pub cpu_hundredths: u32,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    /// Bytes per second to the sandbox and from it.
    pub rx_bytes_per_sec: u32,
    pub tx_bytes_per_sec: u32,
    /// Memory and disk that the guest says it uses, bytes; `None` until it has been asked.
    pub guest: Option<GuestUsage>,
}

/// Memory and disk that a guest says it uses, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuestUsage {
    pub memory_bytes: u64,
    pub disk_bytes: u64,
}

/// Usage with the begin of the time that it is about, milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    pub time_ms: i64,
    pub usage: Usage,
}

/// Times and step of a wanted series. Times are milliseconds since the Unix epoch; both ends are
/// included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    pub from_ms: i64,
    pub to_ms: i64,
    pub step_sec: u32,
}

/// Points with the same time between them, oldest first; times without a measurement are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    pub step_sec: u32,
    pub points: Vec<Point>,
}

/// History of one sandbox, or of the host.
#[derive(Debug)]
pub struct History {
    seconds: Ring,
    minutes: Ring,
    /// Minute that is not over yet, and what was measured in it.
    minute: Option<(i64, Mean)>,
}

/// A point in a ring: sizes in KiB, [`ABSENT`] where there is none.
#[derive(Debug, Clone, Copy)]
struct Packed {
    cpu: u32,
    memory: u32,
    disk: u32,
    rx: u32,
    tx: u32,
    guest_memory: u32,
    guest_disk: u32,
}

const ABSENT: u32 = u32::MAX;

#[derive(Debug)]
struct Ring {
    step_ms: i64,
    capacity: usize,
    /// Number of the first point: its time divided by the step.
    first: i64,
    points: VecDeque<Packed>,
}

/// Mean of rates, and maximum of sizes.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    count: u64,
    cpu: u64,
    rx: u64,
    tx: u64,
    peak: Usage,
}

impl Default for History {
    fn default() -> Self {
        Self {
            seconds: Ring::new(SECOND_MS, SECONDS),
            minutes: Ring::new(MINUTE_MS, MINUTES),
            minute: None,
        }
    }
}

impl History {
    /// Adds what was measured at a time.
    pub fn record(&mut self, at_ms: i64, usage: Usage) {
        self.seconds.insert(at_ms, Packed::from(usage));
        let number = at_ms.div_euclid(MINUTE_MS);
        if let Some((over, mean)) = self.minute.take_if(|(minute, _)| *minute != number) {
            let time_ms = over.saturating_mul(MINUTE_MS);
            self.minutes.insert(time_ms, Packed::from(mean.usage()));
        }
        let (_, mean) = self.minute.get_or_insert_with(|| (number, Mean::default()));
        mean.add(usage);
    }

    /// Returns the series of a query. Its points are of seconds if they reach back as far as the
    /// query and a step of less than a minute is wanted, else of minutes; the last minute is that
    /// which is not over yet.
    #[must_use]
    pub fn series(&self, query: Query, now_ms: i64) -> Series {
        // The caller's "ten minutes ago" is some time ago when it gets here.
        let oldest = now_ms.saturating_sub(SECOND_MS * SECONDS as i64 + MINUTE_MS);
        let step = i64::from(query.step_sec.max(1));
        let is_wanted = |point: &Point| {
            let end = query.to_ms;
            (query.from_ms..=end).contains(&point.time_ms)
        };
        if step < 60 && query.from_ms >= oldest {
            return merge(self.seconds.points().filter(is_wanted), step);
        }
        let step = (step + 59) / 60 * 60;
        let unfinished = self.minute.map(|(number, mean)| Point {
            time_ms: number.saturating_mul(MINUTE_MS),
            usage: mean.usage(),
        });
        // A point of a minute that has begun before the query is about some of its time.
        let is_wanted = |point: &Point| {
            let from = query.from_ms.saturating_sub(MINUTE_MS - 1);
            (from..=query.to_ms).contains(&point.time_ms)
        };
        let points = self.minutes.points().chain(unfinished);
        merge(points.filter(is_wanted), step)
    }

    /// Drops points that are older than the rings reach, and their memory: for a sandbox that is
    /// not measured any more.
    pub fn trim(&mut self, now_ms: i64) {
        self.seconds.trim(now_ms);
        self.minutes.trim(now_ms);
    }

    /// Returns the bytes that its points take.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let points = self.seconds.points.capacity() + self.minutes.points.capacity();
        points * size_of::<Packed>()
    }
}

/// Merges points into steps of so many seconds.
fn merge(points: impl Iterator<Item = Point>, step_sec: i64) -> Series {
    let step_ms = step_sec.saturating_mul(SECOND_MS);
    let mut merged: Vec<(i64, Mean)> = Vec::new();
    for point in points {
        let number = point.time_ms.div_euclid(step_ms);
        match merged.last_mut() {
            Some((last, mean)) if *last == number => mean.add(point.usage),
            _ => {
                let mut mean = Mean::default();
                mean.add(point.usage);
                merged.push((number, mean));
            }
        }
    }
    let points = merged.into_iter().map(|(number, mean)| Point {
        time_ms: number.saturating_mul(step_ms),
        usage: mean.usage(),
    });
    Series {
        step_sec: u32::try_from(step_sec).unwrap_or(u32::MAX),
        points: points.collect(),
    }
}

impl Ring {
    fn new(step_ms: i64, capacity: usize) -> Self {
        Self {
            step_ms,
            capacity,
            first: 0,
            points: VecDeque::new(),
        }
    }

    /// Inserts a point at the end. It replaces one of the same time, and later ones: the clock was
    /// set back then.
    fn insert(&mut self, time_ms: i64, point: Packed) {
        let number = time_ms.div_euclid(self.step_ms);
        let kept = usize::try_from(number.saturating_sub(self.first)).unwrap_or(0);
        self.points.truncate(kept);
        if self.points.is_empty() || kept >= self.points.len() + self.capacity {
            self.points.clear();
            self.first = number;
        }
        while self.first + (self.points.len() as i64) < number {
            self.push(Packed::NONE);
        }
        self.push(point);
    }

    fn push(&mut self, point: Packed) {
        if self.points.len() >= self.capacity {
            self.points.pop_front();
            self.first += 1;
        } else if self.points.len() == self.points.capacity() {
            // Doubling, but never beyond the capacity of the ring.
            let more = self.points.len().max(16);
            let more = more.min(self.capacity - self.points.len());
            self.points.reserve_exact(more);
        }
        self.points.push_back(point);
    }

    fn trim(&mut self, now_ms: i64) {
        let oldest = now_ms.div_euclid(self.step_ms) - self.capacity as i64;
        while self.first < oldest && self.points.pop_front().is_some() {
            self.first += 1;
        }
        if self.points.len() * 2 < self.points.capacity() {
            self.points.shrink_to_fit();
        }
    }

    fn points(&self) -> impl DoubleEndedIterator<Item = Point> {
        let numbered = self.points.iter().enumerate();
        numbered.filter_map(|(index, packed)| {
            Some(Point {
                time_ms: (self.first + index as i64).saturating_mul(self.step_ms),
                usage: packed.usage()?,
            })
        })
    }
}

impl Packed {
    const NONE: Self = Self {
        cpu: ABSENT,
        memory: 0,
        disk: 0,
        rx: 0,
        tx: 0,
        guest_memory: ABSENT,
        guest_disk: ABSENT,
    };

    fn usage(self) -> Option<Usage> {
        let bytes = |kib: u32| u64::from(kib) * 1024;
        let guest = (self.guest_memory != ABSENT).then(|| GuestUsage {
            memory_bytes: bytes(self.guest_memory),
            disk_bytes: bytes(self.guest_disk),
        });
        (self.cpu != ABSENT).then_some(Usage {
            cpu_hundredths: self.cpu,
            memory_bytes: bytes(self.memory),
            disk_bytes: bytes(self.disk),
            rx_bytes_per_sec: self.rx,
            tx_bytes_per_sec: self.tx,
            guest,
        })
    }
}

impl From<Usage> for Packed {
    fn from(usage: Usage) -> Self {
        let kib =
            |bytes: u64| u32::try_from(bytes / 1024).map_or(ABSENT - 1, |kib| kib.min(ABSENT - 1));
        let guest = usage.guest;
        Self {
            cpu: usage.cpu_hundredths.min(ABSENT - 1),
            memory: kib(usage.memory_bytes),
            disk: kib(usage.disk_bytes),
            rx: usage.rx_bytes_per_sec,
            tx: usage.tx_bytes_per_sec,
            guest_memory: guest.map_or(ABSENT, |guest| kib(guest.memory_bytes)),
            guest_disk: guest.map_or(ABSENT, |guest| kib(guest.disk_bytes)),
        }
    }
}

impl Mean {
    fn add(&mut self, usage: Usage) {
        self.count += 1;
        self.cpu += u64::from(usage.cpu_hundredths);
        self.rx += u64::from(usage.rx_bytes_per_sec);
        self.tx += u64::from(usage.tx_bytes_per_sec);
        self.peak.memory_bytes = self.peak.memory_bytes.max(usage.memory_bytes);
        self.peak.disk_bytes = self.peak.disk_bytes.max(usage.disk_bytes);
        if let Some(guest) = usage.guest {
            let peak = self.peak.guest.get_or_insert_default();
            peak.memory_bytes = peak.memory_bytes.max(guest.memory_bytes);
            peak.disk_bytes = peak.disk_bytes.max(guest.disk_bytes);
        }
    }

    fn usage(self) -> Usage {
        let mean = |sum: u64| u32::try_from(sum / self.count.max(1)).unwrap_or(u32::MAX);
        Usage {
            cpu_hundredths: mean(self.cpu),
            rx_bytes_per_sec: mean(self.rx),
            tx_bytes_per_sec: mean(self.tx),
            ..self.peak
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const NOON: i64 = 1_800_000_000_000;

    fn usage(cpu: u32, memory_kib: u64) -> Usage {
        Usage {
            cpu_hundredths: cpu,
            memory_bytes: memory_kib * 1024,
            ..Usage::default()
        }
    }

    fn query(from_ms: i64, step_sec: u32) -> Query {
        Query {
            from_ms,
            to_ms: i64::MAX,
            step_sec,
        }
    }

    #[test]
    fn day_of_seconds_stays_in_bound() {
        let mut history = History::default();
        let guest = Some(GuestUsage {
            memory_bytes: 5 << 40,
            disk_bytes: 1024,
        });
        for second in 0..2 * 86_400 {
            let usage = Usage {
                guest,
                ..usage(second, 7)
            };
            history.record(NOON + i64::from(second) * 1000, usage);
        }
        assert_eq!(history.heap_bytes(), MAX_BYTES);
        const { assert!(MAX_BYTES < 60 << 10) };
        let end = NOON + 2 * 86_400_000;
        let seconds = history.series(query(end - 600_000, 1), end + 100);
        assert_eq!((seconds.step_sec, seconds.points.len()), (1, 600));
        assert_eq!(seconds.points[599].usage.cpu_hundredths, 2 * 86_400 - 1);
        let minutes = history.series(query(end - 86_400_000, 1), end);
        assert_eq!((minutes.step_sec, minutes.points.len()), (60, 1440));
        // The most that KiB in 32 bits hold.
        let last = minutes.points[0].usage.guest.unwrap();
        assert_eq!(last.memory_bytes, (u64::from(u32::MAX) - 1) * 1024);
    }

    #[test]
    fn steps_have_mean_rates_peak_sizes() {
        let mut history = History::default();
        for second in 0..120 {
            let usage = usage(if second < 60 { 100 } else { 300 }, second);
            history.record(NOON + i64::try_from(second).unwrap() * 1000, usage);
        }
        let now = NOON + 119_000;
        let series = history.series(query(NOON, 10), now);
        assert_eq!((series.step_sec, series.points.len()), (10, 12));
        assert_eq!(series.points[1].time_ms, NOON + 10_000);
        assert_eq!(series.points[1].usage, usage(100, 19));
        let minutes = history.series(query(NOON, 60), now);
        assert_eq!(minutes.points.len(), 2, "the last minute is not over");
        assert_eq!(minutes.points[1].usage, usage(300, 119));
        let both = history.series(query(NOON, 61), now);
        assert_eq!((both.step_sec, both.points.len()), (120, 1));
        assert_eq!(both.points[0].usage, usage(200, 119));
    }

    #[test]
    fn pauses_leave_gaps() {
        let mut history = History::default();
        for second in [0, 1, 5] {
            history.record(NOON + second * 1000, usage(1, 1));
        }
        let series = history.series(query(NOON, 1), NOON + 5000);
        let times: Vec<i64> = series
            .points
            .iter()
            .map(|point| point.time_ms - NOON)
            .collect();
        assert_eq!(times, [0, 1000, 5000]);
        history.trim(NOON + 3_600_000);
        assert!(
            history
                .series(query(NOON, 1), NOON + 5000)
                .points
                .is_empty()
        );
        history.trim(NOON + 2 * 86_400_000);
        assert_eq!(history.heap_bytes(), 0);
    }

    proptest! {
        /// Against a map from seconds to values: whatever the clock does, the ring has the newest
        /// values, in their order, and never more than its capacity.
        #[test]
        fn ring_keeps_newest_values(moves in prop::collection::vec(-3000_i64..9000, 1..400)) {
            let mut ring = Ring::new(1000, 50);
            let mut model = BTreeMap::new();
            let mut now = NOON;
            for (value, step) in moves.into_iter().enumerate() {
                now += step;
                let value = u32::try_from(value).unwrap();
                let second = now.div_euclid(1000);
                model.retain(|at, _| *at < second && *at > second - 50);
                model.insert(second, value);
                ring.insert(now, Packed::from(usage(value, 0)));
                let found: Vec<(i64, u32)> = ring
                    .points()
                    .map(|point| (point.time_ms / 1000, point.usage.cpu_hundredths))
                    .collect();
                let expected: Vec<(i64, u32)> = model.clone().into_iter().collect();
                prop_assert_eq!(found, expected);
                prop_assert!(ring.points.capacity() <= 50);
            }
        }
    }
}
