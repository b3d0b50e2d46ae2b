//! Matches that count, and state that rules keep: connections, packets, links. The library does not
//! know their expressions, which are written as the kernel reads them
//! (linux/netfilter/nf_tables.h).

use netlink_bindings::nftables::{CmpOps, CtKeys, MetaKeys, PayloadBase};

use super::rule::{NEW, Rule, Step};

/// `IPS_CONFIRMED` (linux/netfilter/nf_conntrack_common.h): the first packet of the connection has
/// passed.
const CONFIRMED: u32 = 1 << 3;
/// Register that all values are loaded into.
pub(super) const REGISTER: u32 = 1;
const TCP: u8 = 6;

impl Rule {
    /// Matches packets that begin a connection: no packet of it has passed before. `ct_state(NEW)`
    /// matches all packets until the first answer.
    #[must_use]
    pub fn begins_connection(self) -> Self {
        let rule = self
            .ct_state(NEW)
            .then(Step::Ct(CtKeys::Status))
            .then(Step::And(CONFIRMED.to_ne_bytes().to_vec()));
        rule.compare(CmpOps::Eq, vec![0; 4])
    }

    /// Matches packets of a connection beyond the first `count` open ones that were counted by this
    /// rule (nft(8), `ct count over`).
    #[must_use]
    pub fn connections_over(self, count: u32) -> Self {
        self.then(Step::Other {
            name: "connlimit",
            attributes: connlimit(count),
        })
    }

    /// Does the same as [`Rule::connections_over`], counting per link of entry; `set` is a set of
    /// the same table ([`crate::nft::Transaction::links`]).
    #[must_use]
    pub fn connections_over_by_link(self, set: &str, count: u32) -> Self {
        const EXPRESSION: u16 = 7;
        let expression = [attribute(1, b"connlimit\0"), nested(2, &connlimit(count))].concat();
        self.add_link(set, &nested(EXPRESSION, &expression))
    }

    /// Adds the link of entry to a set of the same table, for that many milliseconds.
    #[must_use]
    pub fn hold_link(self, set: &str, milliseconds: u64) -> Self {
        const TIMEOUT: u16 = 6;
        self.add_link(set, &attribute(TIMEOUT, &milliseconds.to_be_bytes()))
    }

    fn add_link(self, set: &str, what: &[u8]) -> Self {
        const SET_NAME: u16 = 1;
        const OPERATION: u16 = 3;
        const KEY_REGISTER: u16 = 4;
        let attributes = [
            attribute(SET_NAME, &[set.as_bytes(), &[0]].concat()),
            // `NFT_DYNSET_OP_ADD`.
            attribute(OPERATION, &0_u32.to_be_bytes()),
            attribute(KEY_REGISTER, &REGISTER.to_be_bytes()),
            what.to_vec(),
        ];
        self.then(Step::Meta(MetaKeys::Iif)).then(Step::Other {
            name: "dynset",
            attributes: attributes.concat(),
        })
    }

    /// Matches packets that came in on a link that is in a set of the same table.
    #[must_use]
    pub fn link_in(self, set: &'static str) -> Self {
        self.then(Step::Meta(MetaKeys::Iif)).then(Step::Within(set))
    }

    /// Matches the first `rate` packets of a second, or the first `burst` after a quiet time.
    #[must_use]
    pub fn limit_per_second(self, rate: u64, burst: u32) -> Self {
        let attributes = [
            attribute(1, &rate.to_be_bytes()),
            attribute(2, &1_u64.to_be_bytes()),
            attribute(3, &burst.to_be_bytes()),
            // `NFT_LIMIT_PKTS`, without flags.
            attribute(4, &0_u32.to_be_bytes()),
            attribute(5, &0_u32.to_be_bytes()),
        ];
        self.then(Step::Other {
            name: "limit",
            attributes: attributes.concat(),
        })
    }

    /// Logs the first `snaplen` bytes of the packet to the group, for its listener
    /// ([`crate::nflog`]).
    #[must_use]
    pub fn log(self, group: u16, snaplen: u32) -> Self {
        self.then(Step::Log { group, snaplen })
    }

    /// Continues in another chain of the table, for good.
    #[must_use]
    pub fn goto(self, chain: &'static str) -> Self {
        self.then(Step::Goto(chain))
    }

    /// Matches the destination port of TCP or UDP; matches the protocol before.
    #[must_use]
    pub fn dport(self, protocol: u8, port: u16) -> Self {
        let load = Step::Payload {
            base: PayloadBase::TransportHeader,
            offset: 2,
            len: 2,
        };
        self.l4(protocol)
            .then(load)
            .compare(CmpOps::Eq, port.to_be_bytes().to_vec())
    }

    /// Matches TCP's first packet of each side.
    #[must_use]
    pub fn tcp_syn(self) -> Self {
        // Flags: SYN and not RST (RFC 9293, section 3.1).
        let flags = Step::Payload {
            base: PayloadBase::TransportHeader,
            offset: 13,
            len: 1,
        };
        self.l4(TCP)
            .then(flags)
            .then(Step::And(vec![0b110]))
            .compare(CmpOps::Eq, vec![0b010])
    }

    /// Lowers the maximum segment size that a TCP SYN announces to what the route to its
    /// destination, and the one back, carry in one packet.
    #[must_use]
    pub fn clamp_mss(self) -> Self {
        let register = |kind| attribute(kind, &REGISTER.to_be_bytes());
        let number = |kind, value: u32| attribute(kind, &value.to_be_bytes());
        // `NFT_RT_TCPMSS`; `NFT_BYTEORDER_HTON` of two bytes; `NFT_EXTHDR_OP_TCPOPT`, option 2, its
        // bytes 2 and 3.
        let load = [register(1), number(2, 3)].concat();
        let swap = [
            register(1),
            register(2),
            number(3, 1),
            number(4, 2),
            number(5, 2),
        ]
        .concat();
        let store = [
            attribute(2, &[2]),
            number(3, 2),
            number(4, 2),
            number(6, 1),
            register(7),
        ]
        .concat();
        [("rt", load), ("byteorder", swap), ("exthdr", store)]
            .into_iter()
            .fold(self, |rule, (name, attributes)| {
                rule.then(Step::Other { name, attributes })
            })
    }
}

/// Encodes `ct count over`: the count, and the flag that inverts the comparison.
fn connlimit(count: u32) -> Vec<u8> {
    [
        attribute(1, &count.to_be_bytes()),
        attribute(2, &1_u32.to_be_bytes()),
    ]
    .concat()
}

/// Encodes one attribute of netlink: its length, its kind, and its value, padded to a multiple of
/// four bytes.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Encodes an attribute that holds others (`NLA_F_NESTED`).
fn nested(kind: u16, attributes: &[u8]) -> Vec<u8> {
    attribute(kind | 1 << 15, attributes)
}
