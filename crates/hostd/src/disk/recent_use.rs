//! Recent growth of the sandboxes' disks: where the host's disk runs short of space, the sandbox
//! whose disk has grown most is stalled before any other ([`super::room`]).
//!
//! Growth counts half as much after each [`HALF_LIFE`], also while a sandbox is stalled: so a stalled
//! sandbox runs on once others have grown more, or after some half-lives. Kept in memory only: after
//! a restart of the agent all growth is zero.

use std::collections::HashMap;
use std::time::Duration;

use model::SandboxId;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::MIB;

/// Time after which growth counts half as much.
const HALF_LIFE: Duration = Duration::from_secs(10 * 60);
/// Least recent growth for which a sandbox is stalled before others, bytes. A package manager or a
/// build writes that much; less is noise.
pub const MIN_GROWTH: u64 = 256 * MIB;

/// Recent growth of the disk of each running sandbox.
#[derive(Debug, Default)]
pub struct RecentUse(Mutex<HashMap<SandboxId, Entry>>);

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Bytes that the disk used when it was last measured.
    used: u64,
    /// Recent growth at the time `at`, bytes.
    recent: f64,
    at: Instant,
}

impl Entry {
    fn recent_at(&self, now: Instant) -> f64 {
        let age = now.duration_since(self.at).as_secs_f64();
        self.recent * (-age / HALF_LIFE.as_secs_f64()).exp2()
    }
}

impl RecentUse {
    /// Notes how many bytes the disk of a sandbox uses. Returns true if its recent growth is at least
    /// [`MIN_GROWTH`], and no other sandbox's is larger.
    pub fn record_use(&self, id: &SandboxId, used: u64, now: Instant) -> bool {
        let mut entries = self.0.lock();
        let before = entries.get(id).copied().unwrap_or(Entry {
            used,
            recent: 0.0,
            at: now,
        });
        #[allow(clippy::cast_precision_loss, reason = "a comparison of sizes")]
        let grown = used.saturating_sub(before.used) as f64;
        let recent = before.recent_at(now) + grown;
        let at = now;
        entries.insert(id.clone(), Entry { used, recent, at });
        #[allow(clippy::cast_precision_loss, reason = "a comparison of sizes")]
        let is_much = recent >= MIN_GROWTH as f64;
        is_much
            && entries
                .iter()
                .all(|(other, entry)| other == id || entry.recent_at(now) <= recent)
    }

    /// Forgets a sandbox that no longer runs.
    pub fn forget_sandbox(&self, id: &SandboxId) {
        self.0.lock().remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> [SandboxId; 2] {
        [SandboxId::random(), SandboxId::random()]
    }

    #[test]
    fn largest_taker_is_the_one() {
        let [greedy, modest] = ids();
        let (uses, now) = (RecentUse::default(), Instant::now());
        for id in [&greedy, &modest] {
            // Bytes from before the first measurement are no growth.
            assert!(!uses.record_use(id, 8 * MIN_GROWTH, now));
        }
        assert!(!uses.record_use(&greedy, 9 * MIN_GROWTH - 1, now));
        assert!(uses.record_use(&greedy, 10 * MIN_GROWTH, now));
        assert!(!uses.record_use(&modest, 9 * MIN_GROWTH, now));
        assert!(uses.record_use(&greedy, 10 * MIN_GROWTH, now));
        assert!(uses.record_use(&modest, 11 * MIN_GROWTH, now));
        assert!(!uses.record_use(&greedy, 10 * MIN_GROWTH, now));
        uses.forget_sandbox(&modest);
        assert!(uses.record_use(&greedy, 10 * MIN_GROWTH, now));
    }

    #[test]
    fn old_growth_is_forgotten() {
        let [greedy, _] = ids();
        let (uses, now) = (RecentUse::default(), Instant::now());
        uses.record_use(&greedy, 0, now);
        assert!(uses.record_use(&greedy, 2 * MIN_GROWTH, now));
        assert!(uses.record_use(&greedy, 2 * MIN_GROWTH, now + HALF_LIFE / 2));
        assert!(!uses.record_use(&greedy, 2 * MIN_GROWTH, now + 2 * HALF_LIFE));
    }
}
