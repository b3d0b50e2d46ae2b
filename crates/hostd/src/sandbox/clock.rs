//! The wall clock of a guest. It stands still while its VM does, so it is set after every stop.
//!
//! | what stops the guest | where its clock is set |
//! |---|---|
//! | checkpoint, snapshot, fork, a pause that failed, a restart of the agent | `capture::resume_and_thaw` |
//! | it was stalled on disk pressure | `actor/space_guard.rs` |
//! | resume, rollback, create from saved memory | `/init`, and [`set_now`] where that took long |
//! | the host slept, or its clock was set | [`keep_set`] |
//!
//! A guest that does not answer is called again by [`keep_set`], beside everything else that is done
//! with the sandbox.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::handle::Handle;
use crate::guest;

/// Smallest error for which a clock is set.
pub(super) const ACCURACY: Duration = Duration::from_millis(60);
/// Time for a guest to set its clock.
const SET_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval at which the host's own clock is checked, and first pause between attempts to set a
/// guest's.
const LOOK: Duration = Duration::from_secs(1);
/// Longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Sets the guest's clock now; if the guest does not answer, [`keep_set`] does it later.
pub(super) async fn set_now(handle: &Handle) {
    if !try_set(handle).await {
        handle.clock.notify_one();
    }
}

/// Returns true if the clock is set, or the guest is of a version that cannot set it.
async fn try_set(handle: &Handle) -> bool {
    match timeout(SET_TIMEOUT, handle.guest().set_clock()).await {
        Ok(Ok(_) | Err(guest::Error::Refused { status: 404, .. })) => true,
        Ok(Err(error)) => {
            tracing::debug!(sandbox = %handle.id, %error, "the guest does not take the time");
            false
        }
        Err(_) => false,
    }
}

/// Keeps the clock of a guest set for as long as it runs: when notified, and when the host's clock
/// was set or the host slept. Never returns.
pub(super) async fn keep_set(handle: &Handle) {
    let mut offset = offset();
    let mut pause = LOOK;
    loop {
        let is_due = tokio::select! {
            () = handle.clock.notified() => true,
            () = tokio::time::sleep(LOOK) => false,
        };
        let now = self::offset();
        if !is_due && now.abs_diff(offset) <= ACCURACY {
            continue;
        }
        offset = now;
        // The clock of a stalled guest is set when it runs again.
        if handle.stalled.reason().is_some() || try_set(handle).await {
            pause = LOOK;
            continue;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        handle.clock.notify_one();
    }
}

/// Returns how far the wall clock is from the start of a clock that is never set and stands still
/// while the host sleeps. It changes when the wall clock is set and when the host has slept.
fn offset() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    // Before the wall clock is read: the first call sets the start.
    let awake = START.elapsed();
    stdx::time::since_epoch().saturating_sub(awake)
}
