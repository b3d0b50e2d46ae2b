//! Limits the rate of a peer's messages and bytes: a token bucket.

use std::time::Instant;

/// Token bucket, refilled with `rate` tokens a second, up to `burst`.
#[derive(Debug)]
pub(crate) struct Budget {
    rate: u64,
    burst: u64,
    left: u64,
    refilled: Instant,
}

impl Budget {
    pub(crate) fn new(rate: u64, burst: u64) -> Self {
        Self {
            rate,
            burst,
            left: burst,
            refilled: Instant::now(),
        }
    }

    /// Takes tokens. Returns false if there are fewer, and then empties the bucket.
    pub(crate) fn spend(&mut self, tokens: u64) -> bool {
        self.spend_at(tokens, Instant::now())
    }

    fn spend_at(&mut self, tokens: u64, now: Instant) -> bool {
        let millis =
            u64::try_from(now.duration_since(self.refilled).as_millis()).unwrap_or(u64::MAX);
        let earned = millis.saturating_mul(self.rate) / 1000;
        // Less time than one token takes is carried over.
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(self.burst);
            self.refilled = now;
        }
        let enough = self.left >= tokens;
        self.left = self.left.saturating_sub(tokens);
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn budget_allows_burst_then_rate() {
        let mut budget = Budget::new(10, 100);
        let start = budget.refilled;
        assert!(budget.spend_at(100, start) && !budget.spend_at(1, start));
        // Frequent attempts do not keep it from being refilled.
        let allowed = (1..=1000)
            .filter(|ms| budget.spend_at(1, start + Duration::from_millis(*ms)))
            .count();
        assert_eq!(allowed, 10);
        let later = start + Duration::from_secs(3600);
        assert!(budget.spend_at(100, later) && !budget.spend_at(1, later));
    }
}
