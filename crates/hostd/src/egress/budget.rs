//! Rate limits of work for a guest that costs the host, or others, something.

use parking_lot::Mutex;
use tokio::time::Instant;

/// A bucket of tokens, which fills up again.
#[derive(Debug)]
pub(crate) struct Budget {
    per_second: f64,
    most: f64,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Budget {
    /// Creates a full bucket of `most` tokens, which gains `per_second` tokens a second.
    pub(crate) fn new(per_second: f64, most: f64) -> Self {
        Self {
            per_second,
            most,
            bucket: Mutex::new(Bucket {
                left: most,
                at: Instant::now(),
            }),
        }
    }

    /// Takes one token; returns false if there is none.
    pub(crate) fn try_take(&self) -> bool {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> bool {
        let mut bucket = self.bucket.lock();
        let come = now.saturating_duration_since(bucket.at).as_secs_f64() * self.per_second;
        bucket.left = (bucket.left + come).min(self.most);
        bucket.at = now;
        let has = bucket.left >= 1.0;
        bucket.left -= f64::from(u8::from(has));
        has
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn flood_is_cut_to_rate() {
        let budget = Budget::new(100.0, 500.0);
        let start = Instant::now();
        let taken = |at| (0..10_000).filter(|_| budget.take_at(at)).count();
        assert!((500..=501).contains(&taken(start)));
        assert_eq!(taken(start), 0);
        assert!((99..=101).contains(&taken(start + Duration::from_secs(1))));
    }
}
