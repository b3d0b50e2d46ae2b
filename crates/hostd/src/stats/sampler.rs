//! The task that reads the counters of all sandboxes, once a second for all of them together.
//!
//! It owns nothing: whatever it misses, as when the host is so busy that a second passes it by, is
//! a gap in the histories.

use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_rpc::http::Metrics;
use stdx::time::now_ms;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::disk_reader::DiskReader;
use super::history::{GuestUsage, Usage};
use super::meter::Sources;
use crate::host::Host;
use crate::network::Slot;
use crate::sandbox::state::Phase;
use crate::sandbox::{Handle, Manager};

const EVERY: Duration = Duration::from_secs(1);
/// Guests that are asked at the same time.
const ASKED_AT_ONCE: usize = 16;
/// Time for a guest to say what it uses.
const GUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Measures until `shutdown`.
pub(crate) async fn keep_sampling(manager: Arc<Manager>, shutdown: CancellationToken) {
    let mut disks = DiskReader::start();
    let permits = Arc::new(Semaphore::new(ASKED_AT_ONCE));
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let handles = manager.list_sandboxes().await;
        let host = Arc::clone(&manager.host);
        let measured = tokio::task::spawn_blocking(move || measure_all(&host, &handles));
        // A panic in it has been logged already.
        let due = measured.await.unwrap_or_default();
        disks.read(&manager.host, due.disks);
        for handle in due.guests {
            if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
                handle.stats.note_asked(Instant::now());
                tokio::spawn(async move {
                    ask_guest(&handle).await;
                    drop(permit);
                });
            }
        }
    }
}

/// Sandboxes of which more is to be read.
#[derive(Default)]
struct DueSandboxes {
    /// Those whose guests are to be asked, in that order.
    guests: Vec<Handle>,
    disks: Vec<Handle>,
}

/// Measures all sandboxes and the host. Blocking.
fn measure_all(host: &Host, handles: &[Handle]) -> DueSandboxes {
    let now = Instant::now();
    let now_ms = now_ms();
    let mut traffic = Usage::default();
    let mut all_due = DueSandboxes::default();
    for handle in handles {
        let Some(sources) = find_sources(host, handle) else {
            handle.stats.rest(now_ms);
            continue;
        };
        let due = handle.stats.measure(&sources, now, now_ms);
        if due.guest {
            all_due.guests.push(handle.clone());
        }
        if due.disk {
            all_due.disks.push(handle.clone());
        }
        if let Some(point) = handle.stats.latest(now_ms) {
            let usage = point.usage;
            traffic.rx_bytes_per_sec = traffic
                .rx_bytes_per_sec
                .saturating_add(usage.rx_bytes_per_sec);
            traffic.tx_bytes_per_sec = traffic
                .tx_bytes_per_sec
                .saturating_add(usage.tx_bytes_per_sec);
        }
    }
    host.stats.measure(traffic, now_ms);
    // Those that wait longest first: guests that do not answer must not keep others from it.
    let guests = &mut all_due.guests;
    guests.sort_by_cached_key(|handle| handle.stats.asked_at());
    all_due
}

/// Returns where the usage of a sandbox is read; `None` unless it runs.
fn find_sources(host: &Host, handle: &Handle) -> Option<Sources> {
    let slot = {
        let record = handle.record.borrow();
        if record.phase != Phase::Running {
            return None;
        }
        record.slot
    };
    let jails = &host.resources.slot.jails;
    Some(Sources {
        pid: handle.vm.get()?.pid(),
        group: slot.and_then(|slot| jails.jail(slot).cgroup),
        link: slot.map(Slot::veth),
    })
}

/// Asks a guest what it uses, and keeps its answer within the sizes that it has. One that does not
/// answer is asked again when it works.
async fn ask_guest(handle: &Handle) {
    let guest = handle.guest();
    let asked = tokio::time::timeout(GUEST_TIMEOUT, guest.usage());
    if let Ok(Ok(metrics)) = asked.await {
        let record = handle.record.borrow().clone();
        let memory = u64::from(record.spec.machine_size().memory_mb) << 20;
        let disk = record.disk.map_or(u64::MAX, |disk| disk.size_bytes);
        handle.stats.set_guest(bounded(&metrics, memory, disk));
    }
}

fn bounded(metrics: &Metrics, memory: u64, disk: u64) -> GuestUsage {
    GuestUsage {
        memory_bytes: metrics.mem_used.min(memory),
        disk_bytes: metrics.disk_used.min(disk),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_of_guest_is_bounded() {
        let metrics = Metrics {
            mem_used: u64::MAX,
            disk_used: 5,
            ..Metrics::default()
        };
        let usage = bounded(&metrics, 1 << 29, 1 << 32);
        assert_eq!((usage.memory_bytes, usage.disk_bytes), (1 << 29, 5));
    }
}
