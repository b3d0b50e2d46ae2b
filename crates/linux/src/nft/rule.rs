//! One rule, typed: what it asks about a packet, and what becomes of the packet then.
//!
//! Each question loads something into a register and compares it, as nft(8) compiles its own
//! language: the kernel's virtual machine knows nothing else. A question that the packet does not
//! answer with yes ends the rule.

use std::net::{IpAddr, Ipv4Addr};

use netlink_bindings::nftables::{CmpOps, CtKeys, FibFlags, MetaKeys, PayloadBase, VerdictCode};

/// States of a tracked connection, as `ct state` has them (linux/netfilter/nf_conntrack_common.h).
pub const INVALID: u32 = 1;
pub const ESTABLISHED: u32 = 1 << 1;
pub const RELATED: u32 = 1 << 2;
pub const NEW: u32 = 1 << 3;
/// What is of no connection: over IPv6, discovery of neighbours and routers, and who listens to
/// multicast.
pub const UNTRACKED: u32 = 1 << 6;

/// Ethernet protocol numbers (linux/if_ether.h).
pub const IP: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const IPV6: u16 = 0x86dd;

/// Families of packets in an `inet` table (linux/netfilter.h).
pub(super) const NFPROTO_IPV4: u8 = 2;
pub(super) const NFPROTO_IPV6: u8 = 10;
/// A route that leads to this host itself (linux/rtnetlink.h).
const RTN_LOCAL: u32 = 2;
/// What to look up about a route (`nft_fib_result` in linux/netfilter/nf_tables.h). The kernel's
/// description of its messages, of which the library is made, has other numbers.
const FIB_OIF: u32 = 1;
const FIB_ADDRTYPE: u32 = 3;
const IFNAMSIZ: usize = 16;

/// What the kernel's virtual machine does for a rule, one after the other.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Meta(MetaKeys),
    Ct(CtKeys),
    Payload {
        base: PayloadBase,
        offset: u32,
        len: u32,
    },
    Fib {
        flags: u32,
        result: u32,
    },
    And(Vec<u8>),
    Compare {
        op: CmpOps,
        with: Vec<u8>,
    },
    Within(&'static str),
    Load(Vec<u8>),
    /// An expression that the library does not know: its name, and its attributes as the kernel
    /// reads them.
    Other {
        name: &'static str,
        attributes: Vec<u8>,
    },
    Log {
        group: u16,
        snaplen: u32,
    },
    Goto(&'static str),
    Nat {
        kind: NatKind,
        family: u8,
    },
    Masquerade,
    Verdict(VerdictCode),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NatKind {
    Source,
    Destination,
}

/// An address in a packet's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

impl End {
    /// Loads it: where it is in the headers of IPv4 (RFC 791) and IPv6 (RFC 8200).
    fn load(self, is_ipv4: bool) -> Step {
        let (offset, len) = match (self, is_ipv4) {
            (Self::Source, true) => (12, 4),
            (Self::Destination, true) => (16, 4),
            (Self::Source, false) => (8, 16),
            (Self::Destination, false) => (24, 16),
        };
        Step::Payload {
            base: PayloadBase::NetworkHeader,
            offset,
            len,
        }
    }
}

/// Without a question it holds for every packet.
#[derive(Debug, Clone, Default)]
pub struct Rule(pub(super) Vec<Step>);

impl Rule {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Comes in on this link; a name that ends with `*` stands for all that begin so.
    #[must_use]
    pub fn iif(self, name: &str) -> Self {
        self.ask(Step::Meta(MetaKeys::Iifname), CmpOps::Eq, link(name))
    }

    /// Comes in on another link, or is of this host.
    #[must_use]
    pub fn iif_not(self, name: &str) -> Self {
        self.ask(Step::Meta(MetaKeys::Iifname), CmpOps::Neq, link(name))
    }

    /// Goes out on this link; as [`Rule::iif`].
    #[must_use]
    pub fn oif(self, name: &str) -> Self {
        self.ask(Step::Meta(MetaKeys::Oifname), CmpOps::Eq, link(name))
    }

    /// Goes out on another link, or on none yet.
    #[must_use]
    pub fn oif_not(self, name: &str) -> Self {
        self.ask(Step::Meta(MetaKeys::Oifname), CmpOps::Neq, link(name))
    }

    /// In an `inet` table: is IPv4. Questions about addresses need it before them.
    #[must_use]
    pub fn ipv4(self) -> Self {
        self.ask(
            Step::Meta(MetaKeys::Nfproto),
            CmpOps::Eq,
            vec![NFPROTO_IPV4],
        )
    }

    /// In an `inet` table: is IPv6.
    #[must_use]
    pub fn ipv6(self) -> Self {
        self.ask(
            Step::Meta(MetaKeys::Nfproto),
            CmpOps::Eq,
            vec![NFPROTO_IPV6],
        )
    }

    /// The transport protocol, by its number.
    #[must_use]
    pub fn l4(self, protocol: u8) -> Self {
        self.ask(Step::Meta(MetaKeys::L4Proto), CmpOps::Eq, vec![protocol])
    }

    /// Carries this mark, which no packet brings along from outside of the host.
    #[must_use]
    pub fn mark(self, mark: u32) -> Self {
        self.ask(
            Step::Meta(MetaKeys::Mark),
            CmpOps::Eq,
            mark.to_ne_bytes().to_vec(),
        )
    }

    /// Was sent by a process of another user than root, through a socket in this namespace. What
    /// the kernel sends by itself or passes on has no socket.
    #[must_use]
    pub fn sent_by_other_than_root(self) -> Self {
        self.ask(
            Step::Meta(MetaKeys::Skuid),
            CmpOps::Neq,
            0_u32.to_ne_bytes().to_vec(),
        )
    }

    /// Belongs to a connection in one of these states.
    #[must_use]
    pub fn ct_state(mut self, states: u32) -> Self {
        self.0.extend([
            Step::Ct(CtKeys::State),
            Step::And(states.to_ne_bytes().to_vec()),
        ]);
        self.compare(CmpOps::Neq, vec![0; 4])
    }

    #[must_use]
    pub fn saddr_in(self, network: impl Into<IpAddr>, prefix: u8) -> Self {
        self.in_network(End::Source, CmpOps::Eq, network.into(), prefix)
    }

    #[must_use]
    pub fn saddr_not_in(self, network: impl Into<IpAddr>, prefix: u8) -> Self {
        self.in_network(End::Source, CmpOps::Neq, network.into(), prefix)
    }

    #[must_use]
    pub fn daddr(self, address: impl Into<IpAddr>) -> Self {
        self.in_network(End::Destination, CmpOps::Eq, address.into(), u8::MAX)
    }

    #[must_use]
    pub fn daddr_not_in(self, network: impl Into<IpAddr>, prefix: u8) -> Self {
        self.in_network(End::Destination, CmpOps::Neq, network.into(), prefix)
    }

    /// The IPv4 destination is in a set of the same table.
    #[must_use]
    pub fn daddr_within(self, set: &'static str) -> Self {
        self.then(End::Destination.load(true))
            .then(Step::Within(set))
    }

    /// The IPv6 destination is in a set of the same table.
    #[must_use]
    pub fn daddr6_within(self, set: &'static str) -> Self {
        self.then(End::Destination.load(false))
            .then(Step::Within(set))
    }

    /// The destination is an address of this host itself, of whatever link.
    #[must_use]
    pub fn daddr_local(self) -> Self {
        let load = Step::Fib {
            flags: FibFlags::Daddr as u32,
            result: FIB_ADDRTYPE,
        };
        self.ask(load, CmpOps::Eq, RTN_LOCAL.to_ne_bytes().to_vec())
    }

    /// The host would not send to its source through the link on which it came in: the source is a
    /// lie.
    #[must_use]
    pub fn saddr_from_elsewhere(self) -> Self {
        let flags = FibFlags::Saddr as u32 | FibFlags::Iif as u32;
        self.ask(
            Step::Fib {
                flags,
                result: FIB_OIF,
            },
            CmpOps::Eq,
            vec![0; 4],
        )
    }

    /// Sent from this hardware address to that one.
    #[must_use]
    pub fn ether(self, from: [u8; 6], to: [u8; 6]) -> Self {
        // Destination and source are the first twelve bytes of a frame.
        let load = Step::Payload {
            base: PayloadBase::LinkLayerHeader,
            offset: 0,
            len: 12,
        };
        self.ask(load, CmpOps::Eq, [to, from].concat())
    }

    /// Sent from this hardware address.
    #[must_use]
    pub fn ether_from(self, from: [u8; 6]) -> Self {
        let load = Step::Payload {
            base: PayloadBase::LinkLayerHeader,
            offset: 6,
            len: 6,
        };
        self.ask(load, CmpOps::Eq, from.to_vec())
    }

    /// What a frame carries, by its Ethernet protocol number.
    #[must_use]
    pub fn carries(self, protocol: u16) -> Self {
        self.ask(
            Step::Meta(MetaKeys::Protocol),
            CmpOps::Eq,
            protocol.to_be_bytes().to_vec(),
        )
    }

    /// ARP for IPv4 over Ethernet (RFC 826), in which `mac` says that it has `ip`, and that is
    /// about `target`.
    #[must_use]
    pub fn arp(self, mac: [u8; 6], ip: Ipv4Addr, target: Ipv4Addr) -> Self {
        let part = |offset, len| Step::Payload {
            base: PayloadBase::NetworkHeader,
            offset,
            len,
        };
        self.ask(part(0, 6), CmpOps::Eq, vec![0, 1, 8, 0, 6, 4])
            .ask(part(8, 6), CmpOps::Eq, mac.to_vec())
            .ask(part(14, 4), CmpOps::Eq, ip.octets().to_vec())
            .ask(part(24, 4), CmpOps::Eq, target.octets().to_vec())
    }

    #[must_use]
    pub fn accept(self) -> Self {
        self.then(Step::Verdict(VerdictCode::Accept))
    }

    #[must_use]
    pub fn drop(self) -> Self {
        self.then(Step::Verdict(VerdictCode::Drop))
    }

    /// Gets the address of the link that it goes out on.
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.then(Step::Masquerade)
    }

    /// Seems to come from `address` from here on.
    #[must_use]
    pub fn snat(self, address: impl Into<IpAddr>) -> Self {
        self.nat(NatKind::Source, address.into())
    }

    /// Goes to `address` instead.
    #[must_use]
    pub fn dnat(self, address: impl Into<IpAddr>) -> Self {
        self.nat(NatKind::Destination, address.into())
    }

    fn nat(self, kind: NatKind, address: IpAddr) -> Self {
        let (octets, family) = match address {
            IpAddr::V4(address) => (address.octets().to_vec(), NFPROTO_IPV4),
            IpAddr::V6(address) => (address.octets().to_vec(), NFPROTO_IPV6),
        };
        self.then(Step::Load(octets))
            .then(Step::Nat { kind, family })
    }

    /// A prefix that is longer than the address is the whole address.
    fn in_network(mut self, end: End, op: CmpOps, network: IpAddr, prefix: u8) -> Self {
        self.0.push(end.load(network.is_ipv4()));
        let (octets, mask) = match network {
            IpAddr::V4(address) => {
                let mask = u32::MAX
                    .checked_shl(32_u32.saturating_sub(prefix.into()))
                    .unwrap_or(0);
                (
                    (address.to_bits() & mask).to_be_bytes().to_vec(),
                    mask.to_be_bytes().to_vec(),
                )
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX
                    .checked_shl(128_u32.saturating_sub(prefix.into()))
                    .unwrap_or(0);
                (
                    (address.to_bits() & mask).to_be_bytes().to_vec(),
                    mask.to_be_bytes().to_vec(),
                )
            }
        };
        if mask.iter().any(|byte| *byte != u8::MAX) {
            self.0.push(Step::And(mask));
        }
        self.compare(op, octets)
    }

    fn ask(self, load: Step, op: CmpOps, with: Vec<u8>) -> Self {
        self.then(load).compare(op, with)
    }

    pub(super) fn compare(self, op: CmpOps, with: Vec<u8>) -> Self {
        self.then(Step::Compare { op, with })
    }

    pub(super) fn then(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }
}

/// A whole name is compared with its padding, the beginning of one without.
fn link(name: &str) -> Vec<u8> {
    if let Some(beginning) = name.strip_suffix('*') {
        return beginning.as_bytes().to_vec();
    }
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(IFNAMSIZ, 0);
    bytes
}
