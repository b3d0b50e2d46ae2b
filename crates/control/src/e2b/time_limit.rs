//! Timeouts in seconds, as clients of E2B say how long a sandbox is to run from now on.

use model::Limits;

use super::error::{Failure, Result};

/// Seconds where a request of version 2 leaves them out.
pub const DEFAULT_SEC: i64 = 300;
/// Seconds where a request of version 1 leaves them out.
pub const DEFAULT_V1_SEC: i64 = 15;

/// Checks a timeout, and returns it in milliseconds.
///
/// # Errors
/// 400 if it is less than `least`, or over the limit of this server.
pub fn check_timeout(seconds: i64, least: i64, limits: &Limits) -> Result<i64> {
    let most = i64::from(limits.max_timeout_sec);
    if (least..=most).contains(&seconds) {
        return Ok(seconds * 1000);
    }
    let text = format!(
        "timeout must be from {least} to {most} seconds, not {seconds}; the operator sets the largest (CP_MAX_TIMEOUT_SEC)"
    );
    Err(Failure::invalid(text))
}
