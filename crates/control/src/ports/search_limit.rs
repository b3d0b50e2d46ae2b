//! Bound on what requests without any right make this server compute: the search for the sandbox
//! whose token signed a URL hashes once for each sandbox.
//!
//! Hashes are counted, of all clients and of each address, so that one address that floods leaves
//! the others their part. Buckets are in memory alone; full ones are forgotten.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// Hashes a second: about a tenth of a processor.
const ALL: NonZeroU32 = NonZeroU32::new(400_000).expect("not 0");
/// Hashes a second that one address may cause.
const OF_ADDRESS: NonZeroU32 = NonZeroU32::new(100_000).expect("not 0");
/// Cost of a search beside its hashes: parsing, and a wait where nothing is found.
const BASE_COST: u32 = 1000;
/// Searches between two looks for full buckets.
const FORGET_EVERY: u32 = 4096;

type AddressLimiter<C> =
    RateLimiter<IpAddr, DashMapStateStore<IpAddr>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// Limit on searches for the signer of a URL.
#[derive(Debug)]
pub struct SearchLimit<C: Clock = MonotonicClock> {
    clock: C,
    all: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    of_address: AddressLimiter<C>,
    counted: AtomicU32,
}

impl Default for SearchLimit {
    fn default() -> Self {
        Self::with_clock(&MonotonicClock)
    }
}

impl<C: Clock + Clone> SearchLimit<C> {
    fn with_clock(clock: &C) -> Self {
        let all = Quota::per_second(ALL);
        let of_address = Quota::per_second(OF_ADDRESS);
        Self {
            clock: clock.clone(),
            all: RateLimiter::direct_with_clock(all, clock.clone()),
            of_address: RateLimiter::dashmap_with_clock(of_address, clock.clone()),
            counted: AtomicU32::new(0),
        }
    }

    /// Counts a search among `sandboxes`.
    ///
    /// # Errors
    /// Time after which it may be tried again, if there were too many.
    pub fn count_search(&self, from: Option<IpAddr>, sandboxes: usize) -> Result<(), Duration> {
        if self.counted.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            self.of_address.retain_recent();
            self.of_address.shrink_to_fit();
        }
        let cost = u32::try_from(sandboxes).unwrap_or(u32::MAX);
        let cost = cost.saturating_add(BASE_COST);
        let wait = |refused: governor::NotUntil<_>| refused.wait_time_from(self.clock.now());
        if let Some(from) = from {
            let count = NonZeroU32::new(cost.min(OF_ADDRESS.get())).unwrap_or(NonZeroU32::MIN);
            // It is never larger than the bucket.
            if let Ok(Err(refused)) = self.of_address.check_key_n(&network_of(from), count) {
                return Err(wait(refused));
            }
        }
        let count = NonZeroU32::new(cost.min(ALL.get())).unwrap_or(NonZeroU32::MIN);
        match self.all.check_n(count) {
            Ok(Err(refused)) => Err(wait(refused)),
            _ => Ok(()),
        }
    }
}

/// Returns the address by which a client is counted: of IPv6 the network, of which each client has a
/// whole one.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            Ipv6Addr::from(network).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn flooding_address_leaves_others_their_part() {
        let clock = FakeRelativeClock::default();
        let limit = SearchLimit::with_clock(&clock);
        let flooder = address("192.0.2.1");
        let made = (0..1000).take_while(|_| limit.count_search(flooder, 9000).is_ok());
        assert_eq!(made.count(), 10);
        limit
            .count_search(address("::ffff:192.0.2.2"), 9000)
            .unwrap();
        let wait = limit.count_search(flooder, 9000).unwrap_err();
        clock.advance(wait);
        limit.count_search(flooder, 9000).unwrap();
        assert!(limit.count_search(flooder, 9000).is_err());
    }

    #[test]
    fn all_addresses_together_are_bounded() {
        let limit = SearchLimit::with_clock(&FakeRelativeClock::default());
        let made = (0..1000u32).filter(|number| {
            let from = Ipv6Addr::from(u128::from(*number) << 64);
            limit.count_search(Some(from.into()), 9000).is_ok()
        });
        assert_eq!(made.count(), 40);
        // Two addresses of one network are one client.
        let limit = SearchLimit::with_clock(&FakeRelativeClock::default());
        limit.count_search(address("2001:db8::1"), 99_000).unwrap();
        assert!(limit.count_search(address("2001:db8::2"), 0).is_err());
        limit.count_search(address("2001:db8:0:1::1"), 0).unwrap();
    }
}
