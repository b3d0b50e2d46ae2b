//! State of a rate limit, as errors and header fields of responses tell it.

use std::time::Duration;

/// State of one limit of one key, as the header fields of a response tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaState {
    /// Name of the limit.
    pub policy: &'static str,
    /// Maximum in a window.
    pub quota: u32,
    pub window: Duration,
    /// Part of the quota that is not used yet; `None` of a request that is larger than the quota.
    pub remaining: Option<u32>,
    /// Time until the quota is whole again; of a refusal, until the same request can succeed.
    /// `None` if it never can.
    pub reset: Option<Duration>,
}

/// Returns the duration in seconds, rounded up: who waits that long has waited long enough.
#[must_use]
pub fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
