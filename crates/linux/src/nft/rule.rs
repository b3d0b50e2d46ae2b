//! Typed rules: matches on a packet, and an action.
//!
//! Each match loads a value into a register and compares it, as nft(8) compiles its own language:
//! the kernel's virtual machine knows nothing else. The first match that fails ends the rule.

use std::net::{IpAddr, Ipv4Addr};

use netlink_bindings::nftables::{CmpOps, CtKeys, FibFlags, MetaKeys, PayloadBase, VerdictCode};

/// States of a tracked connection, as `ct state` has them (linux/netfilter/nf_conntrack_common.h).
pub const INVALID: u32 = 1;
pub const ESTABLISHED: u32 = 1 << 1;
pub const RELATED: u32 = 1 << 2;
pub const NEW: u32 = 1 << 3;
/// Packets of no connection: over IPv6, neighbour and router discovery, and multicast listener
/// discovery.
pub const UNTRACKED: u32 = 1 << 6;

/// Ethernet protocol numbers (linux/if_ether.h).
pub const IP: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const IPV6: u16 = 0x86dd;

/// Families of packets in an `inet` table (linux/netfilter.h).
pub(super) const NFPROTO_IPV4: u8 = 2;
pub(super) const NFPROTO_IPV6: u8 = 10;
/// Type of a route to this host itself (linux/rtnetlink.h).
const RTN_LOCAL: u32 = 2;
/// Results of a route lookup (`nft_fib_result` in linux/netfilter/nf_tables.h). The kernel's
/// description of its messages, from which the library is generated, has other numbers.
const FIB_OIF: u32 = 1;
const FIB_ADDRTYPE: u32 = 3;
const IFNAMSIZ: usize = 16;

/// Step of the kernel's virtual machine; a rule is a list of them, executed in order.
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
    /// Expression that the library does not know: its name, and its attributes as the kernel reads
    /// them.
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

/// Address in a packet's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

impl End {
    /// Returns the step that loads the address: its offset in the headers of IPv4 (RFC 791) and
    /// IPv6 (RFC 8200).
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

/// Rule without a chain yet. Without a match it holds for every packet.
#[derive(Debug, Clone, Default)]
pub struct Rule(pub(super) Vec<Step>);

impl Rule {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Matches packets that come in on this link; a name that ends with `*` stands for all names
    /// with that beginning.
    #[must_use]
    pub fn iif(self, name: &str) -> Self {
        self.ask(Step::Meta(MetaKeys::Iifname), CmpOps::Eq, link(name))
    }

    /// Matches packets that come in on another link, or are sent by this host.
    #[must_use]
    pub fn iif_not(self, name: &str) -> Self {
        self.ask(Step::Meta(MetaKeys::Iifname), CmpOps::Neq, link(name))
    }

    /// Matches packets that go out on this link; `name` as for [`Rule::iif`].
    #[must_use]
    pub fn oif(self, name: &str) -> Self {
        self.ask(Step::Meta(MetaKeys::Oifname), CmpOps::Eq, link(name))
    }

    /// Matches packets that go out on another link, or have none yet.
    #[must_use]
    pub fn oif_not(self, name: &str) -> Self {
        self.ask(Step::Meta(MetaKeys::Oifname), CmpOps::Neq, link(name))
    }

    /// Matches IPv4, in an `inet` table. Must precede matches on IPv4 addresses there.
    #[must_use]
    pub fn ipv4(self) -> Self {
        self.ask(
            Step::Meta(MetaKeys::Nfproto),
            CmpOps::Eq,
            vec![NFPROTO_IPV4],
        )
    }

    /// Matches IPv6, in an `inet` table.
    #[must_use]
    pub fn ipv6(self) -> Self {
        self.ask(
            Step::Meta(MetaKeys::Nfproto),
            CmpOps::Eq,
            vec![NFPROTO_IPV6],
        )
    }

    /// Matches the transport protocol, by its number.
    #[must_use]
    pub fn l4(self, protocol: u8) -> Self {
        self.ask(Step::Meta(MetaKeys::L4Proto), CmpOps::Eq, vec![protocol])
    }

    /// Matches packets that carry this mark, which no packet brings along from outside of the host.
    #[must_use]
    pub fn mark(self, mark: u32) -> Self {
        self.ask(
            Step::Meta(MetaKeys::Mark),
            CmpOps::Eq,
            mark.to_ne_bytes().to_vec(),
        )
    }

    /// Matches packets that a process of another user than root sent, through a socket in this
    /// namespace. Packets that the kernel sends by itself or forwards have no socket.
    #[must_use]
    pub fn sent_by_other_than_root(self) -> Self {
        self.ask(
            Step::Meta(MetaKeys::Skuid),
            CmpOps::Neq,
            0_u32.to_ne_bytes().to_vec(),
        )
    }

    /// Matches packets of a connection in one of these states.
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

    /// Matches packets whose IPv4 destination is in a set of the same table.
    #[must_use]
    pub fn daddr_within(self, set: &'static str) -> Self {
        self.then(End::Destination.load(true))
            .then(Step::Within(set))
    }

    /// Matches packets whose IPv6 destination is in a set of the same table.
    #[must_use]
    pub fn daddr6_within(self, set: &'static str) -> Self {
        self.then(End::Destination.load(false))
            .then(Step::Within(set))
    }

    /// Matches packets whose destination is an address of this host itself, on any link.
    #[must_use]
    pub fn daddr_local(self) -> Self {
        let load = Step::Fib {
            flags: FibFlags::Daddr as u32,
            result: FIB_ADDRTYPE,
        };
        self.ask(load, CmpOps::Eq, RTN_LOCAL.to_ne_bytes().to_vec())
    }

    /// Matches packets with a spoofed source: the host's route to that address does not lead
    /// through the link on which the packet came in.
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

    /// Matches frames sent from this hardware address to that one.
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

    /// Matches frames sent from this hardware address.
    #[must_use]
    pub fn ether_from(self, from: [u8; 6]) -> Self {
        let load = Step::Payload {
            base: PayloadBase::LinkLayerHeader,
            offset: 6,
            len: 6,
        };
        self.ask(load, CmpOps::Eq, from.to_vec())
    }

    /// Matches frames that carry this protocol, by its Ethernet protocol number.
    #[must_use]
    pub fn carries(self, protocol: u16) -> Self {
        self.ask(
            Step::Meta(MetaKeys::Protocol),
            CmpOps::Eq,
            protocol.to_be_bytes().to_vec(),
        )
    }

    /// Matches ARP for IPv4 over Ethernet (RFC 826) in which the sender is `mac` with `ip`, and the
    /// target address is `target`.
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

    /// Replaces the source by the address of the link that the packet goes out on.
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.then(Step::Masquerade)
    }

    /// Replaces the source of the packet by `address`.
    #[must_use]
    pub fn snat(self, address: impl Into<IpAddr>) -> Self {
        self.nat(NatKind::Source, address.into())
    }

    /// Replaces the destination of the packet by `address`.
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

    /// Compares an address with a network. A longer prefix than the address is taken for its whole
    /// length.
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

/// Returns the bytes to compare: a whole name with its padding, the beginning of a name without.
fn link(name: &str) -> Vec<u8> {
    if let Some(beginning) = name.strip_suffix('*') {
        return beginning.as_bytes().to_vec();
    }
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(IFNAMSIZ, 0);
    bytes
}
