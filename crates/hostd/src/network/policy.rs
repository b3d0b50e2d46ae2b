//! nftables rules that make a sandbox's [`NetworkSpec`] hold, as one table of its own in the
//! sandbox's namespace, which is replaced as a whole.
//!
//! ```text
//!   guest ──┬─ to port 53 of any address ──→ our resolver (`crate::egress::dns`)
//!           ├─ TCP to port 80 or 443, where a rule has a name ──→ our proxy (`crate::egress`)
//!           └─ anything else ──→ the sets below
//! ```
//!
//! A packet that is let through marks its connection with a number that stands for the rules. After
//! a change of rules a connection has the mark of the former ones, and is judged anew at its next
//! packet. Packets of connections that the host began are answers, and let through. An error about
//! a connection has the connection's mark: it is let through if that is the current one, and never
//! sets it. Redirected packets are marked one by one, since the namespace takes in nothing else of
//! the guest, and chains that translate see only the first packet of a connection. Refused packets
//! are rejected at once, and reported to the agent through the log group.
//!
//! The table is for IPv4 and IPv6 alike, also in a network that has no IPv6. A set has addresses of
//! one family, so each has a twin.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use linux::nft::{ESTABLISHED, Family, Hook, RELATED, Rule, Table, Transaction};
use model::network::{BLOCKED_RANGES, BLOCKED_RANGES6, Bandwidth, NetworkSpec};
use sha2::{Digest, Sha256};

use super::plan::TAP;
use super::rules::{MARK_LOCAL, append_chain};

/// Name of the table.
pub const POLICY_TABLE: &str = "wrenn_policy";
const POLICY: Table = (Family::Inet, POLICY_TABLE);
/// Table of earlier agents, for IPv4 alone.
const POLICY_OF_BEFORE: Table = (Family::Ip, POLICY_TABLE);
/// TCP and UDP ports of our resolver and proxy, on the gateway's address.
pub const DNS_PORT: u16 = 53;
pub const PROXY_PORT: u16 = 15_001;
/// Netlink log group of refused packets.
pub const LOG_GROUP: u16 = 1;
/// Most addresses of names at one time, of IPv4 and of IPv6 each.
pub const MAX_PINNED: u32 = 8192;

/// Sets of the table, of IPv4 and of IPv6.
const BLOCKED: [&str; 2] = ["never", "never6"];
const ALLOWED: [&str; 2] = ["allowed", "allowed6"];
const DENIED: [&str; 2] = ["denied", "denied6"];
const PINNED: [&str; 2] = ["pinned", "pinned6"];
/// Chains that other rules go to.
const PASS: &str = "pass";
const REFUSE: &str = "refuse";

/// Priorities of hooks (nft(8)): `mangle`, and just before `dstnat` and `filter`.
const MANGLE: i32 = -150;
const BEFORE_DSTNAT: i32 = -101;
const BEFORE_FILTER: i32 = -1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const HTTP: u16 = 80;
const HTTPS: u16 = 443;
const DNS_OVER_TLS: u16 = 853;
/// Most refused packets that are logged a second, and burst of them.
const LOG_RATE: u64 = 20;
const LOG_BURST: u32 = 40;
/// Bytes of a logged packet: its headers.
const LOG_BYTES: u32 = 64;

/// Returns the table for these rules, which replaces the one that is there. `pinned` are addresses
/// that names have, and for how long.
#[must_use]
pub fn table_for(spec: &NetworkSpec, pinned: &[(IpAddr, Duration)]) -> Transaction {
    let table = [POLICY_OF_BEFORE, POLICY]
        .into_iter()
        .fold(Transaction::new(), |changes, table| {
            changes.table(table).delete_table(table)
        })
        .table(POLICY);
    let mark = mark(spec);
    let table = [PASS, REFUSE]
        .into_iter()
        .fold(sets(table, spec, pinned), |table, chain| {
            table.inner_chain(POLICY, chain)
        });
    let pass = Rule::new().set_ct_mark(mark).accept();
    let table = refusals()
        .iter()
        .fold(table.rule(POLICY, PASS, &pass), |table, rule| {
            table.rule(POLICY, REFUSE, rule)
        });
    let has_names = spec.has_names();
    [
        (
            "taken_in",
            Hook::filter(Hook::PREROUTING, MANGLE),
            marks(has_names),
        ),
        (
            "prerouting",
            Hook {
                priority: BEFORE_DSTNAT,
                ..Hook::nat(Hook::PREROUTING)
            },
            redirections(has_names),
        ),
        (
            "forward",
            Hook::filter(Hook::FORWARD, BEFORE_FILTER),
            decisions(spec, mark),
        ),
    ]
    .into_iter()
    .fold(table, |table, (name, hook, rules)| {
        append_chain(table, POLICY, name, hook, &rules)
    })
}

/// Adds the sets of both families.
fn sets(table: Transaction, spec: &NetworkSpec, pinned: &[(IpAddr, Duration)]) -> Transaction {
    let denied = if spec.is_closed() {
        Vec::new()
    } else {
        spec.denied_nets()
    };
    let blocked: Vec<IpNet> = BLOCKED_RANGES
        .map(IpNet::V4)
        .into_iter()
        .chain(BLOCKED_RANGES6.map(IpNet::V6))
        .collect();
    let table = [
        (BLOCKED, blocked),
        (ALLOWED, spec.allowed_nets()),
        (DENIED, denied),
    ]
    .into_iter()
    .fold(table, |table, ([name, name6], nets)| {
        let (nets, nets6) = by_family(&nets);
        table
            .networks4(POLICY, name, &nets)
            .networks6(POLICY, name6, &nets6)
    });
    let (pinned, pinned6) = pinned_by_family(pinned);
    table
        .addresses4(POLICY, PINNED[0], MAX_PINNED)
        .addresses6(POLICY, PINNED[1], MAX_PINNED)
        .add_addresses(POLICY, PINNED[0], &pinned)
        .add_addresses(POLICY, PINNED[1], &pinned6)
}

type Nets<A> = Vec<(A, u8)>;

fn by_family(nets: &[IpNet]) -> (Nets<Ipv4Addr>, Nets<Ipv6Addr>) {
    let mut nets4 = Vec::new();
    let mut nets6 = Vec::new();
    for net in nets {
        match net {
            IpNet::V4(net) => nets4.push((net.network(), net.prefix_len())),
            IpNet::V6(net) => nets6.push((net.network(), net.prefix_len())),
        }
    }
    (nets4, nets6)
}

type Pinned = Vec<(IpAddr, Duration)>;

fn pinned_by_family(pinned: &[(IpAddr, Duration)]) -> (Pinned, Pinned) {
    pinned
        .iter()
        .copied()
        .partition(|(address, _)| address.is_ipv4())
}

/// Returns a rule of each family about packets to an address of a set.
fn to_set([name, name6]: [&'static str; 2], verdict: impl Fn(Rule) -> Rule) -> [Rule; 2] {
    [
        verdict(Rule::new().ipv4().daddr_within(name)),
        verdict(Rule::new().ipv6().daddr6_within(name6)),
    ]
}

/// Returns the marks of packets that are redirected to resolver and proxy.
fn marks(has_names: bool) -> Vec<Rule> {
    let dns = [(UDP, DNS_PORT), (TCP, DNS_PORT)];
    let proxied = [(TCP, HTTP), (TCP, HTTPS)];
    let proxied = if has_names { &proxied[..] } else { &[] };
    dns.iter()
        .chain(proxied)
        .map(|(protocol, port)| {
            Rule::new()
                .iif(TAP)
                .dport(*protocol, *port)
                .set_mark(MARK_LOCAL)
        })
        .collect()
}

/// Returns the rules that redirect to resolver and proxy. What is decided by its address alone goes
/// past the proxy.
fn redirections(has_names: bool) -> Vec<Rule> {
    let redirect = |protocol, from, to| Rule::new().dport(protocol, from).redirect(to);
    let mut rules = vec![
        Rule::new().iif_not(TAP).accept(),
        redirect(UDP, 53, DNS_PORT),
        redirect(TCP, 53, DNS_PORT),
    ];
    if has_names {
        rules.extend(to_set(BLOCKED, Rule::accept));
        rules.extend(to_set(ALLOWED, Rule::accept));
        rules.push(redirect(TCP, HTTP, PROXY_PORT));
        rules.push(redirect(TCP, HTTPS, PROXY_PORT));
    }
    rules
}

/// Returns the rules for refused packets: they are logged, and rejected with an error to the
/// sender.
fn refusals() -> [Rule; 3] {
    [
        Rule::new()
            .limit_per_second(LOG_RATE, LOG_BURST)
            .log(LOG_GROUP, LOG_BYTES),
        Rule::new().l4(TCP).reject_with_reset(),
        Rule::new().reject_as_prohibited(),
    ]
}

/// Returns the rules that decide about what is forwarded.
fn decisions(spec: &NetworkSpec, mark: u32) -> Vec<Rule> {
    let pass = |rule: Rule| rule.goto(PASS);
    let refuse = |rule: Rule| rule.goto(REFUSE);
    let mut rules = vec![
        Rule::new().iif_not(TAP).accept(),
        Rule::new().ct_reply().accept(),
    ];
    rules.extend(to_set(BLOCKED, refuse));
    rules.extend([
        Rule::new()
            .ct_state(ESTABLISHED | RELATED)
            .ct_mark(mark)
            .accept(),
        Rule::new().ct_state(RELATED).drop(),
    ]);
    rules.extend(to_set(ALLOWED, pass));
    // For packets to addresses that are neither allowed by themselves nor blocked.
    match (spec.has_names(), spec.is_closed()) {
        (true, _) => {
            // Connections to names must go through the proxy, and questions to our resolver:
            // refuse what was not redirected, QUIC, and DNS over TLS.
            let named = [
                (TCP, HTTP),
                (TCP, HTTPS),
                (TCP, DNS_OVER_TLS),
                (UDP, HTTPS),
                (UDP, DNS_OVER_TLS),
            ];
            rules.extend(named.map(|(protocol, port)| refuse(Rule::new().dport(protocol, port))));
            rules.extend(to_set(PINNED, pass));
            rules.push(refuse(Rule::new()));
        }
        (false, true) => rules.push(refuse(Rule::new())),
        (false, false) => {
            rules.extend(to_set(DENIED, refuse));
            rules.push(pass(Rule::new()));
        }
    }
    rules
}

/// Adds addresses of names to the table, each for a time; renews those that are there.
#[must_use]
pub fn pin_addresses(changes: Transaction, pinned: &[(IpAddr, Duration)]) -> Transaction {
    let (pinned, pinned6) = pinned_by_family(pinned);
    changes
        .hold_addresses(POLICY, PINNED[0], &pinned)
        .hold_addresses(POLICY, PINNED[1], &pinned6)
}

/// Returns the mark that stands for the rules: a hash, so that it is the same after a restart of
/// the agent. Never 0, which is no mark.
fn mark(spec: &NetworkSpec) -> u32 {
    let spec = spec.clone().with_bandwidth(Bandwidth::default());
    let hash = Sha256::digest(serde_json::to_vec(&spec).unwrap_or_default());
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(allow: &[&str], deny: &[&str], allow_internet: bool) -> NetworkSpec {
        let list = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        NetworkSpec::parse(&list(allow), &list(deny), allow_internet).unwrap()
    }

    /// In a namespace of their own; the kernel's list of them as nft(8) prints it.
    #[test]
    fn kernel_takes_rules_that_replace_others() {
        let name = format!("wtest-policy-{}", std::process::id());
        linux::netns::create(&name).unwrap();
        let listed = linux::netns::enter(&name, || {
            let pinned = ["8.8.8.8", "2001:4860::8888"]
                .map(|one| (one.parse().unwrap(), Duration::from_secs(300)));
            Transaction::new().table(POLICY_OF_BEFORE).commit()?;
            let specs = [
                NetworkSpec::default(),
                spec(&["1.1.1.1", "1.1.1.0/24"], &["0.0.0.0/0"], false),
                spec(&[], &["9.0.0.0/8", "9.9.9.9"], true),
                spec(&["::/0", "0.0.0.0/0"], &["2606::/16", "2606::1"], true),
                spec(&["0.0.0.0/0", "a.com"], &["1.0.0.0/8"], true),
            ];
            let listed = specs.map(|spec| {
                table_for(&spec, &pinned).commit().unwrap();
                pin_addresses(Transaction::new(), &pinned).commit().unwrap();
                testkit::nft::list().unwrap()
            });
            let of_before = Transaction::new().delete_table(POLICY_OF_BEFORE).commit();
            assert_eq!(of_before.unwrap_err().kind(), std::io::ErrorKind::NotFound);
            Ok(listed)
        });
        linux::netns::remove(&name).unwrap();
        let [open, closed, denied, all, named] = listed.unwrap();
        for (list, parts) in [
            (
                &open,
                &["udp dport 53 redirect to :53", "goto pass } }"][..],
            ),
            (&closed, &["elements = { 1.1.1.0/24 }", "goto refuse } }"]),
            (
                &denied,
                &["elements = { 9.0.0.0/8 }", "ip daddr @denied goto refuse"],
            ),
            (&all, &["elements = { 0.0.0.0/0 }", "2606::/16"]),
            (
                &named,
                &[
                    "tcp dport 443 redirect to :15001",
                    "iifname \"tap0\" tcp dport 80 meta mark set 0x00000077",
                    "limit rate 20/second burst 40 packets log group 1 snaplen 64",
                    "meta l4proto tcp reject with tcp reset",
                    "reject with icmpx admin-prohibited",
                    "ct direction reply accept",
                    "udp dport 853 goto refuse",
                    "ip daddr @pinned goto pass ip6 daddr @pinned6 goto pass goto refuse",
                    "8.8.8.8 timeout 5m",
                    "type nat hook prerouting priority dstnat - 1; policy accept;",
                    "type filter hook forward priority filter - 1; policy accept;",
                ],
            ),
        ] {
            for part in parts {
                assert!(list.contains(part), "{part:?} is not in {list}");
            }
        }
    }

    /// As many names and networks as rules may have, at once.
    #[test]
    fn largest_rules_fit_one_transaction() {
        let name = format!("wtest-largest-{}", std::process::id());
        linux::netns::create(&name).unwrap();
        let done = linux::netns::enter(&name, || {
            // Every second network, so that none of them merge.
            let nets: Vec<String> = (0..NetworkSpec::MAX_ENTRIES)
                .map(|n| format!("{}.{}.0.0/16", 11 + n / 128, n % 128 * 2))
                .collect();
            let nets: Vec<&str> = nets.iter().map(String::as_str).collect();
            let mut allowed = nets.clone();
            allowed[0] = "a.com";
            let pinned: Vec<(IpAddr, Duration)> = (0..MAX_PINNED)
                .flat_map(|n| {
                    let four = Ipv4Addr::from_bits(0x1000_0000 + n);
                    let ipv6 = Ipv6Addr::from_bits((0x2606 << 112) + u128::from(n));
                    [IpAddr::V4(four), ipv6.into()]
                })
                .map(|address| (address, Duration::from_secs(300)))
                .collect();
            table_for(&spec(&allowed, &nets, true), &pinned).commit()?;
            pin_addresses(Transaction::new(), &pinned[..2048]).commit()
        });
        linux::netns::remove(&name).unwrap();
        done.unwrap();
    }

    #[test]
    fn other_rules_have_another_mark() {
        let one = spec(&["1.1.1.1"], &[], true);
        let other = spec(&["1.1.1.2"], &[], true);
        assert_eq!(mark(&one), mark(&one.clone()));
        assert_ne!(mark(&one), mark(&other));
        assert_eq!(
            mark(&one),
            mark(&one.clone().with_bandwidth(Bandwidth {
                egress_mbps: 1,
                ingress_mbps: 1
            }))
        );
        assert_ne!(mark(&NetworkSpec::default()), 0);
    }
}
