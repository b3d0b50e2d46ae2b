//! The addressing plan: a slot's number decides every name of a sandbox's network, and with the
//! networks that the agent took for its sandboxes ([`Plan`]) every address. Shown with those of the
//! original Wrenn, which are taken unless something else on the host uses them
//! ([`super::addresses`]).
//!
//! ```text
//!   host namespace                     namespace wrenn-N                      guest
//!   wrv-N 10.12.x.y ────── veth ────── wrp-N 10.12.x.y+1
//!   route 10.11.a.b/32 ──→              DNAT 10.11.a.b → 169.254.0.21
//!                                       tap0 169.254.0.22 ───── TAP ───── eth0 169.254.0.21
//! ```
//!
//! Every guest has the same addresses and hardware addresses, so that a snapshot can be restored
//! into any slot.
//!
//! Where the host has IPv6, each network has it too, with private addresses (RFC 4193; the prefix
//! spells "wrenn") that are translated twice, like those of IPv4:
//!
//! ```text
//!   route P:1::N/128 ──→  fe80::1 ── veth ── fe80::2
//!                                        SNAT P::15 → P:1::N
//!                                        tap0 P::16 ───────── TAP ───── eth0 P::15     (P is fd77:7265:6e6e)
//! ```
//! Nothing leads in: the host reaches guests over IPv4. The ends of the pair have no IPv6
//! addresses; fe80::1 and ::2 are only names of their hardware addresses, which are permanent
//! neighbour entries of each end. So no end sends neighbour or router discovery, and what a guest
//! sends of it is dropped.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;
use model::network::BLOCKED_RANGES;
use serde::{Deserialize, Serialize};

/// Hardware address of every guest's network interface: locally administered, unicast.
pub const GUEST_MAC: [u8; 6] = [0x02, 0xFC, 0, 0, 0, 0x05];
/// Hardware address of every TAP: a restored guest finds its gateway's address still right.
pub const TAP_MAC: [u8; 6] = [0x02, 0xFC, 0, 0, 0, 0x06];
/// The guest's gateway, and its prefix length.
pub const GATEWAY_IP: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 22);
pub const GUEST_PREFIX: u8 = 30;
/// Network of all our IPv6 addresses, which are unique local ones (RFC 4193).
pub(super) const NETWORK6: (Ipv6Addr, u8) =
    (Ipv6Addr::new(0xfd77, 0x7265, 0x6e6e, 0, 0, 0, 0, 0), 48);
pub const GUEST_IP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0x7265, 0x6e6e, 0, 0, 0, 0, 0x15);
pub const GATEWAY_IP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0x7265, 0x6e6e, 0, 0, 0, 0, 0x16);
pub const GUEST_PREFIX6: u8 = 126;
/// Names of the two ends of every veth pair, and their hardware addresses: the host's, and the
/// namespace's.
pub(super) const VETH_IP6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
pub(super) const PEER_IP6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
pub(super) const VETH_MACS: [[u8; 6]; 2] =
    [[0x02, 0xFC, 0, 0, 0, 0x01], [0x02, 0xFC, 0, 0, 0, 0x02]];
/// The TAP's name in its namespace.
pub const TAP: &str = "tap0";
/// Prefixes of the names of our namespaces, and of our links in the host's namespace.
pub const NETNS_PREFIX: &str = "wrenn-";
pub const VETH_PREFIX: &str = "wrv-";
/// Network of the source addresses of sandboxes on the host over IPv6, with its prefix length.
pub const HOST_VISIBLE6: (Ipv6Addr, u8) =
    (Ipv6Addr::new(0xfd77, 0x7265, 0x6e6e, 1, 0, 0, 0, 0), 64);

/// IPv4 networks of sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Plan {
    /// Addresses under which the host reaches the sandboxes: one for each.
    pub reachable: Ipv4Net,
    /// Addresses of the pairs of links: two for each.
    pub pairs: Ipv4Net,
}

impl Plan {
    /// Networks of the original Wrenn, and of all sandboxes of agents that had no others.
    pub const ORIGINAL: Self = Self {
        reachable: Ipv4Net::new_assert(Ipv4Addr::new(10, 11, 0, 0), 16),
        pairs: Ipv4Net::new_assert(Ipv4Addr::new(10, 12, 0, 0), 16),
    };
    /// The longest prefix of a network that can be halved: for 255 sandboxes.
    pub const LONGEST_PREFIX: u8 = 22;

    /// Halves a network. `None` if it is too small, or not one that no sandbox reaches.
    #[must_use]
    pub fn from_halves(network: Ipv4Net) -> Option<Self> {
        let private = BLOCKED_RANGES.iter().any(|range| range.contains(&network));
        if !private || network.prefix_len() > Self::LONGEST_PREFIX {
            return None;
        }
        let mut halves = network.trunc().subnets(network.prefix_len() + 1).ok()?;
        Some(Self {
            reachable: halves.next()?,
            pairs: halves.next()?,
        })
    }

    /// Returns the last slot number that has addresses. The first pair is not used.
    #[must_use]
    pub fn last_slot(self) -> u16 {
        let pairs = (1_u64 << (32 - self.pairs.prefix_len())) / 2 - 1;
        let single = (1_u64 << (32 - self.reachable.prefix_len())) - 1;
        u16::try_from(pairs.min(single))
            .unwrap_or(u16::MAX)
            .min(Slot::MAX)
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} and {}", self.reachable, self.pairs)
    }
}

/// Slot of a sandbox's network on this machine: a number from 1 to [`Slot::MAX`], and the networks
/// that its addresses are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Slot {
    number: u16,
    plan: Plan,
}

/// Slot in records: a number alone if its networks are the original ones, as earlier agents wrote
/// it.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u16),
    Planned { number: u16, plan: Plan },
}

impl Slot {
    /// Last number: 10.12.0.0/16 holds 32,768 pairs, of which the first one is not used.
    pub const MAX: u16 = 32_767;
    pub const FIRST: Self = Self {
        number: 1,
        plan: Plan::ORIGINAL,
    };

    /// Returns the slot with addresses of the original networks. `None` unless `number` is from 1
    /// to [`Slot::MAX`].
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        Self::in_plan(number, Plan::ORIGINAL)
    }

    /// Returns the slot with addresses of `plan`. `None` unless `number` is from 1 to
    /// [`Plan::last_slot`].
    #[must_use]
    pub fn in_plan(number: u16, plan: Plan) -> Option<Self> {
        (1..=plan.last_slot())
            .contains(&number)
            .then_some(Self { number, plan })
    }

    /// Returns the networks that its addresses are of.
    #[must_use]
    pub fn plan(self) -> Plan {
        self.plan
    }

    #[must_use]
    pub fn number(self) -> u16 {
        self.number
    }

    #[must_use]
    pub fn netns(self) -> String {
        format!("{NETNS_PREFIX}{}", self.number)
    }

    /// Returns the name of the VMM's control group, in our directory of groups.
    #[must_use]
    pub fn cgroup(self) -> String {
        self.number.to_string()
    }

    /// Returns the name of the host's end of the veth pair.
    #[must_use]
    pub fn veth(self) -> String {
        format!("{VETH_PREFIX}{}", self.number)
    }

    /// Returns the name of the namespace's end of the veth pair.
    #[must_use]
    pub fn peer(self) -> String {
        format!("wrp-{}", self.number)
    }

    /// Returns the host's address on the veth pair, a /31.
    #[must_use]
    pub fn veth_ip(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.plan.pairs.network().to_bits() + u32::from(self.number) * 2)
    }

    /// Returns the namespace's address on the veth pair.
    #[must_use]
    pub fn peer_ip(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.plan.pairs.network().to_bits() + u32::from(self.number) * 2 + 1)
    }

    /// Returns the address under which the host reaches the guest.
    #[must_use]
    pub fn host_ip(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.plan.reachable.network().to_bits() + u32::from(self.number))
    }

    /// Returns the address with which the guest's packets come to the host over IPv6.
    #[must_use]
    pub fn host_ip6(self) -> Ipv6Addr {
        let (prefix, _) = HOST_VISIBLE6;
        Ipv6Addr::from_bits(prefix.to_bits() | u128::from(self.number))
    }
}

/// Number of a slot that its networks do not have.
#[derive(Debug, thiserror::Error)]
#[error("network slots of {plan} go from 1 to {}, not {number}", plan.last_slot())]
struct NoSuchSlot {
    number: u16,
    plan: Plan,
}

impl TryFrom<Written> for Slot {
    type Error = NoSuchSlot;

    fn try_from(written: Written) -> Result<Self, NoSuchSlot> {
        let (number, plan) = match written {
            Written::Number(number) => (number, Plan::ORIGINAL),
            Written::Planned { number, plan } => (number, plan),
        };
        Self::in_plan(number, plan).ok_or(NoSuchSlot { number, plan })
    }
}

impl From<Slot> for Written {
    fn from(Slot { number, plan }: Slot) -> Self {
        if plan == Plan::ORIGINAL {
            Self::Number(number)
        } else {
            Self::Planned { number, plan }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use ipnet::Ipv6Net;

    use super::*;

    #[test]
    fn slots_share_no_address_or_name() {
        let slots = || (1..=Slot::MAX).map(|number| Slot::new(number).unwrap());
        let addresses: HashSet<Ipv4Addr> = slots()
            .flat_map(|slot| [slot.veth_ip(), slot.peer_ip(), slot.host_ip()])
            .collect();
        assert_eq!(addresses.len(), 3 * usize::from(Slot::MAX));
        let (prefix, length) = HOST_VISIBLE6;
        let visible = Ipv6Net::new(prefix, length).unwrap();
        let guests = Ipv6Net::new(GUEST_IP6, GUEST_PREFIX6).unwrap();
        let addresses6: HashSet<Ipv6Addr> = slots().map(Slot::host_ip6).collect();
        assert_eq!(addresses6.len(), usize::from(Slot::MAX));
        assert!(
            addresses6
                .iter()
                .all(|address| visible.contains(address) && !guests.contains(address))
        );
        assert!(guests.contains(&GATEWAY_IP6) && !visible.contains(&GATEWAY_IP6));
        // Linux takes at most 15 bytes for the name of a link.
        assert!(slots().all(|slot| slot.veth().len() <= 15 && slot.peer().len() <= 15));
    }

    #[test]
    fn slots_stay_in_their_networks() {
        for network in ["10.212.0.0/15", "192.168.64.0/22", "198.18.0.0/16"] {
            let network: Ipv4Net = network.parse().unwrap();
            let plan = Plan::from_halves(network).unwrap();
            let slots =
                || (1..=plan.last_slot()).map(|number| Slot::in_plan(number, plan).unwrap());
            let addresses: HashSet<Ipv4Addr> = slots()
                .flat_map(|slot| [slot.veth_ip(), slot.peer_ip(), slot.host_ip()])
                .collect();
            assert_eq!(
                addresses.len(),
                3 * usize::from(plan.last_slot()),
                "{network}"
            );
            assert!(
                addresses.iter().all(|address| network.contains(address)),
                "{network}"
            );
            assert_eq!(Slot::in_plan(plan.last_slot() + 1, plan), None);
        }
        assert_eq!(
            Plan::from_halves("10.212.0.0/15".parse().unwrap())
                .unwrap()
                .last_slot(),
            Slot::MAX
        );
        assert_eq!(Plan::ORIGINAL.last_slot(), Slot::MAX);
        for wrong in ["8.8.0.0/16", "0.0.0.0/0", "10.0.0.0/23"] {
            assert_eq!(Plan::from_halves(wrong.parse().unwrap()), None, "{wrong}");
        }
    }

    #[test]
    fn old_records_mean_original_networks() {
        let slot: Slot = serde_json::from_str("7").unwrap();
        assert_eq!(
            (slot, serde_json::to_string(&slot).unwrap().as_str()),
            (Slot::new(7).unwrap(), "7")
        );
        let other = Slot::in_plan(
            7,
            Plan::from_halves("10.212.0.0/15".parse().unwrap()).unwrap(),
        )
        .unwrap();
        let written = serde_json::to_string(&other).unwrap();
        assert_eq!(
            serde_json::from_str::<Slot>(&written).unwrap(),
            other,
            "{written}"
        );
        assert!(
            serde_json::from_str::<Slot>("0").is_err()
                && serde_json::from_str::<Slot>("40000").is_err()
        );
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
