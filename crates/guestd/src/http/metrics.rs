//! `GET /metrics`: resource usage of the guest, as its kernel counts it.

use std::fs;

use axum::Json;
use axum::extract::State;
use guest_rpc::http::Metrics;
use nix::sys::statvfs::statvfs;
use parking_lot::Mutex;

use crate::Agent;

/// CPU time at the call before, so that each call tells about the time since then (the first: since
/// boot).
#[derive(Debug, Default)]
pub struct CpuMeter(Mutex<Ticks>);

/// Clock ticks of all CPUs together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    total: u64,
}

impl CpuMeter {
    fn used_percent(&self, now: Ticks) -> f32 {
        let before = std::mem::replace(&mut *self.0.lock(), now);
        let total = now.total.saturating_sub(before.total);
        let busy = now.busy.saturating_sub(before.busy).min(total);
        if total == 0 {
            0.0
        } else {
            (busy as f64 * 100.0 / total as f64) as f32
        }
    }
}

/// Handles `/metrics`.
pub async fn metrics(State(agent): State<Agent>) -> Json<Metrics> {
    let (ticks, cpu_count) = parse_stat(&fs::read_to_string("/proc/stat").unwrap_or_default());
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = |field: &str| kibibytes(&meminfo, field).saturating_mul(1024);
    let mem_total = memory("MemTotal:");
    let mem_cache = memory("Cached:");
    let mem_used = mem_total.saturating_sub(memory("MemAvailable:"));
    let (disk_used, disk_total) = disk();
    Json(Metrics {
        ts: stdx::time::since_epoch().as_secs().cast_signed(),
        cpu_count,
        cpu_used_pct: agent.cpu.used_percent(ticks),
        mem_total,
        mem_used,
        mem_cache,
        mem_total_mib: mem_total >> 20,
        mem_used_mib: mem_used >> 20,
        disk_used,
        disk_total,
    })
}

/// Returns used and total bytes of the root file system.
fn disk() -> (u64, u64) {
    statvfs("/").map_or((0, 0), |fs| {
        let unit = fs.fragment_size();
        (
            fs.blocks()
                .saturating_sub(fs.blocks_free())
                .saturating_mul(unit),
            fs.blocks().saturating_mul(unit),
        )
    })
}

/// Parses `/proc/stat`: the sum line, and the number of CPUs, which have a line each.
fn parse_stat(text: &str) -> (Ticks, u32) {
    let mut ticks = Ticks::default();
    let mut cpus = 0;
    for line in text.lines().filter(|l| l.starts_with("cpu")) {
        let Some(rest) = line.strip_prefix("cpu ") else {
            cpus += 1;
            continue;
        };
        // user nice system idle iowait irq softirq steal; guest time is in user already.
        let fields: Vec<u64> = rest
            .split_whitespace()
            .take(8)
            .filter_map(|f| f.parse().ok())
            .collect();
        let idle: u64 = fields.iter().skip(3).take(2).sum();
        ticks.total = fields.iter().sum();
        ticks.busy = ticks.total.saturating_sub(idle);
    }
    (ticks, cpus)
}

fn kibibytes(meminfo: &str, field: &str) -> u64 {
    let line = meminfo.lines().find(|l| l.starts_with(field));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernel_s_tables() {
        let text = "cpu  10 0 10 70 10 0 0 0 5 0\ncpu0 1 2 3\ncpu1 1 2 3\nintr 5\n";
        assert_eq!(
            parse_stat(text),
            (
                Ticks {
                    busy: 20,
                    total: 100
                },
                2
            )
        );
        assert_eq!(kibibytes("MemTotal:  100 kB\nCached: 7 kB\n", "Cached:"), 7);
        assert_eq!(parse_stat("").1, 0);
    }

    #[test]
    fn percent_is_since_the_call_before() {
        let meter = CpuMeter::default();
        assert!(
            (meter.used_percent(Ticks {
                busy: 20,
                total: 100
            }) - 20.0)
                .abs()
                < 0.01
        );
        assert!(
            (meter.used_percent(Ticks {
                busy: 70,
                total: 200
            }) - 50.0)
                .abs()
                < 0.01
        );
        assert!(
            meter
                .used_percent(Ticks {
                    busy: 70,
                    total: 200
                })
                .abs()
                < 0.01
        );
    }
}
