//! Rate limits of API keys: one key that runs away takes neither the control plane nor the hosts from
//! the others.
//!
//! | limit | counts | where |
//! |---|---|---|
//! | requests | every API call with a known key; not `/health`, documents and ports of sandboxes | at the edge, before the handler |
//! | creates | sandboxes that a create or a fork makes; not one that an idempotency key finds again | in the use case, before anything is stored |
//!
//! Each key has a bucket for each limit (GCRA, crate `governor`): it holds the quota of one window and
//! is filled at an even rate. Buckets are in memory alone: a restart fills them, and each of several
//! control planes counts for itself. Only keys that the store knows have one, and a full bucket is
//! forgotten, so there are no more of them than keys in use. Clients without a key are bounded by
//! their connections (crate `listener`).

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use model::ErrorCode;

use crate::error::{Error, Result};
use crate::quota::{QuotaState, whole_seconds};

/// Requests may come in bursts of this many seconds' worth.
const REQUESTS_WINDOW: Duration = Duration::from_secs(10);
const CREATES_WINDOW: Duration = Duration::from_secs(60);
/// Requests between two searches for full buckets.
const FORGET_EVERY: u32 = 4096;

/// Limits on the requests of one API key; zero is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimitSettings {
    pub requests_per_sec: u32,
    pub creates_per_min: u32,
}

impl RateLimitSettings {
    /// 64 sandboxes that are each asked fifteen times a second stay below it for ever. It is a
    /// fraction of what the control plane answers on two processors.
    pub const DEFAULT_REQUESTS_PER_SEC: u32 = 1000;
    /// Fifty a second, or three times what a host runs at once by default, in one burst.
    pub const DEFAULT_CREATES_PER_MIN: u32 = 3000;
    /// Largest limit: a higher one bounds nothing any more.
    pub const MAX: u32 = 1_000_000;
}

impl Default for RateLimitSettings {
    fn default() -> Self {
        Self {
            requests_per_sec: Self::DEFAULT_REQUESTS_PER_SEC,
            creates_per_min: Self::DEFAULT_CREATES_PER_MIN,
        }
    }
}

/// The limits, with the buckets of all keys.
#[derive(Debug)]
pub struct RateLimits<C: Clock = MonotonicClock> {
    requests: Option<KeyedLimit<C>>,
    creates: Option<KeyedLimit<C>>,
}

impl RateLimits {
    #[must_use]
    pub fn new(settings: RateLimitSettings) -> Self {
        Self::with_clock(settings, &MonotonicClock)
    }
}

impl<C: Clock + Clone> RateLimits<C> {
    fn with_clock(settings: RateLimitSettings, clock: &C) -> Self {
        let requests = NonZeroU32::new(settings.requests_per_sec).map(|rate| {
            let seconds = u32::try_from(REQUESTS_WINDOW.as_secs()).unwrap_or(u32::MAX);
            let burst = rate.saturating_mul(NonZeroU32::new(seconds).unwrap_or(NonZeroU32::MIN));
            KeyedLimit::new(
                Quota::per_second(rate).allow_burst(burst),
                clock,
                Policy {
                    name: "requests",
                    window: REQUESTS_WINDOW,
                    refused: format!(
                        "more than {rate} requests a second (CP_MAX_REQUESTS_PER_SEC)"
                    ),
                },
            )
        });
        let creates = NonZeroU32::new(settings.creates_per_min).map(|rate| {
            KeyedLimit::new(
                Quota::per_minute(rate),
                clock,
                Policy {
                    name: "creates",
                    window: CREATES_WINDOW,
                    refused: format!(
                        "more than {rate} sandboxes a minute (CP_MAX_CREATES_PER_MIN)"
                    ),
                },
            )
        });
        Self { requests, creates }
    }

    /// Counts a request of a key. Returns the state of its quota, `None` where there is no limit.
    ///
    /// # Errors
    /// `ResourceExhausted` when the quota is used up.
    pub fn count_request(&self, key_id: &str) -> Result<Option<QuotaState>> {
        self.requests
            .as_ref()
            .map(|limit| limit.count(key_id, NonZeroU32::MIN))
            .transpose()
    }

    /// Counts sandboxes that a key is about to create: all of them, or none.
    ///
    /// # Errors
    /// `ResourceExhausted` when the quota is used up.
    pub fn count_creates(&self, key_id: &str, count: u32) -> Result<()> {
        if let (Some(limit), Some(count)) = (&self.creates, NonZeroU32::new(count)) {
            limit.count(key_id, count)?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Policy {
    name: &'static str,
    window: Duration,
    /// Offence of a refused client, as the rest of a sentence.
    refused: String,
}

#[derive(Debug)]
struct KeyedLimit<C: Clock> {
    policy: Policy,
    quota: Quota,
    clock: C,
    limiter: RateLimiter<String, DashMapStateStore<String>, C, StateInformationMiddleware>,
    counted: AtomicU32,
}

impl<C: Clock + Clone> KeyedLimit<C> {
    fn new(quota: Quota, clock: &C, policy: Policy) -> Self {
        Self {
            policy,
            quota,
            clock: clock.clone(),
            limiter: RateLimiter::dashmap_with_clock(quota, clock.clone()).with_middleware(),
            counted: AtomicU32::new(0),
        }
    }

    fn count(&self, key_id: &str, count: NonZeroU32) -> Result<QuotaState> {
        // A full bucket is the same as none. Looking for them costs their number, so not each time.
        if self.counted.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        let interval = self.quota.replenish_interval();
        match self.limiter.check_key_n(&key_id.to_owned(), count) {
            Ok(Ok(state)) => {
                let remaining = state.remaining_burst_capacity();
                let used = self.quota.burst_size().get().saturating_sub(remaining);
                Ok(self.state(Some(remaining), Some(interval * used)))
            }
            Ok(Err(refused)) => {
                let wait = refused.wait_time_from(self.clock.now());
                // After that time the bucket holds just what was asked for.
                let missing = wait.as_nanos().div_ceil(interval.as_nanos().max(1));
                let missing = u32::try_from(missing).unwrap_or(u32::MAX);
                let remaining = count.get().saturating_sub(missing);
                Err(self.refuse(self.state(Some(remaining), Some(wait))))
            }
            Err(_more_than_the_quota) => Err(self.refuse(self.state(None, None))),
        }
    }

    fn state(&self, remaining: Option<u32>, reset: Option<Duration>) -> QuotaState {
        QuotaState {
            policy: self.policy.name,
            quota: self.quota.burst_size().get(),
            window: self.policy.window,
            remaining,
            reset,
        }
    }

    fn refuse(&self, state: QuotaState) -> Error {
        crate::metrics::count_rate_limited(self.policy.name);
        let next = match state.reset {
            Some(wait) => format!("try again in {} s", whole_seconds(wait)),
            None => format!("ask for {} at a time at most", state.quota),
        };
        let text = format!("this API key asks for {}; {next}", self.policy.refused);
        let mut error = Error::new(ErrorCode::ResourceExhausted, text);
        error.quota = Some(state);
        error
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn limits(
        requests_per_sec: u32,
        creates_per_min: u32,
    ) -> (RateLimits<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let settings = RateLimitSettings {
            requests_per_sec,
            creates_per_min,
        };
        (RateLimits::with_clock(settings, &clock), clock)
    }

    #[test]
    fn requests_refill_at_their_rate() {
        let (limits, clock) = limits(2, 0);
        for left in (0..20).rev() {
            let state = limits.count_request("a").unwrap().unwrap();
            assert_eq!((state.quota, state.remaining), (20, Some(left)));
        }
        let refused = limits.count_request("a").unwrap_err();
        assert_eq!(refused.code, ErrorCode::ResourceExhausted);
        assert!(
            refused.message.contains("CP_MAX_REQUESTS_PER_SEC"),
            "{refused}"
        );
        let wait = refused.quota.unwrap().reset.unwrap();
        assert!(wait <= Duration::from_millis(500), "{wait:?}");
        clock.advance(wait);
        limits.count_request("a").unwrap();
        assert!(limits.count_request("a").is_err());
        limits.count_request("b").unwrap();
    }

    #[test]
    fn creates_count_all_or_none() {
        let (limits, clock) = limits(0, 6);
        limits.count_creates("a", 4).unwrap();
        let refused = limits.count_creates("a", 3).unwrap_err().quota.unwrap();
        assert_eq!(refused.remaining, Some(2));
        limits.count_creates("a", 2).unwrap();
        let refused = limits.count_creates("a", 1).unwrap_err();
        let quota = refused.quota.unwrap();
        assert_eq!(quota.remaining, Some(0));
        assert_eq!(quota.reset.map(whole_seconds), Some(10));
        let never = limits.count_creates("a", 7).unwrap_err();
        let quota = never.quota.unwrap();
        assert_eq!((quota.remaining, quota.reset), (None, None));
        assert!(never.message.contains("6 at a time"), "{never}");
        clock.advance(Duration::from_secs(60));
        limits.count_creates("a", 6).unwrap();
        assert_eq!(limits.count_request("a").unwrap(), None);
    }

    #[test]
    fn idle_keys_are_forgotten() {
        let (limits, clock) = limits(1000, 0);
        for number in 0..10 * FORGET_EVERY {
            limits.count_request(&format!("key-{number}")).unwrap();
            clock.advance(Duration::from_micros(500));
        }
        let kept = limits.requests.as_ref().unwrap().limiter.len();
        assert!(kept <= FORGET_EVERY as usize + 2, "{kept}");
    }
}
