//! Deadline of a program: SIGTERM when its time is up, so that it can clean up, and SIGKILL after
//! [`ExecLimits::GRACE_SEC`]. Until then it only gets its signals.
//!
//! The host has a deadline of its own somewhat later, which holds if this control plane dies in
//! between.

use std::time::Duration;

use model::ExecLimits;
use tokio::time::{Instant, sleep_until};

/// Time limit that has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passed {
    /// The program's own time.
    Time,
    /// The time that it had to end.
    Grace,
}

#[derive(Debug)]
pub(super) struct Deadline {
    /// Next limit, and when it passes; `None` when both have passed.
    next: Option<(Passed, Instant)>,
}

impl Deadline {
    pub(super) fn after(time: Duration) -> Self {
        Self {
            next: Some((Passed::Time, Instant::now() + time)),
        }
    }

    /// Returns true once the program's own time is up.
    pub(super) fn is_over(&self) -> bool {
        !matches!(self.next, Some((Passed::Time, _)))
    }
}

/// Waits until something has passed, and for ever without a deadline. Cancel-safe.
pub(super) async fn passed(deadline: Option<&mut Deadline>) -> Passed {
    let Some(deadline) = deadline else {
        return std::future::pending().await;
    };
    let Some((passed, at)) = deadline.next else {
        return std::future::pending().await;
    };
    sleep_until(at).await;
    deadline.next = match passed {
        Passed::Time => Some((
            Passed::Grace,
            at + Duration::from_secs(ExecLimits::GRACE_SEC.into()),
        )),
        Passed::Grace => None,
    };
    passed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn deadline_passes_time_then_grace() {
        let began = Instant::now();
        let mut deadline = Deadline::after(Duration::from_secs(3));
        assert!(!deadline.is_over());
        assert_eq!(passed(Some(&mut deadline)).await, Passed::Time);
        assert_eq!((began.elapsed().as_secs(), deadline.is_over()), (3, true));
        assert_eq!(passed(Some(&mut deadline)).await, Passed::Grace);
        assert_eq!(
            began.elapsed().as_secs(),
            3 + u64::from(ExecLimits::GRACE_SEC)
        );
        let more =
            tokio::time::timeout(Duration::from_secs(3600), passed(Some(&mut deadline))).await;
        assert!(more.is_err(), "both signals are sent once");
    }
}
