//! Says now and then that the collector takes nothing, and when it does so again.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Least time between two lines of the log.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Lines of all exporters of this process.
pub(super) static FAILURES: FailureLog = FailureLog(Mutex::new(None));

/// Time of the last line while exports fail.
#[derive(Debug)]
pub(super) struct FailureLog(Mutex<Option<Instant>>);

impl FailureLog {
    /// Logs a failure, unless one was logged a moment ago.
    pub(super) fn failed(&self, what: &str, error: &dyn Display) {
        if self.takes_line(Instant::now()) {
            tracing::warn!(%error, "{what} are not taken by the collector of OTEL_EXPORTER_OTLP_ENDPOINT; is it running?");
        }
    }

    /// Logs that exports work again, if they failed before.
    pub(super) fn worked(&self) {
        if self.end() {
            tracing::info!(
                "the collector of OTEL_EXPORTER_OTLP_ENDPOINT takes traces and metrics again"
            );
        }
    }

    fn takes_line(&self, now: Instant) -> bool {
        let mut logged_at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = logged_at.is_none_or(|at| now.duration_since(at) >= WARN_EVERY);
        if is_due {
            *logged_at = Some(now);
        }
        is_due
    }

    fn end(&self) -> bool {
        let mut logged_at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logged_at.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_logged_once_a_minute() {
        let log = FailureLog(Mutex::new(None));
        let start = Instant::now();
        let logged = (0..600).filter(|&second| log.takes_line(start + Duration::from_secs(second)));
        assert_eq!(logged.count(), 10);
        assert!(log.end(), "that it works again is news once");
        assert!(!log.end());
        assert!(log.takes_line(start));
    }
}
