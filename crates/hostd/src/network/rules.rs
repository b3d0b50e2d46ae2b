//! nftables rules: tables of ours alone, each made by one transaction.
//!
//! On the host one table for all sandboxes of the machine: nothing in it names a slot, so making
//! and removing a sandbox never touches it, and it is the same for one sandbox and for thousands.
//! In each namespace one table with that sandbox's address translation, and one that sees every
//! frame of its guest first.
//!
//! ```text
//!   guest → TAP      its own hardware and IP address, to the gateway's hardware address; ARP for the gateway
//!         → namespace  forwarded to the host with the slot's address; nothing for the namespace itself
//!         → host       before other software translates: to no address of the host's and to none that is not public
//!                      forwarded: checked once more, by the translated destination
//! ```
//! TCP announces no larger segments than the way out carries: ICMP errors about that are often lost
//! on their way to a server. Everything else is dropped: other protocols, VLANs, other addresses,
//! multicast and broadcast, and IPv6 where it is off ([`Ipv6Mode`]). Only the host itself, over
//! IPv4, and answers reach in. Over IPv6, there is no neighbour or router discovery either: the
//! namespace neither takes in nor sends packets of no connection.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;
use linux::nft::{
    ARP, ESTABLISHED, Family, Hook, INVALID, IP, IPV6, RELATED, Rule, Table, Transaction, UNTRACKED,
};
use model::network::{BLOCKED_RANGES, BLOCKED_RANGES6};
use vmm::GUEST_IP;

use super::ipv6::Ipv6Mode;
use super::plan::{
    GATEWAY_IP, GUEST_IP6, GUEST_MAC, HOST_VISIBLE6, Plan, Slot, TAP, TAP_MAC, VETH_PREFIX,
};

/// Name of our tables, on the host and in the namespaces.
pub const TABLE: &str = "wrenn";
/// The host's table.
pub const HOST: Table = (Family::Inet, TABLE);
/// Tables in a namespace: of translation and forwarded packets, and of the TAP's frames.
const NAMESPACE: Table = (Family::Ip, TABLE);
const NAMESPACE6: Table = (Family::Ip6, TABLE);
const FRAMES: Table = (Family::Netdev, TABLE);

/// Mark of a guest's packets that its namespace takes in, because the table of its rules has
/// redirected them to our resolver or proxy there. A guest cannot set it: marks do not cross a TAP.
pub const MARK_LOCAL: u32 = 0x77;

/// Networks that are not the public internet, of IPv4 ([`BLOCKED_RANGES`]), and of IPv6 ([`BLOCKED_RANGES6`]).
const SET: &str = "not_public";
const SET6: &str = "not_public6";

/// Priorities of hooks (nft(8)): after connections are tracked and before destinations are
/// translated; before filters.
const BEFORE_DSTNAT: i32 = -150;
const BEFORE_FILTER: i32 = -5;
const FILTER: i32 = 0;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const MULTICAST6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);

/// Returns the host's table, which replaces the one that is there. `plans` are the networks of
/// sandboxes; those that are `local` are not public either.
#[must_use]
pub fn host_table(ipv6: Ipv6Mode, local: &[Ipv6Net], plans: &BTreeSet<Plan>) -> Transaction {
    let networks: Vec<(Ipv4Addr, u8)> = plans
        .iter()
        .map(|plan| (plan.reachable.network(), plan.reachable.prefix_len()))
        .collect();
    let links = format!("{VETH_PREFIX}*");
    let rules = HostRules::with_ipv4(&links, &networks);
    let rules6 = if ipv6.is_on() {
        HostRules::with_ipv6(&links)
    } else {
        HostRules::without_ipv6(&links)
    };
    // Packets whose answers the host would send through another link.
    let spoofed = Rule::new().iif(&links).saddr_from_elsewhere().drop();
    let prerouting = [&[spoofed][..], &rules6.prerouting, &rules.prerouting].concat();
    let not_public = BLOCKED_RANGES.map(|net| (net.addr(), net.prefix_len()));
    let table = Transaction::new()
        .table(HOST)
        .delete_table(HOST)
        .table(HOST)
        .networks4(HOST, SET, &not_public)
        .networks6(HOST, SET6, &not_public6(local));
    [
        (
            "prerouting",
            Hook::filter(Hook::PREROUTING, BEFORE_DSTNAT),
            prerouting,
        ),
        (
            "input",
            Hook::filter(Hook::INPUT, BEFORE_FILTER),
            [rules6.input, rules.input].concat(),
        ),
        (
            "forward",
            Hook::filter(Hook::FORWARD, BEFORE_FILTER),
            [rules6.forward, rules.forward].concat(),
        ),
        (
            "postrouting",
            Hook::nat(Hook::POSTROUTING),
            [rules6.postrouting, rules.postrouting].concat(),
        ),
    ]
    .into_iter()
    .fold(table, |table, (name, hook, rules)| {
        append_chain(table, HOST, name, hook, &rules)
    })
}

/// Returns the IPv6 networks that are not public, aggregated so that none is within another, which
/// the kernel's set would refuse.
fn not_public6(local: &[Ipv6Net]) -> Vec<(Ipv6Addr, u8)> {
    let nets = Ipv6Net::aggregate(&[&BLOCKED_RANGES6[..], local].concat());
    nets.into_iter()
        .map(|net| (net.addr(), net.prefix_len()))
        .collect()
}

/// Rules of the host's chains. Those about IPv6 alone come before the others.
#[derive(Default)]
struct HostRules {
    prerouting: Vec<Rule>,
    input: Vec<Rule>,
    forward: Vec<Rule>,
    postrouting: Vec<Rule>,
}

impl HostRules {
    /// Returns the rules for sandboxes of these IPv4 networks; those without an address hold for
    /// IPv6, too.
    fn with_ipv4(links: &str, networks: &[(Ipv4Addr, u8)]) -> Self {
        let from = || Rule::new().iif(links);
        let to = || Rule::new().oif(links);
        let from_nowhere = networks
            .iter()
            .fold(from().ipv4(), |rule, (network, prefix)| {
                rule.saddr_not_in(*network, *prefix)
            });
        let masquerade = |(network, prefix): &(Ipv4Addr, u8)| {
            Rule::new()
                .ipv4()
                .saddr_in(*network, *prefix)
                .oif_not(links)
                .masquerade()
        };
        Self {
            prerouting: vec![
                from().ct_state(ESTABLISHED).accept(),
                from().l4(ICMP).ct_state(RELATED).accept(),
                from_nowhere.drop(),
                from().daddr_local().drop(),
                from().ipv4().daddr_within(SET).drop(),
            ],
            input: vec![
                from().ct_state(ESTABLISHED).accept(),
                from().l4(ICMP).ct_state(RELATED).accept(),
                from().drop(),
            ],
            forward: vec![
                from().ipv4().daddr_within(SET).drop(),
                // The way out may carry less than a guest's link, and the ICMP errors that would
                // report it to the other side may be lost.
                from().tcp_syn().clamp_mss(),
                to().tcp_syn().clamp_mss(),
                to().ct_state(ESTABLISHED).accept(),
                to().l4(ICMP).ct_state(RELATED).accept(),
                to().drop(),
            ],
            postrouting: networks.iter().map(masquerade).collect(),
        }
    }

    fn without_ipv6(links: &str) -> Self {
        let from = || Rule::new().iif(links).ipv6();
        let to = || Rule::new().oif(links).ipv6();
        Self {
            prerouting: vec![from().drop()],
            forward: vec![from().drop(), to().drop()],
            ..Self::default()
        }
    }

    /// Returns the rules for IPv6. The rules of [`Self::with_ipv4`], which come after these, let
    /// answers through. The host itself speaks to no guest over IPv6, so errors are about
    /// connections with the internet alone.
    fn with_ipv6(links: &str) -> Self {
        let (network, prefix) = HOST_VISIBLE6;
        let from = || Rule::new().iif(links).ipv6();
        let errors = |rule: Rule| rule.l4(ICMPV6).ct_state(RELATED).accept();
        Self {
            prerouting: vec![
                from().saddr_not_in(network, prefix).drop(),
                from().daddr_local().drop(),
                from().daddr6_within(SET6).drop(),
                errors(from()),
            ],
            input: vec![from().drop()],
            forward: vec![
                from().daddr6_within(SET6).drop(),
                errors(Rule::new().oif(links).ipv6()),
            ],
            postrouting: vec![
                Rule::new()
                    .ipv6()
                    .saddr_in(network, prefix)
                    .oif_not(links)
                    .masquerade(),
            ],
        }
    }
}

/// Returns the tables of a namespace, whose links must exist.
#[must_use]
pub fn namespace_tables(slot: Slot, ipv6: Ipv6Mode) -> Transaction {
    let host_ip = slot.host_ip();
    let peer = slot.peer();
    let forward = [
        Rule::new().ct_state(INVALID).drop(),
        Rule::new()
            .iif(TAP)
            .oif(&peer)
            .saddr_in(GUEST_IP, 32)
            .accept(),
        Rule::new().iif(&peer).oif(TAP).daddr(GUEST_IP).accept(),
    ];
    let prerouting = [Rule::new().iif(&peer).daddr(host_ip).dnat(GUEST_IP)];
    let postrouting = [Rule::new().oif(&peer).snat(host_ip)];
    let tables = [
        ("prerouting", Hook::nat(Hook::PREROUTING), &prerouting[..]),
        (
            "forward",
            Hook::filter(Hook::FORWARD, FILTER).or_drop(),
            &forward,
        ),
        (
            "input",
            Hook::filter(Hook::INPUT, FILTER).or_drop(),
            &input(ICMP),
        ),
        ("output", Hook::filter(Hook::OUTPUT, FILTER), &[only_root()]),
        ("postrouting", Hook::nat(Hook::POSTROUTING), &postrouting),
    ]
    .into_iter()
    .fold(frames().table(NAMESPACE), |tables, (name, hook, rules)| {
        append_chain(tables, NAMESPACE, name, hook, rules)
    });
    if ipv6.is_on() {
        namespace6(tables, slot)
    } else {
        tables
    }
}

/// Returns the table that sees every frame of a guest first: IPv4 from its own address and ARP for
/// its gateway pass.
fn frames() -> Transaction {
    let own = [
        Rule::new()
            .ether(GUEST_MAC, TAP_MAC)
            .carries(IP)
            .saddr_in(GUEST_IP, 32)
            .accept(),
        Rule::new()
            .ether_from(GUEST_MAC)
            .carries(ARP)
            .arp(GUEST_MAC, GUEST_IP, GATEWAY_IP)
            .accept(),
    ];
    append_chain(
        Transaction::new().table(FRAMES),
        FRAMES,
        "guest",
        Hook::ingress(TAP).or_drop(),
        &own,
    )
}

/// Adds the same rules over IPv6, but lets only answers in.
fn namespace6(tables: Transaction, slot: Slot) -> Transaction {
    let peer = slot.peer();
    let (multicast, prefix) = MULTICAST6;
    let own = Rule::new()
        .ether(GUEST_MAC, TAP_MAC)
        .carries(IPV6)
        .saddr_in(GUEST_IP6, 128);
    let own = own.daddr_not_in(multicast, prefix).accept();
    let forward = [
        // Packets that are not tracked are not translated either.
        Rule::new().ct_state(INVALID | UNTRACKED).drop(),
        Rule::new()
            .iif(TAP)
            .oif(&peer)
            .saddr_in(GUEST_IP6, 128)
            .accept(),
        Rule::new()
            .iif(&peer)
            .oif(TAP)
            .daddr(GUEST_IP6)
            .ct_state(ESTABLISHED | RELATED)
            .accept(),
    ];
    let output = [only_root(), Rule::new().ct_state(UNTRACKED).drop()];
    let postrouting = [Rule::new().oif(&peer).snat(slot.host_ip6())];
    [
        (
            "forward",
            Hook::filter(Hook::FORWARD, FILTER).or_drop(),
            &forward[..],
        ),
        (
            "input",
            Hook::filter(Hook::INPUT, FILTER).or_drop(),
            &input(ICMPV6),
        ),
        ("output", Hook::filter(Hook::OUTPUT, FILTER), &output),
        ("postrouting", Hook::nat(Hook::POSTROUTING), &postrouting),
    ]
    .into_iter()
    .fold(
        tables.rule(FRAMES, "guest", &own).table(NAMESPACE6),
        |tables, (name, hook, rules)| append_chain(tables, NAMESPACE6, name, hook, rules),
    )
}

/// Returns a rule that drops packets of other users than root, whose processes our servers are. A
/// VMM may be in the namespace, as Firecracker is, which opens the TAP there, and the sandbox's
/// rules do not hold for its own packets.
fn only_root() -> Rule {
    Rule::new().sent_by_other_than_root().drop()
}

/// Returns the rules of packets that a namespace takes in for itself; `icmp` is the protocol of
/// errors.
fn input(icmp: u8) -> [Rule; 4] {
    [
        Rule::new().iif("lo").accept(),
        Rule::new().ct_state(ESTABLISHED).accept(),
        Rule::new().l4(icmp).ct_state(RELATED).accept(),
        Rule::new().mark(MARK_LOCAL).accept(),
    ]
}

/// Adds a chain with these rules.
pub(super) fn append_chain(
    changes: Transaction,
    table: Table,
    name: &str,
    hook: Hook<'_>,
    rules: &[Rule],
) -> Transaction {
    rules
        .iter()
        .fold(changes.chain(table, name, hook), |changes, rule| {
            changes.rule(table, name, rule)
        })
}

#[cfg(test)]
mod tests {
    use super::super::ipv6::Why;
    use super::*;

    #[test]
    fn overlapping_host_networks_are_blocked() {
        let local =
            ["2a07::/64", "2a07::/127", "fe80::/64", "2001::/16"].map(|net| net.parse().unwrap());
        let sets = not_public6(&local);
        let nets: Vec<Ipv6Net> = sets
            .iter()
            .map(|(address, prefix)| Ipv6Net::new(*address, *prefix).unwrap())
            .collect();
        assert!(
            BLOCKED_RANGES6
                .iter()
                .chain(&local)
                .all(|net| nets.iter().any(|set| set.contains(net)))
        );
        let overlap = |net: &Ipv6Net| nets.iter().filter(|other| other.contains(net)).count() > 1;
        assert!(!nets.iter().any(overlap), "{nets:?}");
        assert!(
            !nets
                .iter()
                .any(|net| net.contains(&"2a07:0:0:1::1".parse::<Ipv6Addr>().unwrap()))
        );
    }

    /// The real kernel takes them, in a namespace of their own.
    #[test]
    fn kernel_takes_rules_repeatedly() {
        let name = format!("wtest-rules-{}", std::process::id());
        linux::netns::create(&name).unwrap();
        let applied = linux::netns::enter(&name, || {
            linux::nft::remove(HOST)?;
            let off = Ipv6Mode::Off(Why::NotWanted);
            // One in a blocked range, two that touch, and one within another.
            let local = ["fe80::/64", "2a07::/64", "2a07:0:0:1::/64", "2a07::/127"]
                .map(|net| net.parse().unwrap());
            let plans = BTreeSet::from([
                Plan::ORIGINAL,
                Plan::from_halves("198.18.0.0/15".parse().unwrap()).unwrap(),
            ]);
            [Ipv6Mode::On, off, Ipv6Mode::On]
                .into_iter()
                .try_for_each(|ipv6| host_table(ipv6, &local, &plans).commit())?;
            linux::tap::create(TAP, 0)?;
            namespace_tables(Slot::new(7).unwrap(), Ipv6Mode::On).commit()?;
            linux::nft::remove(HOST)
        });
        linux::netns::remove(&name).unwrap();
        applied.unwrap();
    }

    #[test]
    fn only_root_sends_from_namespace() {
        let name = format!("wtest-owner-{}", std::process::id());
        linux::netns::create(&name).unwrap();
        let sent = linux::netns::enter(&name, || {
            linux::link::Links::in_this_netns()?.set_up("lo")?;
            linux::tap::create(TAP, 0)?;
            namespace_tables(Slot::new(7).unwrap(), Ipv6Mode::On).commit()?;
            let send = |to: &str| {
                std::net::UdpSocket::bind(format!("{to}:0"))?.send_to(b"x", format!("{to}:9"))
            };
            let as_root = ["127.0.0.1", "[::1]"].map(send);
            // Of this thread alone, which ends.
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65_534));
            Ok((as_root, ["127.0.0.1", "[::1]"].map(send)))
        });
        linux::netns::remove(&name).unwrap();
        let (as_root, as_vmm) = sent.unwrap();
        assert!(as_root.iter().all(Result::is_ok), "{as_root:?}");
        let refused = |sent: &std::io::Result<usize>| {
            sent.as_ref()
                .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
        };
        assert!(as_vmm.iter().all(refused), "{as_vmm:?}");
    }
}
