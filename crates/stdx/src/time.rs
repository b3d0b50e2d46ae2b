//! Extends [`std::time`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the time since 1970 by the wall clock; zero while the clock is before that.
#[must_use]
pub fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Returns the milliseconds since 1970 by the wall clock, as stores and messages have them.
#[must_use]
pub fn now_ms() -> i64 {
    i64::try_from(since_epoch().as_millis()).unwrap_or(i64::MAX)
}
