//! Checks that KVM runs guests at the speed of the machine.

use std::time::Duration;

use linux::kvm;
use serde::Serialize;

/// Usability of KVM, found by running a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KvmReport {
    pub usable: bool,
    /// Time that the test guest took, microseconds; absent if it could not be run.
    pub loop_micros: Option<u64>,
    /// Text for people on what was found.
    pub detail: String,
}

/// Longest time of the test guest with which KVM counts as usable. Real hardware takes well under 1
/// ms, hosts that interpret guest code 107 ms.
const USABLE: Duration = Duration::from_millis(10);

/// Number of attempts, of which the best counts, and the time limit for all of them.
const ATTEMPTS: u32 = 5;
const LIMIT: Duration = Duration::from_secs(2);

/// Runs a tiny guest and judges KVM by its speed. Blocks for at most two seconds.
#[must_use]
pub fn probe_kvm() -> KvmReport {
    judge_exits(kvm::measure_exits(ATTEMPTS, LIMIT))
}

pub(super) fn judge_exits(measured: Result<Duration, kvm::Error>) -> KvmReport {
    match measured {
        Ok(took) => {
            let usable = took <= USABLE;
            let verdict = if usable {
                "KVM runs guests at full speed"
            } else {
                "KVM is there but too slow to boot Linux"
            };
            let detail = format!(
                "{verdict}: a loop of {} rounds took {:.2} ms, where up to {} ms are good",
                kvm::ROUNDS,
                took.as_secs_f64() * 1000.0,
                USABLE.as_millis()
            );
            KvmReport {
                usable,
                loop_micros: u64::try_from(took.as_micros()).ok(),
                detail,
            }
        }
        Err(error) => KvmReport {
            usable: false,
            loop_micros: None,
            detail: stdx::error::chain(&error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_is_judged_by_speed() {
        assert!(judge_exits(Ok(Duration::from_micros(300))).usable);
        let slow = judge_exits(Ok(Duration::from_millis(107)));
        assert!(
            !slow.usable && slow.loop_micros == Some(107_000) && slow.detail.contains("too slow")
        );
        let missing = judge_exits(Err(kvm::Error::Missing));
        assert!(
            !missing.usable && missing.loop_micros.is_none() && missing.detail.contains("/dev/kvm")
        );
    }
}
