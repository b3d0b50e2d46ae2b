//! Backoff of resumes of a paused sandbox whose guest did not come back.
//!
//! A resume that fails late costs a restore and up to two minutes of waiting, and any client with a
//! signed URL of a port can request it again and again. So after the second failure in a row
//! resumes are refused at once, with the reason, for a time that each failure doubles. After the
//! first, which may be bad luck, the next request tries again. Failures before the guest runs (no
//! space, another engine) cost little and are not counted.

use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    last: Option<(Instant, String)>,
}

impl Backoff {
    /// Notes that the guest did not come back.
    pub(super) fn record_failure(&mut self, reason: String) {
        self.failures = self.failures.saturating_add(1);
        self.last = Some((Instant::now(), reason));
    }

    /// Forgets all failures.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Returns the reason for which the sandbox is not resumed now; `None` if it may be.
    pub(super) fn refusal(&self) -> Option<String> {
        let (failed, reason) = self.last.as_ref()?;
        let doubled = 1_u32
            .checked_shl(self.failures.checked_sub(2)?)
            .unwrap_or(u32::MAX);
        let left = FIRST
            .saturating_mul(doubled)
            .min(LONGEST)
            .checked_sub(failed.elapsed())?;
        Some(format!(
            "the sandbox could not be resumed {} times in a row, so it is not tried again for {} s; the last time: \
             {reason}",
            self.failures,
            left.as_secs() + 1
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn resumes_wait_twice_as_long_after_each_failure() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.refusal(), None);
        backoff.record_failure("bad luck".to_owned());
        assert_eq!(backoff.refusal(), None, "the first is tried again at once");
        for (failures, seconds) in [(2, 1), (3, 2), (4, 4), (10, 256), (11, 300), (40, 300)] {
            while backoff.failures < failures {
                backoff.record_failure("it did not answer".to_owned());
            }
            assert!(backoff.refusal().unwrap().ends_with("it did not answer"));
            tokio::time::advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
            assert!(backoff.refusal().is_some(), "{failures} failures");
            tokio::time::advance(Duration::from_millis(2)).await;
            assert_eq!(backoff.refusal(), None, "{failures} failures");
        }
        backoff.record_failure("again".to_owned());
        assert!(backoff.refusal().is_some());
        backoff.reset();
        assert_eq!(backoff.refusal(), None);
    }
}
