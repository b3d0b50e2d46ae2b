//! Which sandbox has taken most of the host's disk lately. Where room runs short, that one is stalled
//! before any other ([`super::room`]).
//!
//! Growth counts half as much after each [`HALF_LIFE`], of stalled sandboxes too: one that was stalled
//! is let go once others have taken more, or after some half-lives. Kept in memory only: after a
//! restart of the agent every sandbox begins at nothing.

use std::collections::HashMap;
use std::time::Duration;

use model::SandboxId;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::MIB;

const HALF_LIFE: Duration = Duration::from_secs(10 * 60);
/// Bytes that a sandbox must have taken to count as the one that takes the room. A package manager
/// or a build writes that much; less is noise.
pub const LEAST_RECENT: u64 = 256 * MIB;

/// Bytes of the disk that each running sandbox has taken lately.
#[derive(Debug, Default)]
pub struct RecentUse(Mutex<HashMap<SandboxId, Entry>>);

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Bytes that its disk used at the last look.
    used: u64,
    /// Bytes that it has grown by, as counted at `at`.
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
    /// Notes how many bytes the disk of a sandbox uses, and returns true if no other has taken more
    /// lately, and this one at least [`LEAST_RECENT`].
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
        let is_much = recent >= LEAST_RECENT as f64;
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
            // What it had before it was first looked at is not its fault.
            assert!(!uses.record_use(id, 8 * LEAST_RECENT, now));
        }
        assert!(!uses.record_use(&greedy, 9 * LEAST_RECENT - 1, now));
        assert!(uses.record_use(&greedy, 10 * LEAST_RECENT, now));
        assert!(!uses.record_use(&modest, 9 * LEAST_RECENT, now));
        assert!(uses.record_use(&greedy, 10 * LEAST_RECENT, now));
        assert!(uses.record_use(&modest, 11 * LEAST_RECENT, now));
        assert!(!uses.record_use(&greedy, 10 * LEAST_RECENT, now));
        uses.forget_sandbox(&modest);
        assert!(uses.record_use(&greedy, 10 * LEAST_RECENT, now));
    }

    #[test]
    fn old_growth_is_forgotten() {
        let [greedy, _] = ids();
        let (uses, now) = (RecentUse::default(), Instant::now());
        uses.record_use(&greedy, 0, now);
        assert!(uses.record_use(&greedy, 2 * LEAST_RECENT, now));
        assert!(uses.record_use(&greedy, 2 * LEAST_RECENT, now + HALF_LIFE / 2));
        assert!(!uses.record_use(&greedy, 2 * LEAST_RECENT, now + 2 * HALF_LIFE));
    }
}
