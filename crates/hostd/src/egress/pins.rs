//! Resolved addresses of names, for as long as programs may go on using them. Bounded: a guest
//! decides how many names are asked for.
//!
//! ```text
//!   answer ──→ good for its TTL, 5 minutes to an hour ──→ about to end: the name has it still, or a connection uses it?
//!                   ↑─────────────────────────── yes, for a day after the guest asked last ┘         └ no ──→ forgotten
//! ```
//! Programs look a name up once and go on for hours (JVMs, connection pools, nginx).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Bounds of the lifetime of an address. The TTL of an answer may be shorter, but programs go on
/// using its addresses.
const LEAST: Duration = Duration::from_secs(300);
const MOST: Duration = Duration::from_secs(3600);
/// Remaining lifetime below which an address is renewed.
pub(super) const RENEW_BEFORE: Duration = Duration::from_secs(120);
/// Time for which a name's addresses are renewed after the guest has asked for it, or used one of
/// them.
const RENEWED_FOR: Duration = Duration::from_secs(24 * 3600);
/// Most names of one sandbox.
pub(crate) const NAMES: usize = 1024;
/// Most addresses of one answer, of IPv4 and of IPv6 each.
pub(crate) const ADDRESSES: usize = 8;
/// Most addresses of one name, of IPv4 and of IPv6 each: names of large services have others in
/// each answer, and programs use those of several.
const HELD: usize = 32;

/// Addresses of a name.
#[derive(Debug)]
struct Known {
    /// Addresses, and when each of them expires.
    addresses: HashMap<IpAddr, Instant>,
    /// Time at which the guest last asked for the name, or used one of its addresses.
    used: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct ResolvedAddresses {
    names: HashMap<String, Known>,
    /// Addresses in the kernel's sets, and when each of them expires there.
    kernel: HashMap<IpAddr, Instant>,
}

impl ResolvedAddresses {
    /// Notes the addresses of a name, and returns those that have to be written to the kernel, with
    /// their lifetimes.
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
        let empty = || Known {
            addresses: HashMap::new(),
            used: now,
        };
        let known = self.names.entry(name.to_owned()).or_insert_with(empty);
        known.used = now;
        hold(&mut known.addresses, addresses, now + lifetime);
        self.new_for_kernel(addresses, lifetime, now)
    }

    /// Returns true if the name is noted, with or without addresses.
    pub(crate) fn knows_name(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Returns the addresses that the kernel does not have, or will forget within half of
    /// `lifetime`, and notes that it has them. The caller has to write them.
    fn new_for_kernel(
        &mut self,
        addresses: &[IpAddr],
        lifetime: Duration,
        now: Instant,
    ) -> Vec<(IpAddr, Duration)> {
        self.kernel.retain(|_, until| *until > now);
        let is_new = |address: &&IpAddr| {
            self.kernel
                .get(*address)
                .is_none_or(|until| *until < now + lifetime / 2)
        };
        let new: Vec<(IpAddr, Duration)> = addresses
            .iter()
            .filter(is_new)
            .map(|one| (*one, lifetime))
            .collect();
        self.kernel.extend(
            new.iter()
                .map(|(address, lifetime)| (*address, now + *lifetime)),
        );
        new
    }

    /// Returns names with their addresses that expire within [`RENEW_BEFORE`], unless the guest has
    /// not used the name for [`RENEWED_FOR`].
    pub(crate) fn expiring_names(&self, now: Instant) -> BTreeMap<String, Vec<IpAddr>> {
        let wanted = |known: &&Known| now.duration_since(known.used) < RENEWED_FOR;
        let ending = |known: &Known| -> Vec<IpAddr> {
            let of = known
                .addresses
                .iter()
                .filter(|(_, until)| **until > now && **until < now + RENEW_BEFORE);
            of.map(|(address, _)| *address).collect()
        };
        let names = self.names.iter().filter(|(_, known)| wanted(known));
        names
            .map(|(name, known)| (name.clone(), ending(known)))
            .filter(|(_, ending)| !ending.is_empty())
            .collect()
    }

    /// Renews those of `addresses` that are noted for the name, for [`LEAST`]; returns those that
    /// have to be written to the kernel, with their lifetimes.
    pub(crate) fn renew_addresses(
        &mut self,
        name: &str,
        addresses: &[IpAddr],
        is_used: bool,
        now: Instant,
    ) -> Vec<(IpAddr, Duration)> {
        let Some(known) = self.names.get_mut(name) else {
            return Vec::new();
        };
        let held: Vec<IpAddr> = addresses
            .iter()
            .copied()
            .filter(|address| known.addresses.contains_key(address))
            .collect();
        if is_used {
            known.used = now;
        }
        hold(&mut known.addresses, &held, now + LEAST);
        self.new_for_kernel(&held, LEAST, now)
    }

    /// Returns the names that have the address.
    pub(crate) fn names_of(&self, address: IpAddr, now: Instant) -> Vec<String> {
        let has = |known: &Known| {
            known
                .addresses
                .get(&address)
                .is_some_and(|until| *until > now)
        };
        self.names
            .iter()
            .filter(|(_, known)| has(known))
            .map(|(name, _)| name.clone())
            .collect()
    }

    pub(crate) fn has_address(&self, name: &str, address: IpAddr, now: Instant) -> bool {
        self.names
            .get(name)
            .and_then(|known| known.addresses.get(&address))
            .is_some_and(|until| *until > now)
    }

    /// Removes the addresses for which `keep` returns false, and returns all others with their
    /// remaining lifetimes, to be written with rules that replace the kernel's sets.
    pub(crate) fn retain_addresses(
        &mut self,
        keep: impl Fn(&str, IpAddr) -> bool,
        now: Instant,
    ) -> Vec<(IpAddr, Duration)> {
        for (name, known) in &mut self.names {
            known
                .addresses
                .retain(|address, until| *until > now && keep(name, *address));
        }
        self.names.retain(|_, known| !known.addresses.is_empty());
        self.kernel.clear();
        for (address, until) in self.names.values().flat_map(|known| &known.addresses) {
            let last = self.kernel.entry(*address).or_insert(*until);
            *last = (*last).max(*until);
        }
        self.kernel
            .iter()
            .map(|(address, until)| (*address, until.duration_since(now)))
            .collect()
    }

    /// Notes that writing these addresses to the kernel has failed.
    pub(crate) fn mark_unwritten(&mut self, addresses: &[(IpAddr, Duration)]) {
        for (address, _) in addresses {
            self.kernel.remove(address);
        }
    }

    fn make_room(&mut self, now: Instant) {
        self.names
            .retain(|_, known| known.addresses.values().any(|until| *until > now));
        if self.names.len() < NAMES {
            return;
        }
        let first = self
            .names
            .iter()
            .min_by_key(|(_, known)| known.addresses.values().max().copied());
        if let Some(name) = first.map(|(name, _)| name.clone()) {
            self.names.remove(&name);
        }
    }
}

/// Notes that addresses expire at `until`. At [`HELD`] addresses of its family, a new one replaces
/// the one that expires first.
fn hold(known: &mut HashMap<IpAddr, Instant>, addresses: &[IpAddr], until: Instant) {
    for address in addresses {
        let like = |other: &&IpAddr| other.is_ipv4() == address.is_ipv4();
        if known.keys().filter(like).count() >= HELD && !known.contains_key(address) {
            let alike = known.iter().filter(|(other, _)| like(other));
            let oldest = alike
                .min_by_key(|(_, until)| **until)
                .map(|(address, _)| *address);
            oldest.map(|oldest| known.remove(&oldest));
        }
        known.insert(*address, until);
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
    fn answer_holds_for_its_name_only() {
        let mut pins = ResolvedAddresses::default();
        let now = Instant::now();
        let new = pins.add("a.com", &[address(1), address(2)], Duration::ZERO, now);
        assert_eq!(new, [(address(1), LEAST), (address(2), LEAST)]);
        assert!(
            pins.has_address("a.com", address(1), now)
                && !pins.has_address("b.com", address(1), now)
        );
        assert!(
            !pins.has_address("a.com", address(3), now)
                && !pins.has_address("a.com", address(1), now + LEAST)
        );
        // The kernel gets an address again only when it is about to expire.
        assert!(
            pins.add("b.com", &[address(1)], Duration::ZERO, now + LEAST / 4)
                .is_empty()
        );
        assert_eq!(
            pins.add("b.com", &[address(1)], Duration::ZERO, now + LEAST * 3 / 4)
                .len(),
            1
        );
    }

    #[test]
    fn other_rules_keep_what_they_allow() {
        let mut pins = ResolvedAddresses::default();
        let now = Instant::now();
        pins.add("a.com", &[address(1)], Duration::ZERO, now);
        pins.add("b.com", &[address(2)], Duration::from_secs(3600), now);
        assert_eq!(
            pins.retain_addresses(|name, _| name == "b.com", now),
            [(address(2), Duration::from_secs(3600))]
        );
        assert!(!pins.has_address("a.com", address(1), now));
    }

    #[test]
    fn renewed_address_stays_for_a_day() {
        let mut pins = ResolvedAddresses::default();
        let start = Instant::now();
        pins.add("a.com", &[address(1), address(2)], Duration::ZERO, start);
        assert!(pins.expiring_names(start).is_empty());
        let near = start + LEAST - RENEW_BEFORE / 2;
        assert_eq!(pins.expiring_names(near)["a.com"].len(), 2);
        // One is kept, and one that the name never had is not added.
        assert_eq!(
            pins.renew_addresses("a.com", &[address(1), address(9)], false, near),
            [(address(1), LEAST)]
        );
        let later = start + LEAST + Duration::from_secs(1);
        assert!(
            pins.has_address("a.com", address(1), later)
                && !pins.has_address("a.com", address(2), later)
        );
        assert!(!pins.has_address("a.com", address(9), later));
        assert_eq!(pins.names_of(address(1), later), ["a.com"]);
        let mut now = near;
        while now < start + RENEWED_FOR {
            assert!(pins.has_address("a.com", address(1), now));
            pins.renew_addresses("a.com", &[address(1)], false, now);
            now += LEAST - RENEW_BEFORE / 2;
        }
        assert!(
            pins.expiring_names(now).is_empty(),
            "no name was asked for within a day"
        );
    }

    #[test]
    fn many_names_fill_no_memory() {
        let mut pins = ResolvedAddresses::default();
        let now = Instant::now();
        for n in 0..5000_u32 {
            pins.add(
                &format!("{n}.com"),
                &[Ipv4Addr::from(n).into()],
                Duration::from_secs(n.into()),
                now,
            );
        }
        assert_eq!(pins.names.len(), NAMES);
        let many: Vec<IpAddr> = (0..200)
            .flat_map(|last| [address(last), address6(last)])
            .collect();
        pins.add("many.com", &many, Duration::ZERO, now);
        let known = &pins.names["many.com"].addresses;
        let of_four = known.keys().filter(|address| address.is_ipv4()).count();
        assert_eq!((of_four, known.len() - of_four), (HELD, HELD));
    }
}
