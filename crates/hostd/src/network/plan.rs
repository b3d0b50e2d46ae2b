//! The addressing plan: one slot number decides every name and address of a sandbox's network (the plan of the
//! original Wrenn).
//!
//! ```text
//!   host namespace                     namespace wrenn-N                      guest
//!   wrv-N 10.12.x.y ────── veth ────── wrp-N 10.12.x.y+1
//!   route 10.11.a.b/32 ──→              DNAT 10.11.a.b → 169.254.0.21
//!                                       tap0 169.254.0.22 ───── TAP ───── eth0 169.254.0.21
//! ```
//!
//! Every guest has the same addresses and hardware addresses, so that a snapshot can be restored into any slot.
//!
//! Where the host has IPv6, each network has it too, with private addresses (RFC 4193; the prefix spells "wrenn") that
//! are translated twice, like those of IPv4:
//!
//! ```text
//!   route P:1::N/128 ──→  fe80::1 ── veth ── fe80::2
//!                                        SNAT P::15 → P:1::N
//!                                        tap0 P::16 ───────── TAP ───── eth0 P::15     (P is fd77:7265:6e6e)
//! ```
//! Nothing leads in: the host reaches guests over IPv4. The ends of the pair have no IPv6 addresses; fe80::1 and ::2
//! are only names of their hardware addresses, which each end knows for good. So nobody asks for neighbours or
//! routers, or tells of any: what of that comes from a guest is dropped.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Hardware address of every guest's network interface: locally administered, unicast.
pub const GUEST_MAC: [u8; 6] = [0x02, 0xFC, 0, 0, 0, 0x05];
/// Hardware address of every TAP: a restored guest finds its gateway's address still right.
pub const TAP_MAC: [u8; 6] = [0x02, 0xFC, 0, 0, 0, 0x06];
/// The guest's gateway, and its prefix length.
pub const GATEWAY_IP: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 22);
pub const GUEST_PREFIX: u8 = 30;
/// The same over IPv6.
/// All IPv6 addresses of ours: a network of unique local addresses (RFC 4193).
pub(super) const NETWORK6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd77, 0x7265, 0x6e6e, 0, 0, 0, 0, 0), 48);
pub const GUEST_IP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0x7265, 0x6e6e, 0, 0, 0, 0, 0x15);
pub const GATEWAY_IP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0x7265, 0x6e6e, 0, 0, 0, 0, 0x16);
pub const GUEST_PREFIX6: u8 = 126;
/// Names of the two ends of every veth pair, and their hardware addresses: the host's, and the namespace's.
pub(super) const VETH_IP6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
pub(super) const PEER_IP6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
pub(super) const VETH_MACS: [[u8; 6]; 2] = [[0x02, 0xFC, 0, 0, 0, 0x01], [0x02, 0xFC, 0, 0, 0, 0x02]];
/// The TAP's name in its namespace.
pub const TAP: &str = "tap0";
/// What the names of our namespaces, and of our links in the host's namespace, begin with.
pub const NETNS_PREFIX: &str = "wrenn-";
pub const VETH_PREFIX: &str = "wrv-";
/// Addresses under which the host reaches the sandboxes, and the length of their prefix.
pub const HOST_REACHABLE: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 11, 0, 0), 16);

/// Addresses with which sandboxes come to the host over IPv6, and the length of their prefix.
pub const HOST_VISIBLE6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd77, 0x7265, 0x6e6e, 1, 0, 0, 0, 0), 64);

/// Number of one sandbox's network on this machine, 1 to [`Slot::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Slot(u16);

impl Slot {
    /// 10.12.0.0/16 holds 32,768 pairs; the first one is not used.
    pub const MAX: u16 = 32_767;
    pub const FIRST: Self = Self(1);

    /// `None` unless `number` is from 1 to [`Slot::MAX`].
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (1..=Self::MAX).contains(&number).then_some(Self(number))
    }

    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }

    #[must_use]
    pub fn netns(self) -> String {
        format!("{NETNS_PREFIX}{}", self.0)
    }

    /// The control group of the VMM, in our directory of groups.
    #[must_use]
    pub fn cgroup(self) -> String {
        self.0.to_string()
    }

    /// The host's end of the veth pair.
    #[must_use]
    pub fn veth(self) -> String {
        format!("{VETH_PREFIX}{}", self.0)
    }

    /// The namespace's end of the veth pair.
    #[must_use]
    pub fn peer(self) -> String {
        format!("wrp-{}", self.0)
    }

    /// The host's address on the veth pair, a /31.
    #[must_use]
    pub fn veth_ip(self) -> Ipv4Addr {
        let [high, low] = (self.0 * 2).to_be_bytes();
        Ipv4Addr::new(10, 12, high, low)
    }

    /// The namespace's address on the veth pair.
    #[must_use]
    pub fn peer_ip(self) -> Ipv4Addr {
        let [high, low] = (self.0 * 2 + 1).to_be_bytes();
        Ipv4Addr::new(10, 12, high, low)
    }

    /// The address under which the host reaches the guest.
    #[must_use]
    pub fn host_ip(self) -> Ipv4Addr {
        let [high, low] = self.0.to_be_bytes();
        Ipv4Addr::new(10, 11, high, low)
    }

    /// The address that the guest has for the host over IPv6.
    #[must_use]
    pub fn host_ip6(self) -> Ipv6Addr {
        let (prefix, _) = HOST_VISIBLE6;
        Ipv6Addr::from_bits(prefix.to_bits() | u128::from(self.0))
    }
}

impl TryFrom<u16> for Slot {
    type Error = String;

    fn try_from(number: u16) -> Result<Self, String> {
        Self::new(number).ok_or_else(|| format!("network slots go from 1 to {}, not {number}", Self::MAX))
    }
}

impl From<Slot> for u16 {
    fn from(slot: Slot) -> Self {
        slot.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use ipnet::Ipv6Net;

    use super::*;

    #[test]
    fn slots_never_share_an_address_or_a_name() {
        let slots = || (1..=Slot::MAX).map(|number| Slot::new(number).unwrap());
        let addresses: HashSet<Ipv4Addr> =
            slots().flat_map(|slot| [slot.veth_ip(), slot.peer_ip(), slot.host_ip()]).collect();
        assert_eq!(addresses.len(), 3 * usize::from(Slot::MAX));
        let (prefix, length) = HOST_VISIBLE6;
        let visible = Ipv6Net::new(prefix, length).unwrap();
        let guests = Ipv6Net::new(GUEST_IP6, GUEST_PREFIX6).unwrap();
        let addresses6: HashSet<Ipv6Addr> = slots().map(Slot::host_ip6).collect();
        assert_eq!(addresses6.len(), usize::from(Slot::MAX));
        assert!(addresses6.iter().all(|address| visible.contains(address) && !guests.contains(address)));
        assert!(guests.contains(&GATEWAY_IP6) && !visible.contains(&GATEWAY_IP6));
        // Linux takes at most 15 bytes for the name of a link.
        assert!(slots().all(|slot| slot.veth().len() <= 15 && slot.peer().len() <= 15));
    }

    #[test]
    fn the_ends_of_the_range() {
        assert_eq!(Slot::new(0), None);
        assert_eq!(Slot::new(Slot::MAX + 1), None);
        let last = Slot::new(Slot::MAX).unwrap();
        assert_eq!(last.veth_ip().to_string(), "10.12.255.254");
        assert_eq!(last.host_ip().to_string(), "10.11.127.255");
        assert_eq!(last.host_ip6().to_string(), "fd77:7265:6e6e:1::7fff");
    }
}
