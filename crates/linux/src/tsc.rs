//! Rate of the host's time stamp counter, which an emulated guest sees as its own.

#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Time between two readings, so long that the error of reading both clocks (under 1 µs) is about
/// 10 in a million.
const SPAN: Duration = Duration::from_millis(100);

/// Returns the rate in kHz. The first call blocks for 100 ms. `None` on processors other than
/// x86-64.
#[must_use]
pub fn frequency_khz() -> Option<u64> {
    static KHZ: OnceLock<Option<u64>> = OnceLock::new();
    *KHZ.get_or_init(measure)
}

#[cfg(target_arch = "x86_64")]
fn measure() -> Option<u64> {
    let (start, first) = read_together();
    std::thread::sleep(SPAN);
    let (end, last) = read_together();
    let khz = u128::from(last.checked_sub(first)?) * 1_000_000 / (end - start).as_nanos().max(1);
    u64::try_from(khz).ok().filter(|khz| *khz > 0)
}

/// Reads both clocks at the same moment: of several tries the one with the shortest gap around the
/// counter, since this thread can be preempted in each of them.
#[cfg(target_arch = "x86_64")]
fn read_together() -> (Instant, u64) {
    let read = || {
        let before = Instant::now();
        // SAFETY: RDTSC exists on every x86-64 processor and only reads.
        let counter = unsafe { std::arch::x86_64::_rdtsc() };
        (before.elapsed(), before, counter)
    };
    let (_, moment, counter) = std::iter::repeat_with(read)
        .take(16)
        .min()
        .unwrap_or_else(read);
    (moment, counter)
}

#[cfg(not(target_arch = "x86_64"))]
fn measure() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_rate_is_plausible_and_constant() {
        let khz = frequency_khz().unwrap();
        assert!((500_000..10_000_000).contains(&khz), "{khz}");
        assert_eq!(Some(khz), super::frequency_khz());
        let again = measure().unwrap();
        assert!(
            again.abs_diff(khz) * 1000 < khz,
            "{again} and {khz} differ by more than 1 in 1000"
        );
    }
}
