//! What a process uses, as the kernel tells.

use std::fmt;
use std::time::Duration;

use testkit::eventually;

/// Bytes that may be in use more than before an attack.
const SLACK_BYTES: u64 = 20 << 20;
/// Descriptors that may be there more: connections that the test's own client keeps.
const SLACK_DESCRIPTORS: usize = 32;
/// For connections to end.
const SETTLE: Duration = Duration::from_secs(60);
/// Resets the peak (proc_pid_clear_refs(5)).
const RESET_PEAK: &str = "5";

#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pid: u32,
    bytes: u64,
    peak_bytes: u64,
    cpu: Duration,
    descriptors: usize,
}

/// What was used in a while.
#[derive(Debug)]
pub struct Used {
    cpu: Duration,
    wall: Duration,
    peak_bytes: u64,
    growth: [u64; 2],
}

impl Usage {
    pub fn of(pid: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let kilobytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.unwrap().trim().trim_end_matches(" kB");
            number.parse::<u64>().unwrap() << 10
        };
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count();
        Self {
            pid,
            bytes: kilobytes("RssAnon:"),
            peak_bytes: kilobytes("VmHWM:"),
            cpu: cpu(pid),
            descriptors,
        }
    }

    /// Peaks count from here on.
    pub fn begin_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid), RESET_PEAK).unwrap();
    }

    pub fn since(&self, now: &Self, wall: Duration) -> Used {
        Used {
            cpu: now.cpu - self.cpu,
            wall,
            peak_bytes: now.peak_bytes,
            growth: [self.bytes, now.bytes],
        }
    }

    /// Waits until memory and descriptors are as they were.
    pub async fn check_is_back(&self, attack: &str) {
        let what = format!("usage of the agent to be back after {attack}, to {self:?}");
        let back = async || {
            let now = Self::of(self.pid);
            (now.bytes < self.bytes + SLACK_BYTES
                && now.descriptors < self.descriptors + SLACK_DESCRIPTORS)
                .then_some(())
        };
        eventually(&what, SETTLE, back).await;
    }
}

/// Returns the processor time of all threads, in ticks of 10 ms (proc_pid_stat(5), fields 14 and
/// 15).
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(')').next().unwrap();
    let ticks: u64 = fields
        .split_ascii_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}

impl fmt::Display for Used {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = 100.0 * self.cpu.as_secs_f64() / self.wall.as_secs_f64();
        write!(
            out,
            "{percent:.0} % of a processor in {:.1} s, at most {} MiB resident, {} to {} MiB of its own",
            self.wall.as_secs_f64(),
            self.peak_bytes >> 20,
            self.growth[0] >> 20,
            self.growth[1] >> 20
        )
    }
}
