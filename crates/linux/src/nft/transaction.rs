//! Changes of the ruleset, sent to the kernel in one write: all of them take effect, or none.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_bindings::builtin::PushDummy;
use netlink_bindings::nftables::{
    Chained, Nfgenmsg, PushExprAttrs, PushExprListAttrs, PushRuleAttrs, Registers, SetFlags,
    VerdictCode,
};
use netlink_bindings::utils::{Pusher, RequestBuf, finalize_nested_header, push_nested_header};
use netlink_sys::Socket;

use super::rule::{NFPROTO_IPV6, NatKind, Rule, Step};
use super::send;

/// `NFNL_SUBSYS_NFTABLES` (linux/netfilter/nfnetlink.h): the subsystem that a batch is for.
const SUBSYSTEM: u16 = 10;
/// Maximum number of changes in one batch, some times as many as the largest rules take: each
/// answer takes some 1 KiB of the kernel's memory until it is read.
pub(super) const MOST_CHANGES: u32 = 150;
/// Sequence number of the message that begins a batch; its changes have those that follow.
const FIRST: u32 = 1;
/// Maximum number of interval bounds in one change, whose elements must fit 64 KiB: an IPv6 address
/// with its attributes takes some 40 bytes.
pub(super) const BOUNDS: usize = 1024;
/// Kinds of address translation (linux/netfilter/nf_tables.h).
const NAT_SNAT: u32 = 0;
const NAT_DNAT: u32 = 1;
/// `NFT_SET_ELEM_INTERVAL_END`: the element is the first after an interval.
const INTERVAL_END: u32 = 1;
/// nft(8)'s numbers of the types `ipv4_addr` and `ipv6_addr`, by which it lists a set as such.
pub(super) const IPV4_ADDR: u32 = 7;
pub(super) const IPV6_ADDR: u32 = 8;
/// `NFTA_EXPR_DATA`: the attribute that holds an expression's data.
const EXPRESSION_DATA: u16 = 2;

/// Family of packets that a table sees (linux/netfilter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Inet = 1,
    Ip = 2,
    Netdev = 5,
    Ip6 = NFPROTO_IPV6 as isize,
}

/// A table's family and name.
pub type Table = (Family, &'static str);

/// Hook at which the kernel calls a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook<'a> {
    pub kind: &'static str,
    pub number: u32,
    pub priority: i32,
    pub device: Option<&'a str>,
    /// Policy: accepts packets that no rule of the chain decides about, instead of dropping them.
    pub accept: bool,
}

impl Hook<'_> {
    /// Hook before routing.
    pub const PREROUTING: u32 = 0;
    pub const INPUT: u32 = 1;
    pub const FORWARD: u32 = 2;
    pub const OUTPUT: u32 = 3;
    pub const POSTROUTING: u32 = 4;

    /// Returns a hook for a chain of type `filter`, which accepts by default.
    #[must_use]
    pub fn filter(number: u32, priority: i32) -> Self {
        Self {
            kind: "filter",
            number,
            priority,
            device: None,
            accept: true,
        }
    }

    /// Returns a hook for a chain of type `nat`, at the customary priority.
    #[must_use]
    pub fn nat(number: u32) -> Self {
        let priority = if number == Self::POSTROUTING {
            100
        } else {
            -100
        };
        Self {
            kind: "nat",
            number,
            priority,
            device: None,
            accept: true,
        }
    }

    /// Sets the policy to drop.
    #[must_use]
    pub fn or_drop(self) -> Self {
        Self {
            accept: false,
            ..self
        }
    }
}

impl<'a> Hook<'a> {
    /// Returns the hook at which a link takes in frames, before everything else.
    #[must_use]
    pub fn ingress(device: &'a str) -> Self {
        Self {
            kind: "filter",
            number: 0,
            priority: -500,
            device: Some(device),
            accept: true,
        }
    }
}

/// A list of changes.
#[derive(Debug)]
pub struct Transaction {
    batch: Chained<'static>,
    changes: u32,
}

impl Default for Transaction {
    fn default() -> Self {
        Self::new()
    }
}

impl Transaction {
    #[must_use]
    pub fn new() -> Self {
        let mut batch = Chained::new(FIRST);
        batch.request().op_batch_begin_do(&batch_header());
        Self { batch, changes: 0 }
    }

    /// Creates the table, unless it exists.
    #[must_use]
    pub fn table(mut self, (family, name): Table) -> Self {
        self.change()
            .set_create()
            .op_newtable_do(&header(family))
            .encode()
            .push_name_bytes(name.as_bytes());
        self
    }

    /// Deletes the table with its content. It must exist.
    #[must_use]
    pub fn delete_table(mut self, (family, name): Table) -> Self {
        self.change()
            .op_deltable_do(&header(family))
            .encode()
            .push_name_bytes(name.as_bytes());
        self
    }

    /// Creates a set of IPv4 networks, which may touch but not overlap.
    #[must_use]
    pub fn networks4(self, table: Table, name: &str, networks: &[(Ipv4Addr, u8)]) -> Self {
        let bounds = bounds(networks, false);
        self.networks(table, name, (IPV4_ADDR, 4), &bounds)
    }

    /// Creates a set of IPv6 networks, as [`Transaction::networks4`].
    #[must_use]
    pub fn networks6(self, table: Table, name: &str, networks: &[(Ipv6Addr, u8)]) -> Self {
        let bounds = bounds(networks, true);
        self.networks(table, name, (IPV6_ADDR, 16), &bounds)
    }

    fn networks(
        mut self,
        (family, table): Table,
        name: &str,
        (kind, len): (u32, u32),
        bounds: &[(IpAddr, bool)],
    ) -> Self {
        let request = self.change().set_create().op_newset_do(&header(family));
        let flags = SetFlags::Interval as u32 | SetFlags::Constant as u32;
        request
            .into_encoder()
            .push_table_bytes(table.as_bytes())
            .push_name_bytes(name.as_bytes())
            .push_flags(flags)
            .push_key_type(kind)
            .push_key_len(len)
            .push_id(kind);
        // The length of all elements of a change has 16 bits.
        for bounds in bounds.chunks(BOUNDS) {
            self.elements((family, table), name, bounds);
        }
        self
    }

    fn elements(&mut self, (family, table): Table, name: &str, bounds: &[(IpAddr, bool)]) {
        let request = self.change().set_create().op_newsetelem_do(&header(family));
        let mut elements = request
            .into_encoder()
            .push_table_bytes(table.as_bytes())
            .push_set_bytes(name.as_bytes())
            .nested_elements();
        for (address, is_end) in bounds {
            let element = elements.nested_elem();
            let element = if *is_end {
                element.push_flags(&INTERVAL_END.to_be_bytes())
            } else {
                element
            };
            let key = element.nested_key();
            let key = match address {
                IpAddr::V4(address) => key.push_value(&address.octets()),
                IpAddr::V6(address) => key.push_value(&address.octets()),
            };
            elements = key.end_nested().end_nested();
        }
    }

    /// Creates a chain that only other rules of the table lead to.
    #[must_use]
    pub fn inner_chain(mut self, (family, table): Table, name: &str) -> Self {
        let request = self.change().set_create().op_newchain_do(&header(family));
        request
            .into_encoder()
            .push_table_bytes(table.as_bytes())
            .push_name_bytes(name.as_bytes());
        self
    }

    /// Creates a chain at a hook of the kernel.
    #[must_use]
    pub fn chain(mut self, (family, table): Table, name: &str, hook: Hook<'_>) -> Self {
        let request = self.change().set_create().op_newchain_do(&header(family));
        let at = request
            .into_encoder()
            .push_table_bytes(table.as_bytes())
            .push_name_bytes(name.as_bytes())
            .push_type_bytes(hook.kind.as_bytes())
            .push_policy(u32::from(hook.accept))
            .nested_hook()
            .push_num(hook.number)
            .push_priority(hook.priority);
        match hook.device {
            Some(device) => drop(at.push_dev_bytes(device.as_bytes())),
            None => drop(at),
        }
        self
    }

    /// Appends a rule to a chain.
    #[must_use]
    pub fn rule(mut self, (family, table): Table, chain: &str, rule: &Rule) -> Self {
        let request = self
            .change()
            .set_create()
            .set_append()
            .op_newrule_do(&header(family));
        let expressions = request
            .into_encoder()
            .push_table_bytes(table.as_bytes())
            .push_chain_bytes(chain.as_bytes())
            .nested_expressions();
        drop(rule.0.iter().fold(expressions, encode));
        self
    }

    /// Sends the changes, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel's error, with the number of the refused change; no change takes effect then.
    /// `NotFound` for a table that does not exist.
    pub fn commit(self) -> io::Result<()> {
        self.commit_over(send::open_socket()?)
    }

    /// Sends the changes over a socket that was not used yet.
    pub(super) fn commit_over(mut self, socket: Socket) -> io::Result<()> {
        if self.changes > MOST_CHANGES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "too many changes for one transaction",
            ));
        }
        self.batch.request().op_batch_end_do(&batch_header());
        let batch = self.batch.finalize();
        send::send(socket, batch.buf(), FIRST + 1..FIRST + 1 + self.changes)
    }

    pub(super) fn change(&mut self) -> netlink_bindings::nftables::Request<'_> {
        self.changes += 1;
        self.batch.request()
    }
}

pub(super) fn header(family: Family) -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.nfgen_family = family as u8;
    header
}

fn batch_header() -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.set_res_id(SUBSYSTEM);
    header
}

/// Returns the first addresses of networks, and the first ones after them (true), in order. Between
/// two networks that touch there is no bound, and none after the last address of all.
fn bounds<A: Into<IpAddr> + Copy>(networks: &[(A, u8)], is_ipv6: bool) -> Vec<(IpAddr, bool)> {
    let width: u32 = if is_ipv6 { 128 } else { 32 };
    let end_of = |start: u128, prefix: u8| {
        let size = 1_u128.checked_shl(width.saturating_sub(prefix.into()))?;
        start
            .checked_add(size)
            .filter(|end| is_ipv6 || u32::try_from(*end).is_ok())
    };
    let mut ranges: Vec<(u128, Option<u128>)> = networks
        .iter()
        .map(|(address, prefix)| {
            let start = bits((*address).into());
            (start, end_of(start, *prefix))
        })
        .collect();
    ranges.sort_unstable();
    let mut bounds: Vec<(u128, bool)> = Vec::new();
    for (start, end) in ranges {
        if bounds.last() == Some(&(start, true)) {
            bounds.pop();
        } else {
            bounds.push((start, false));
        }
        bounds.extend(end.map(|end| (end, true)));
    }
    // The kernel requires an end bound before the first network.
    if bounds.first().is_some_and(|(first, _)| *first != 0) {
        bounds.insert(0, (0, true));
    }
    let address = |bits: u128| match u32::try_from(bits) {
        Ok(bits) if !is_ipv6 => Ipv4Addr::from_bits(bits).into(),
        _ => Ipv6Addr::from_bits(bits).into(),
    };
    bounds
        .into_iter()
        .map(|(bits, is_end)| (address(bits), is_end))
        .collect()
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

type List<'a> = PushExprListAttrs<PushRuleAttrs<RequestBuf<'a>>>;
type Expression<'a> = PushExprAttrs<List<'a>>;
/// An expression with its data.
type Encoded<'a> = PushDummy<List<'a>>;

/// Register that all steps of a rule load and compare.
const REGISTER: u32 = Registers::Reg1 as u32;

fn encode<'a>(list: List<'a>, step: &Step) -> List<'a> {
    let element: Expression<'a> = list.nested_elem();
    match step {
        Step::Meta(key) => element
            .nested_data_meta()
            .push_dreg(REGISTER)
            .push_key(*key as u32)
            .end_nested(),
        Step::Ct(key) => element
            .nested_data_ct()
            .push_dreg(REGISTER)
            .push_key(*key as u32)
            .end_nested(),
        Step::Payload { base, offset, len } => element
            .nested_data_payload()
            .push_dreg(REGISTER)
            .push_base(*base as u32)
            .push_offset(*offset)
            .push_len(*len)
            .end_nested(),
        Step::Fib { flags, result } => element
            .nested_data_fib()
            .push_dreg(REGISTER)
            .push_result(*result)
            .push_flags(*flags)
            .end_nested(),
        Step::And(mask) => encode_bitwise_and(element, mask),
        Step::Compare { op, with } => encode_comparison(element, *op as u32, with),
        // `NFTA_LOOKUP_SREG` is called `set-id` in the kernel's description, from which the library
        // is generated.
        Step::Within(set) => element
            .nested_data_lookup()
            .push_set_bytes(set.as_bytes())
            .push_set_id(REGISTER)
            .end_nested(),
        Step::Load(value) => element
            .nested_data_immediate()
            .push_dreg(REGISTER)
            .nested_data()
            .push_value(value)
            .end_nested()
            .end_nested(),
        Step::Nat { kind, family } => encode_nat(element, *kind, (*family).into()),
        Step::Other { name, attributes } => return encode_other(element, name, attributes),
        Step::Log { group, snaplen } => element
            .nested_data_log()
            .push_group(*group)
            .push_snaplen(*snaplen)
            .end_nested(),
        Step::Goto(chain) => encode_verdict(element, VerdictCode::Goto, Some(chain)),
        Step::Masquerade => return element.push_name_bytes(b"masq").end_nested(),
        Step::Verdict(code) => encode_verdict(element, *code, None),
    }
    .end_nested()
}

fn encode_bitwise_and<'a>(element: Expression<'a>, mask: &[u8]) -> Encoded<'a> {
    let len = u32::try_from(mask.len()).unwrap_or_default();
    element
        .nested_data_bitwise()
        .push_sreg(REGISTER)
        .push_dreg(REGISTER)
        .push_len(len)
        .nested_mask()
        .push_value(mask)
        .end_nested()
        .nested_xor()
        .push_value(&vec![0; mask.len()])
        .end_nested()
        .end_nested()
}

fn encode_comparison<'a>(element: Expression<'a>, op: u32, with: &[u8]) -> Encoded<'a> {
    element
        .nested_data_cmp()
        .push_sreg(REGISTER)
        .push_op(op)
        .nested_data()
        .push_value(with)
        .end_nested()
        .end_nested()
}

fn encode_nat(element: Expression<'_>, kind: NatKind, family: u32) -> Encoded<'_> {
    let nat_type = match kind {
        NatKind::Source => NAT_SNAT,
        _ => NAT_DNAT,
    };
    element
        .nested_data_nat()
        .push_type(nat_type)
        .push_family(family)
        .push_reg_addr_min(REGISTER)
        .end_nested()
}

fn encode_verdict<'a>(
    element: Expression<'a>,
    code: VerdictCode,
    chain: Option<&str>,
) -> Encoded<'a> {
    let verdict = element
        .nested_data_immediate()
        .push_dreg(Registers::RegVerdict as u32)
        .nested_data()
        .nested_verdict()
        .push_code(code as u32);
    let verdict = match chain {
        Some(chain) => verdict.push_chain_bytes(chain.as_bytes()),
        None => verdict,
    };
    verdict.end_nested().end_nested().end_nested()
}

fn encode_other<P: Pusher>(element: PushExprAttrs<P>, name: &str, attributes: &[u8]) -> P {
    let mut element = element.push_name_bytes(name.as_bytes());
    let bytes = element.as_vec_mut();
    let header = push_nested_header(bytes, EXPRESSION_DATA);
    bytes.extend(attributes);
    finalize_nested_header(bytes, header);
    element.end_nested()
}
