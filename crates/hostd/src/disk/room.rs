//! Behaviour of sandboxes when the host's disk is full.
//!
//! The store of a device-mapper snapshot is a sparse file, as long as it can ever get, so the guest
//! cannot overflow it. But its blocks are the host's, and if the kernel cannot write one it
//! invalidates the whole snapshot: every access of the guest fails from then on. So blocks are
//! allocated ahead of their use:
//!
//! 1. The used part of each sandbox's store is read every second, and ten times a second if much is
//!    written or little space is left.
//! 2. Space ahead of that is allocated (fallocate), more for a sandbox that writes fast.
//! 3. The last part of the host's disk, the reserve, is never allocated ahead. It takes the writes
//!    of a sandbox between two reads, and those in flight when its processors are stopped.
//! 4. A sandbox that goes on writing without space ahead is stalled: its processors are stopped,
//!    its log and its info have the reason, and nothing is lost. It is resumed when there is space.
//! 5. The sandbox that has taken most lately ([`super::recent_use`]) is stalled first: for that one
//!    the reserve is twice as large, so others still have space then.
//!
//! Sandboxes that do not write, or that have space ahead, are not affected. With all other backends
//! a full disk is an error of that one write in that one guest; of those only the sandbox that has
//! taken most lately is stalled, when the reserve is touched. [`decide_action`] and [`decide_plain`] are
//! pure.

use std::io;
use std::path::Path;
use std::time::Duration;

use linux::{dm, file};
use model::SandboxId;
use stdx::io::OptionalExt;

use super::MIB;
use super::names::{COW, OVERLAY, RAW, device_name};

/// Bytes of the store that are allocated when a disk is made.
pub(super) const FIRST_BYTES: u64 = LEAST_AHEAD;
/// Bounds of the bytes that are allocated ahead of use: for a sandbox that writes nothing, and for
/// one that writes fast.
const LEAST_AHEAD: u64 = 16 * MIB;
const MOST_AHEAD: u64 = 512 * MIB;
/// Bytes ahead below which a writer is stopped; half a second of its writing, if that is more.
const TOO_LITTLE: u64 = 8 * MIB;
/// Bounds in bytes of the reserve, which is an eighth of the file system.
pub(super) const LEAST_RESERVE: u64 = 64 * MIB;
pub(super) const MOST_RESERVE: u64 = 512 * MIB;
/// Usage of a sandbox that writes is read [`OFTEN`] if fewer bytes than this are free above the
/// reserve, or if it writes more than [`FAST`] bytes per second; else [`SELDOM`].
const NEARLY_FULL: u64 = 1024 * MIB;
const FAST: u64 = 64 * MIB;
const SELDOM: Duration = Duration::from_secs(1);
const OFTEN: Duration = Duration::from_millis(100);

/// Usage of a sandbox's store and of the host's file system, all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the store that are used and that are allocated, both from its beginning, and its
    /// length, which is the most that it can need.
    pub used: u64,
    pub allocated: u64,
    pub size: u64,
    /// Bytes of the host's file system that are free, and that must not be allocated ahead.
    pub free: u64,
    pub reserve: u64,
}

/// State of a disk, as the kernel and the file system report it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    Usage(Usage),
    /// The kernel has invalidated the snapshot: every access of the guest fails from now on.
    Lost,
    /// A disk without a store that must not overflow.
    Plain(PlainUse),
}

/// Usage of a disk whose blocks are allocated as they are written. All in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainUse {
    pub used: u64,
    pub free: u64,
    pub reserve: u64,
}

impl PlainUse {
    /// Returns true if so little is free that writes may soon be refused.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.free < self.reserve
    }
}

impl Usage {
    /// Returns the usage with a larger reserve, as it counts for the sandbox that has taken most
    /// lately.
    #[must_use]
    pub fn of_largest(self) -> Self {
        let reserve = self.reserve * 2;
        Self { reserve, ..self }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Leave,
    /// Allocate the store up to this length.
    Extend(u64),
    /// Stop the processors.
    Stop,
    /// Allocate the store up to this length, then let the processors run.
    Resume(u64),
}

/// Decides what to do about a sandbox that wrote `rate` bytes per second since the last
/// observation. `stopped` is true if its processors are stopped. Pure.
#[must_use]
pub fn decide_action(usage: Usage, rate: u64, stopped: bool) -> Decision {
    let rest = usage.size.saturating_sub(usage.used);
    let ahead = usage.allocated.saturating_sub(usage.used);
    let spare = usage.free.saturating_sub(usage.reserve);
    let wanted = LEAST_AHEAD
        .saturating_add(rate.saturating_mul(2))
        .min(MOST_AHEAD)
        .min(rest);
    if stopped {
        // More than `TOO_LITTLE`, or it would stop again at once.
        let wanted = (4 * LEAST_AHEAD).min(rest);
        let fits = spare >= wanted.saturating_sub(ahead);
        return if fits {
            Decision::Resume(usage.used + wanted.max(ahead))
        } else {
            Decision::Leave
        };
    }
    if ahead >= wanted.div_ceil(2) {
        return Decision::Leave;
    }
    if spare >= wanted - ahead {
        return Decision::Extend(usage.used + wanted);
    }
    let is_short = ahead < TOO_LITTLE.max(rate / 2).min(rest);
    if rate > 0 && is_short {
        Decision::Stop
    } else {
        Decision::Leave
    }
}

/// Decides about a sandbox whose blocks are allocated as they are written: only that one is stopped
/// which has taken most lately (`is_largest`) and goes on, and no longer than it is that one.
#[must_use]
pub fn decide_plain(usage: PlainUse, rate: u64, stopped: bool, is_largest: bool) -> Decision {
    // More than what is enough to run, or it would stop again at once.
    let has_room = usage.free >= usage.reserve.saturating_add(4 * LEAST_AHEAD);
    if stopped {
        let goes_on = has_room || !is_largest;
        return if goes_on {
            Decision::Resume(0)
        } else {
            Decision::Leave
        };
    }
    if is_largest && usage.is_nearly_full() && rate > 0 {
        Decision::Stop
    } else {
        Decision::Leave
    }
}

/// Returns the time until the next observation.
#[must_use]
pub fn observation_interval(usage: Usage, rate: u64) -> Duration {
    let is_tight = usage.free < usage.reserve.saturating_add(NEARLY_FULL);
    if rate > FAST || (is_tight && rate > 0) {
        OFTEN
    } else {
        SELDOM
    }
}

/// Reads the usage of the disk in `dir`.
///
/// # Errors
/// When the status of the device, its store or the file system cannot be read.
pub fn observe_disk(id: &SandboxId, dir: &Path) -> io::Result<Observation> {
    let space = file::file_system_space(dir)?;
    let free = space.free;
    let reserve = (space.total / 8).clamp(LEAST_RESERVE, MOST_RESERVE);
    let store = dir.join(COW);
    if !store.exists() {
        let used = allocated_bytes(dir)?;
        return Ok(Observation::Plain(PlainUse {
            used,
            free,
            reserve,
        }));
    }
    let used = match dm::snapshot_fill(&device_name(id)).map_err(io::Error::other)? {
        dm::Fill::Used(used) => used,
        dm::Fill::Lost => return Ok(Observation::Lost),
    };
    let size = std::fs::metadata(&store)?.len();
    Ok(Observation::Usage(Usage {
        used,
        allocated: file::allocated_bytes(&store)?,
        size,
        free,
        reserve,
    }))
}

/// Returns the bytes that the disk in `dir` takes.
fn allocated_bytes(dir: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for name in [OVERLAY, RAW] {
        sum += file::allocated_bytes(&dir.join(name))
            .optional()?
            .unwrap_or(0);
    }
    Ok(sum)
}

/// Allocates the store in `dir` up to `length`.
///
/// # Errors
/// `StorageFull` if the space was used up since it was looked at.
pub fn extend_store(dir: &Path, length: u64) -> io::Result<()> {
    file::allocate_blocks(
        &std::fs::File::options().write(true).open(dir.join(COW))?,
        length,
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usages() -> impl Strategy<Value = Usage> {
        let bytes = || 0..64 * 1024 * MIB;
        (
            bytes(),
            bytes(),
            bytes(),
            bytes(),
            LEAST_RESERVE..=MOST_RESERVE,
        )
            .prop_map(|(used, ahead, rest, free, reserve)| Usage {
                used,
                allocated: used + ahead.min(rest),
                size: used + rest,
                free,
                reserve,
            })
    }

    proptest! {
        #[test]
        fn allocation_fits_store_and_leaves_reserve(usage in usages(), rate in 0..4096 * MIB, stopped: bool) {
            if let Decision::Extend(to) | Decision::Resume(to) = decide_action(usage, rate, stopped) {
                prop_assert!(to <= usage.size && to >= usage.allocated);
                prop_assert!(to - usage.allocated <= usage.free.saturating_sub(usage.reserve));
            }
        }

        #[test]
        fn only_writers_without_room_are_stopped(usage in usages(), rate in 0..4096 * MIB) {
            if decide_action(usage, rate, false) == Decision::Stop {
                prop_assert!(rate > 0 && usage.allocated < usage.size);
                prop_assert!(usage.allocated - usage.used < TOO_LITTLE.max(rate / 2));
                prop_assert!(decide_action(usage, 0, true) == Decision::Leave || usage.free > usage.reserve);
            }
        }

        /// A writer that writes at most half of the reserve between two observations never meets a
        /// full disk, and others that come and go cannot change that: it is resumed when they are
        /// gone.
        #[test]
        fn no_writer_overruns(
            total in 512_u64..8192,
            writes in prop::collection::vec(0_u64..32, 1..400),
        ) {
            let total = total * MIB;
            let size = 16 * 1024 * MIB;
            let reserve = (total / 8).clamp(LEAST_RESERVE, MOST_RESERVE);
            let mut used = 0;
            let mut allocated = FIRST_BYTES;
            let mut stopped = false;
            for write in writes {
                let rate = if stopped { 0 } else { write * MIB * 10 };
                if !stopped {
                    used += write * MIB;
                    // What is beyond the allocation is taken from the host's disk, which must have
                    // it.
                    allocated = allocated.max(used);
                    prop_assert!(allocated <= total, "{used} of {total}");
                }
                let usage = Usage { used, allocated, size, free: total - allocated, reserve };
                match decide_action(usage, rate, stopped) {
                    Decision::Leave => {}
                    Decision::Extend(to) => allocated = to,
                    Decision::Stop => stopped = true,
                    Decision::Resume(to) => (allocated, stopped) = (to, false),
                }
            }
            // A stopped sandbox goes on when there is space.
            let usage = Usage { used, allocated, size, free: 4096 * MIB, reserve };
            prop_assert!(!stopped || matches!(decide_action(usage, 0, true), Decision::Resume(_)));
        }
    }

    #[test]
    fn largest_taker_stops_before_others() {
        let usage = Usage {
            used: 512 * MIB,
            allocated: 516 * MIB,
            size: 4096 * MIB,
            free: LEAST_RESERVE + 48 * MIB,
            reserve: LEAST_RESERVE,
        };
        assert!(matches!(
            decide_action(usage, MIB, false),
            Decision::Extend(_)
        ));
        assert_eq!(
            decide_action(usage.of_largest(), MIB, false),
            Decision::Stop
        );
        assert_eq!(decide_action(usage.of_largest(), 0, true), Decision::Leave);
        assert!(matches!(
            decide_action(usage, 0, true),
            Decision::Leave | Decision::Resume(_)
        ));
    }

    #[test]
    fn plain_disks_stop_largest_only() {
        let full = PlainUse {
            used: 512 * MIB,
            free: LEAST_RESERVE - MIB,
            reserve: LEAST_RESERVE,
        };
        assert_eq!(decide_plain(full, MIB, false, true), Decision::Stop);
        assert_eq!(decide_plain(full, 0, false, true), Decision::Leave);
        assert_eq!(decide_plain(full, MIB, false, false), Decision::Leave);
        assert_eq!(decide_plain(full, 0, true, true), Decision::Leave);
        assert_eq!(decide_plain(full, 0, true, false), Decision::Resume(0));
        let freed = PlainUse {
            free: LEAST_RESERVE + 4 * LEAST_AHEAD,
            ..full
        };
        assert_eq!(decide_plain(freed, 0, true, true), Decision::Resume(0));
        assert_eq!(decide_plain(freed, MIB, false, true), Decision::Leave);
    }

    #[test]
    fn idle_sandbox_runs_on_full_disk() {
        let usage = Usage {
            used: MIB,
            allocated: MIB,
            size: 1024 * MIB,
            free: 0,
            reserve: LEAST_RESERVE,
        };
        assert_eq!(decide_action(usage, 0, false), Decision::Leave);
        assert_eq!(decide_action(usage, MIB, false), Decision::Stop);
        assert_eq!(decide_action(usage, 0, true), Decision::Leave);
        let full = Usage {
            allocated: usage.size,
            ..usage
        };
        assert_eq!(decide_action(full, MIB, false), Decision::Leave);
    }
}
