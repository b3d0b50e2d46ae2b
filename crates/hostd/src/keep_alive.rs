//! Time for which background commands may keep a sandbox in use. Pure.
//!
//! The owner of the sandbox decides, by starting commands with `keep_alive`; the guest only says
//! whether they still run. The limit is in the record, written before the guest is asked to start
//! the command; what was used of it is in memory ([`crate::sandbox::activity`]), so that an agent that starts
//! anew allows it once more at most. A template with memory keeps the limit of its source, for the
//! commands that are in that memory.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Time beyond a command's timeout, in which it is killed and its end is told: a guest that stands
/// still for a while measures more than its host.
const SLACK: Duration = Duration::from_secs(60);

/// Limit on the time for which commands keep a sandbox in use without a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeepAliveLimit {
    /// No command with `keep_alive` was started.
    Nothing,
    /// Milliseconds since the last such command was started.
    Millis(u64),
    /// One without a timeout was started. Also of records of versions without a limit.
    #[default]
    Unlimited,
}

impl KeepAliveLimit {
    /// Returns the limit once a command with this timeout is started, too; zero: it has none.
    #[must_use]
    pub fn raised(self, timeout: Duration) -> Self {
        let millis = timeout.saturating_add(timeout / 10).saturating_add(SLACK);
        let millis = u64::try_from(millis.as_millis()).unwrap_or(u64::MAX);
        match self {
            Self::Unlimited => Self::Unlimited,
            _ if timeout.is_zero() => Self::Unlimited,
            Self::Nothing => Self::Millis(millis),
            Self::Millis(present) => Self::Millis(present.max(millis)),
        }
    }

    /// Returns what remains once commands have kept the sandbox in use for a time.
    #[must_use]
    pub fn remaining(self, kept: Duration) -> Duration {
        match self {
            Self::Nothing => Duration::ZERO,
            Self::Millis(millis) => Duration::from_millis(millis).saturating_sub(kept),
            Self::Unlimited => Duration::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_that_of_longest_command() {
        let hour = Duration::from_secs(3600);
        let limit = KeepAliveLimit::Nothing.raised(hour);
        assert_eq!(limit, KeepAliveLimit::Millis(4_020_000));
        assert_eq!(limit.raised(hour / 2), limit);
        assert_eq!(limit.remaining(hour), Duration::from_secs(420));
        assert_eq!(limit.remaining(hour * 2), Duration::ZERO);
        let unlimited = limit.raised(Duration::ZERO);
        assert_eq!(unlimited.raised(hour), KeepAliveLimit::Unlimited);
        assert_eq!(unlimited.remaining(hour), Duration::MAX);
        assert_eq!(KeepAliveLimit::Nothing.remaining(hour), Duration::ZERO);
    }
}
