//! nftables rules: tables of ours alone, each made by one transaction.
//!
//! On the host one table for all sandboxes of the machine: nothing in it names a slot, so making and removing a
//! sandbox never touches it, and it is the same for one sandbox and for thousands. In each namespace one table with
//! that sandbox's address translation, and one that sees every frame of its guest first.
//!
//! ```text
//!   guest → TAP      its own hardware and IPv4 address, to the gateway's hardware address; ARP for the gateway
//!         → namespace  forwarded to the host with the slot's address; nothing for the namespace itself
//!         → host       before anybody else translates: to no address of the host's and to none that is not public
//!                      forwarded: once more, by what others have made of the destination
//! ```
//! What is not said here is dropped: other protocols, IPv6, VLANs, other addresses, multicast and broadcast. Nothing
//! reaches in but the host itself, and answers.

use std::net::Ipv4Addr;

use linux::nft::{ARP, ESTABLISHED, Family, Hook, INVALID, IP, RELATED, Rule, Table, Transaction};
use vmm::GUEST_IP;

use super::plan::{GATEWAY_IP, GUEST_MAC, HOST_REACHABLE, Slot, TAP, TAP_MAC, VETH_PREFIX};

/// Name of our tables, on the host and in the namespaces.
pub const TABLE: &str = "wrenn";
/// The host's table.
pub const HOST: Table = (Family::Inet, TABLE);
/// In a namespace: translation and what is forwarded, and the TAP's frames.
const NAMESPACE: Table = (Family::Ip, TABLE);
const FRAMES: Table = (Family::Netdev, TABLE);

/// Packets of a guest that its namespace takes in all the same, because another table of that namespace redirected them
/// to a server of ours there, and marked them so. No guest can: marks do not cross a TAP.
pub const TAKEN_IN: u32 = 0x77;

/// Special-purpose IPv4 ranges that are not the public internet (RFC 6890 and its registry).
pub(super) const NOT_PUBLIC: [(Ipv4Addr, u8); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];
const SET: &str = "not_public";

/// Priorities of hooks (nft(8)): after connections are tracked and before destinations are translated; before filters.
const BEFORE_DSTNAT: i32 = -150;
const BEFORE_FILTER: i32 = -5;
const FILTER: i32 = 0;
const ICMP: u8 = 1;

/// The host's table, replaced as a whole. Idempotent.
#[must_use]
pub fn host() -> Transaction {
    let (network, prefix) = HOST_REACHABLE;
    let links = format!("{VETH_PREFIX}*");
    let from = || Rule::new().iif(&links);
    let to = || Rule::new().oif(&links);
    let prerouting = [
        from().ipv6().drop(),
        // What the host would answer through another link.
        from().saddr_from_elsewhere().drop(),
        from().ct_state(ESTABLISHED).accept(),
        from().l4(ICMP).ct_state(RELATED).accept(),
        from().ipv4().saddr_not_in(network, prefix).drop(),
        from().daddr_local().drop(),
        from().ipv4().daddr_within(SET).drop(),
    ];
    let input = [from().ct_state(ESTABLISHED).accept(), from().l4(ICMP).ct_state(RELATED).accept(), from().drop()];
    let forward = [
        from().ipv4().daddr_within(SET).drop(),
        to().ct_state(ESTABLISHED).accept(),
        to().l4(ICMP).ct_state(RELATED).accept(),
        to().drop(),
    ];
    let postrouting = [Rule::new().ipv4().saddr_in(network, prefix).oif_not(&links).masquerade()];
    let table = Transaction::new().table(HOST).delete_table(HOST).table(HOST).networks(HOST, SET, &NOT_PUBLIC);
    [
        ("prerouting", Hook::filter(Hook::PREROUTING, BEFORE_DSTNAT), &prerouting[..]),
        ("input", Hook::filter(Hook::INPUT, BEFORE_FILTER), &input),
        ("forward", Hook::filter(Hook::FORWARD, BEFORE_FILTER), &forward),
        ("postrouting", Hook::nat(Hook::POSTROUTING), &postrouting),
    ]
    .into_iter()
    .fold(table, |table, (name, hook, rules)| chain(table, HOST, name, hook, rules))
}

/// The tables of one namespace, whose links are there.
#[must_use]
pub fn namespace(slot: Slot) -> Transaction {
    let (host_ip, peer) = (slot.host_ip(), slot.peer());
    let frames = [
        Rule::new().ether(GUEST_MAC, TAP_MAC).carries(IP).saddr_in(GUEST_IP, 32).accept(),
        Rule::new().ether_from(GUEST_MAC).carries(ARP).arp(GUEST_MAC, GUEST_IP, GATEWAY_IP).accept(),
    ];
    let forward = [
        Rule::new().ct_state(INVALID).drop(),
        Rule::new().iif(TAP).oif(&peer).saddr_in(GUEST_IP, 32).accept(),
        Rule::new().iif(&peer).oif(TAP).daddr(GUEST_IP).accept(),
    ];
    let input = [
        Rule::new().iif("lo").accept(),
        Rule::new().ct_state(ESTABLISHED).accept(),
        Rule::new().l4(ICMP).ct_state(RELATED).accept(),
        Rule::new().mark(TAKEN_IN).accept(),
    ];
    let prerouting = [Rule::new().iif(&peer).daddr(host_ip).dnat(GUEST_IP)];
    let postrouting = [Rule::new().oif(&peer).snat(host_ip)];
    let tables = Transaction::new().table(FRAMES).table(NAMESPACE);
    [
        (FRAMES, "guest", Hook::ingress(TAP).or_drop(), &frames[..]),
        (NAMESPACE, "prerouting", Hook::nat(Hook::PREROUTING), &prerouting),
        (NAMESPACE, "forward", Hook::filter(Hook::FORWARD, FILTER).or_drop(), &forward),
        (NAMESPACE, "input", Hook::filter(Hook::INPUT, FILTER).or_drop(), &input),
        (NAMESPACE, "postrouting", Hook::nat(Hook::POSTROUTING), &postrouting),
    ]
    .into_iter()
    .fold(tables, |tables, (table, name, hook, rules)| chain(tables, table, name, hook, rules))
}

fn chain(changes: Transaction, table: Table, name: &str, hook: Hook<'_>, rules: &[Rule]) -> Transaction {
    rules.iter().fold(changes.chain(table, name, hook), |changes, rule| changes.rule(table, name, rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The real kernel takes them, in a namespace of their own.
    #[test]
    fn the_kernel_takes_the_rules_any_number_of_times() {
        let name = format!("wtest-rules-{}", std::process::id());
        linux::netns::create(&name).unwrap();
        let applied = linux::netns::enter(&name, || {
            linux::nft::remove(HOST)?;
            host().commit()?;
            host().commit()?;
            linux::tap::create(TAP, 0)?;
            namespace(Slot::new(7).unwrap()).commit()?;
            linux::nft::remove(HOST)
        });
        linux::netns::remove(&name).unwrap();
        applied.unwrap();
    }
}
