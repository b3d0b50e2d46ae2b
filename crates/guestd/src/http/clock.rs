//! `POST /clock`: sets the wall clock of the guest.
//!
//! A VM that was stopped does not know for how long: its clock goes on from where it stood. The
//! host calls this after each stop, and when its own clock was set. Only `CLOCK_REALTIME` is set;
//! `CLOCK_MONOTONIC` never goes back. Nothing is written to the disk, which may be frozen.

use std::io;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use guest_rpc::http::{ClockAnswer, ClockRequest};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use super::error::HttpError;
use crate::Agent;

/// Smallest error that is corrected. Setting makes time jump for programs, and the request itself
/// took some of it; the rest of the 100 ms that the host promises is for the way there.
const TOLERANCE: Duration = Duration::from_millis(20);

/// Handles `/clock`.
pub async fn clock(
    State(agent): State<Agent>,
    body: axum::body::Bytes,
) -> Result<Json<ClockAnswer>, HttpError> {
    let request: ClockRequest = serde_json::from_slice(&body).map_err(|e| {
        HttpError::bad_request(format!(
            "the body is no clock request: {e}; send {{\"timeNs\": …}}"
        ))
    })?;
    let host = Duration::from_nanos(request.time_ns);
    // The clock of a machine that is no guest of ours is not ours to set.
    let stepped_ns = if agent.guest {
        set_wall_clock(host)
            .map_err(|e| HttpError::internal(format!("the clock could not be set: {e}")))?
    } else {
        0
    };
    let time_ns = u64::try_from(now().as_nanos()).unwrap_or(u64::MAX);
    Ok(Json(ClockAnswer {
        time_ns,
        stepped_ns,
    }))
}

/// Sets the wall clock to `host`, unless it is as close as that already. Returns the nanoseconds by
/// which it was moved.
///
/// # Errors
/// Errors of `clock_settime(2)`.
pub fn set_wall_clock(host: Duration) -> io::Result<i64> {
    let step = correction(now(), host);
    if step != 0 {
        clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(host))?;
    }
    Ok(step)
}

fn now() -> Duration {
    stdx::time::since_epoch()
}

fn correction(guest: Duration, host: Duration) -> i64 {
    let apart = guest.abs_diff(host);
    if apart <= TOLERANCE {
        return 0;
    }
    let apart = i64::try_from(apart.as_nanos()).unwrap_or(i64::MAX);
    if host > guest { apart } else { -apart }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_beyond_tolerance_step() {
        let base = Duration::from_secs(1_700_000_000);
        assert_eq!(correction(base, base + TOLERANCE), 0);
        assert_eq!(correction(base + TOLERANCE, base), 0);
        assert_eq!(
            correction(base, base + Duration::from_millis(21)),
            21_000_000
        );
        assert_eq!(
            correction(base + Duration::from_secs(3600), base),
            -3_600_000_000_000
        );
        assert_eq!(correction(Duration::ZERO, Duration::MAX), i64::MAX);
    }
}
