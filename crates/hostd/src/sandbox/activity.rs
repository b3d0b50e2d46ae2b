//! Activity of a sandbox: commands, streams, transfers and connections in flight. A sandbox is idle
//! while there is none, and only then its idle time counts.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Activity of a sandbox, shared by its actor and everything that uses the sandbox.
#[derive(Debug)]
pub struct Activity(Mutex<Usage>);

#[derive(Debug)]
struct Usage {
    in_flight: usize,
    /// Time of the last use, if none is in flight.
    last: Instant,
    /// The same in milliseconds since the Unix epoch.
    last_ms: i64,
    /// Time for which commands kept it in use, without a client.
    kept_alive: Duration,
}

/// Activity that lasts until this is dropped.
#[derive(Debug)]
pub struct Active(Arc<Activity>);

impl Usage {
    fn touch(&mut self, change: isize, now: Instant) {
        self.in_flight = self.in_flight.saturating_add_signed(change);
        self.last = now;
    }

    fn time_left(&self, limit: Duration, now: Instant) -> Duration {
        if self.in_flight > 0 {
            limit
        } else {
            limit.saturating_sub(now.duration_since(self.last))
        }
    }
}

impl Activity {
    /// Creates the activity of a sandbox that is idle from now on.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Usage {
            in_flight: 0,
            last: Instant::now(),
            last_ms: stdx::time::now_ms(),
            kept_alive: Duration::ZERO,
        })))
    }

    /// Begins an activity.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Active {
        self.touch(1);
        Active(Arc::clone(self))
    }

    /// Counts idle time from now on, as if the sandbox was just used.
    pub fn restart_idle_time(&self) {
        self.touch(0);
    }

    /// Notes that commands kept it in use until a time `ago`, unless a later use is known, but for
    /// no longer than `allowance`.
    pub fn note_kept_alive(&self, ago: Duration, allowance: Duration) {
        let mut used = self.lock();
        let now = Instant::now();
        let since = now.checked_sub(ago);
        if let Some(since) = since.filter(|since| *since > used.last) {
            let kept = since.duration_since(used.last).min(allowance);
            used.last += kept;
            used.kept_alive = used.kept_alive.saturating_add(kept);
            let ago = now.duration_since(used.last);
            let ago_ms = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
            used.last_ms = stdx::time::now_ms().saturating_sub(ago_ms);
        }
    }

    /// Returns the time for which commands kept it in use.
    #[must_use]
    pub fn kept_alive(&self) -> Duration {
        self.lock().kept_alive
    }

    /// Counts the time for which commands keep it in use anew: another one is started.
    pub fn reset_kept_alive(&self) {
        self.lock().kept_alive = Duration::ZERO;
    }

    /// Returns the time until the sandbox has been idle for `limit` if nothing uses it from now on;
    /// zero if it has been already.
    #[must_use]
    pub fn time_left(&self, limit: Duration) -> Duration {
        self.lock().time_left(limit, Instant::now())
    }

    /// Returns true if an activity is in flight.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.lock().in_flight > 0
    }

    /// Returns the time at which it was last used, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn last_ms(&self) -> i64 {
        let used = self.lock();
        if used.in_flight > 0 {
            stdx::time::now_ms()
        } else {
            used.last_ms
        }
    }

    /// Returns the time at which it was last used, by the monotonic clock.
    #[must_use]
    pub fn last_use(&self) -> Instant {
        let used = self.lock();
        if used.in_flight > 0 {
            Instant::now()
        } else {
            used.last
        }
    }

    fn touch(&self, change: isize) {
        let mut used = self.lock();
        used.touch(change, Instant::now());
        used.last_ms = stdx::time::now_ms();
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, Usage> {
        self.0.lock()
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.touch(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_runs_only_while_nothing_is_in_flight() {
        let start = Instant::now();
        let limit = Duration::from_secs(60);
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut used = Usage {
            in_flight: 0,
            last: start,
            last_ms: 0,
            kept_alive: Duration::ZERO,
        };
        assert_eq!(used.time_left(limit, after(50)), Duration::from_secs(10));
        used.touch(1, after(50));
        used.touch(1, after(50));
        used.touch(-1, after(550));
        assert_eq!(used.time_left(limit, after(1000)), limit);
        used.touch(-1, after(1000));
        assert_eq!(used.time_left(limit, after(1059)), Duration::from_secs(1));
        assert_eq!(used.time_left(limit, after(1061)), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn older_note_keeps_latest_use() {
        let activity = Activity::new();
        let limit = Duration::from_secs(60);
        tokio::time::advance(Duration::from_secs(50)).await;
        activity.note_kept_alive(Duration::from_secs(55), Duration::MAX);
        assert_eq!(activity.time_left(limit), Duration::from_secs(10));
        activity.note_kept_alive(Duration::from_secs(5), Duration::MAX);
        assert_eq!(activity.time_left(limit), Duration::from_secs(55));
        assert_eq!(activity.kept_alive(), Duration::from_secs(45));
        // No more than is allowed.
        activity.note_kept_alive(Duration::ZERO, Duration::from_secs(2));
        assert_eq!(activity.time_left(limit), Duration::from_secs(57));
        assert_eq!(activity.kept_alive(), Duration::from_secs(47));
        activity.reset_kept_alive();
        assert_eq!(activity.kept_alive(), Duration::ZERO);
    }

    #[test]
    fn dropped_guard_ends_its_activity() {
        let activity = Activity::new();
        let both = (activity.begin(), activity.begin());
        assert_eq!(activity.lock().in_flight, 2);
        drop(both);
        assert_eq!(activity.lock().in_flight, 0);
    }
}
