//! Which addresses a name was said to have, for as long as somebody may go on believing it. Bounded: a guest decides how
//! many names are asked for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// However short an answer is good for: programs go on using what they were told.
const LEAST: Duration = Duration::from_secs(300);
const MOST: Duration = Duration::from_secs(3600);
/// Names of one sandbox.
const NAMES: usize = 1024;
/// Addresses of one name, of IPv4 and of IPv6 each; together no more than the kernel's sets take.
pub(crate) const ADDRESSES: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Pins {
    names: HashMap<String, HashMap<IpAddr, Instant>>,
    /// Until when the kernel knows them.
    kernel: HashMap<IpAddr, Instant>,
}

impl Pins {
    /// Notes what a name has, and returns what the kernel has to be told, with how long it is good for.
    pub(crate) fn add(
        &mut self,
        name: &str,
        addresses: &[IpAddr],
        ttl: Duration,
        now: Instant,
    ) -> Vec<(IpAddr, Duration)> {
        let lifetime = ttl.clamp(LEAST, MOST);
        if !self.names.contains_key(name) && self.names.len() >= NAMES {
            self.make_room(now);
        }
        let known = self.names.entry(name.to_owned()).or_default();
        for address in addresses {
            let like = |other: &&IpAddr| other.is_ipv4() == address.is_ipv4();
            if known.keys().filter(like).count() >= ADDRESSES && !known.contains_key(address) {
                let alike = known.iter().filter(|(other, _)| like(other));
                let oldest = alike.min_by_key(|(_, until)| **until).map(|(address, _)| *address);
                oldest.map(|oldest| known.remove(&oldest));
            }
            known.insert(*address, now + lifetime);
        }
        self.kernel.retain(|_, until| *until > now);
        let is_new = |address: &&IpAddr| self.kernel.get(*address).is_none_or(|until| *until < now + lifetime / 2);
        let new: Vec<(IpAddr, Duration)> = addresses.iter().filter(is_new).map(|one| (*one, lifetime)).collect();
        self.kernel.extend(new.iter().map(|(address, lifetime)| (*address, now + *lifetime)));
        new
    }

    pub(crate) fn has(&self, name: &str, address: IpAddr, now: Instant) -> bool {
        self.names.get(name).and_then(|known| known.get(&address)).is_some_and(|until| *until > now)
    }

    /// Forgets what `keep` does not want, and returns the rest for the kernel, which has forgotten everything.
    pub(crate) fn keep(&mut self, keep: impl Fn(&str, IpAddr) -> bool, now: Instant) -> Vec<(IpAddr, Duration)> {
        for (name, known) in &mut self.names {
            known.retain(|address, until| *until > now && keep(name, *address));
        }
        self.names.retain(|_, known| !known.is_empty());
        self.kernel.clear();
        for (address, until) in self.names.values().flatten() {
            let last = self.kernel.entry(*address).or_insert(*until);
            *last = (*last).max(*until);
        }
        self.kernel.iter().map(|(address, until)| (*address, until.duration_since(now))).collect()
    }

    /// They are not in the kernel after all.
    pub(crate) fn not_told(&mut self, addresses: &[(IpAddr, Duration)]) {
        for (address, _) in addresses {
            self.kernel.remove(address);
        }
    }

    fn make_room(&mut self, now: Instant) {
        self.names.retain(|_, known| known.values().any(|until| *until > now));
        if self.names.len() < NAMES {
            return;
        }
        let first = self.names.iter().min_by_key(|(_, known)| known.values().max().copied());
        if let Some(name) = first.map(|(name, _)| name.clone()) {
            self.names.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(8, 8, 8, last).into()
    }

    fn address6(last: u8) -> IpAddr {
        Ipv6Addr::new(0x2606, 0, 0, 0, 0, 0, 0, last.into()).into()
    }

    #[test]
    fn an_answer_is_good_for_a_while_and_for_its_name() {
        let (mut pins, now) = (Pins::default(), Instant::now());
        let new = pins.add("a.com", &[address(1), address(2)], Duration::ZERO, now);
        assert_eq!(new, [(address(1), LEAST), (address(2), LEAST)]);
        assert!(pins.has("a.com", address(1), now) && !pins.has("b.com", address(1), now));
        assert!(!pins.has("a.com", address(3), now) && !pins.has("a.com", address(1), now + LEAST));
        // The kernel is told again only when it is about to forget.
        assert!(pins.add("b.com", &[address(1)], Duration::ZERO, now + LEAST / 4).is_empty());
        assert_eq!(pins.add("b.com", &[address(1)], Duration::ZERO, now + LEAST * 3 / 4).len(), 1);
    }

    #[test]
    fn other_rules_keep_what_they_allow() {
        let (mut pins, now) = (Pins::default(), Instant::now());
        pins.add("a.com", &[address(1)], Duration::ZERO, now);
        pins.add("b.com", &[address(2)], Duration::from_secs(3600), now);
        assert_eq!(pins.keep(|name, _| name == "b.com", now), [(address(2), Duration::from_secs(3600))]);
        assert!(!pins.has("a.com", address(1), now));
    }

    #[test]
    fn a_guest_that_asks_for_all_names_fills_no_memory() {
        let (mut pins, now) = (Pins::default(), Instant::now());
        for n in 0..5000_u32 {
            pins.add(&format!("{n}.com"), &[Ipv4Addr::from(n).into()], Duration::from_secs(n.into()), now);
        }
        assert_eq!(pins.names.len(), NAMES);
        let many: Vec<IpAddr> = (0..200).flat_map(|last| [address(last), address6(last)]).collect();
        pins.add("many.com", &many, Duration::ZERO, now);
        let known = &pins.names["many.com"];
        let of_four = known.keys().filter(|address| address.is_ipv4()).count();
        assert_eq!((of_four, known.len() - of_four), (ADDRESSES, ADDRESSES));
    }
}
