//! When a message is sent again.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// The convention's schedule: the first attempt at once, the last one after three days.
pub(super) const DELAYS: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * MINUTE),
    Duration::from_secs(30 * MINUTE),
    Duration::from_secs(2 * HOUR),
    Duration::from_secs(5 * HOUR),
    Duration::from_secs(10 * HOUR),
    Duration::from_secs(14 * HOUR),
    Duration::from_secs(20 * HOUR),
    Duration::from_secs(24 * HOUR),
];

/// Part of a delay that is added at random, so that receivers that were away are not met by all
/// senders at once.
const JITTER: f64 = 0.2;
/// Longest delay that a receiver can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * HOUR);

/// Returns the delay until the next attempt after `attempts` of them; `None`: there is none.
/// `random` is from 0 to 1. A receiver's `Retry-After` makes it longer.
pub(crate) fn next_delay(
    delays: &[Duration],
    attempts: usize,
    retry_after: Option<Duration>,
    random: f64,
) -> Option<Duration> {
    let delay = *delays.get(attempts.checked_sub(1)?)?;
    let jitter = 1.0 + JITTER * random.clamp(0.0, 1.0);
    Some(delay.max(bounded_retry_after(retry_after)).mul_f64(jitter))
}

/// Returns the time that a receiver asked to be left alone for, within its bound.
pub(crate) fn bounded_retry_after(retry_after: Option<Duration>) -> Duration {
    retry_after.unwrap_or_default().min(MAX_RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attempts_last_three_days() {
        let all: Duration = DELAYS.iter().sum();
        assert_eq!(all.as_secs() / 3600, 75);
        assert!(DELAYS.is_sorted());
        assert_eq!(next_delay(&DELAYS, 0, None, 0.0), None);
        assert_eq!(next_delay(&DELAYS, 1, None, 0.0), Some(DELAYS[0]));
        assert_eq!(next_delay(&DELAYS, 10, None, 0.0), None);
    }

    proptest! {
        #[test]
        fn delays_stay_in_their_bounds(
            attempts in 1_usize..=9, random in 0.0..=1.0, wished in 0_u64..1_000_000
        ) {
            let wished = Duration::from_secs(wished);
            let delay = next_delay(&DELAYS, attempts, Some(wished), random).unwrap();
            let base = DELAYS[attempts - 1].max(wished.min(MAX_RETRY_AFTER));
            prop_assert!(delay >= base && delay <= base.mul_f64(1.0 + JITTER), "{delay:?}");
        }
    }
}
