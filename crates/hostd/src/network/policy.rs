//! nftables rules that make a sandbox's [`NetworkSpec`] hold, as one table of its own in the
//! sandbox's namespace, which is replaced as a whole.
//!
//! ```text
//!   guest ──┬─ to port 53 of anybody ──→ our resolver (`crate::dns`)
//!           ├─ TCP to port 80 or 443, where a rule has a name ──→ our proxy (`crate::egress`)
//!           └─ anything else ──→ the sets below
//! ```
//!
//! What is let through marks its connection with a number that stands for the rules. After a change
//! of rules a connection has the mark of others, and is judged anew at its next packet. What the
//! host began is an answer, and let through. An error about a connection shares its mark: it is let
//! through where that is right, and never sets it. What is redirected to us is marked, packet by
//! packet, since the namespace takes in nothing else of the guest: chains that translate see the
//! first packet of a connection only. What is refused is told to the guest at once, and to the
//! agent through the log group.
//!
//! The table is for IPv4 and IPv6 alike, also in a network that has no IPv6. Sets are of one of
//! them: each has a twin.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use linux::nft::{Family, Transaction};
use model::network::{Bandwidth, FLOOR, FLOOR6, NetworkSpec};
use sha2::{Digest, Sha256};

use super::plan::TAP;
use super::rules::TAKEN_IN;

/// Name of the table.
pub const POLICY_TABLE: &str = "wrenn_policy";
/// TCP and UDP ports of our resolver and proxy, on the gateway's address.
pub const DNS_PORT: u16 = 53;
pub const PROXY_PORT: u16 = 15_001;
/// Where refused packets are logged to.
pub const LOG_GROUP: u16 = 1;
/// Addresses that names may have at one time, of IPv4 and of IPv6 each.
pub const MAX_PINNED: usize = 8192;

/// The table for these rules. `pinned` are addresses that names have, and for how long.
#[must_use]
pub fn rules(spec: &NetworkSpec, pinned: &[(IpAddr, Duration)]) -> String {
    let mark = mark(spec);
    let sets = sets(spec, pinned);
    let (proxied, redirect) = if spec.has_names() {
        proxy()
    } else {
        Default::default()
    };
    let last = last_rules(spec);
    // An agent of before had a table for IPv4 alone.
    format!(
        "table ip {POLICY_TABLE} {{ }}
delete table ip {POLICY_TABLE}
table inet {POLICY_TABLE} {{ }}
delete table inet {POLICY_TABLE}
table inet {POLICY_TABLE} {{
{sets}
  chain taken_in {{
    type filter hook prerouting priority mangle; policy accept;
    iifname != \"{TAP}\" accept
    udp dport 53 meta mark set {TAKEN_IN}
    tcp dport 53 meta mark set {TAKEN_IN}
    {proxied}
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat - 1; policy accept;
    iifname != \"{TAP}\" accept
    udp dport 53 redirect to :{DNS_PORT}
    tcp dport 53 redirect to :{DNS_PORT}
    {redirect}
  }}
  chain pass {{
    ct mark set {mark} accept
  }}
  chain refuse {{
    limit rate 20/second burst 40 packets log group {LOG_GROUP} snaplen 64
    meta l4proto tcp reject with tcp reset
    reject with icmpx type admin-prohibited
  }}
  chain forward {{
    type filter hook forward priority filter - 1; policy accept;
    iifname != \"{TAP}\" accept
    ct direction reply accept
    {never}
    ct state established,related ct mark {mark} accept
    ct state related drop
    {allowed}
    {last}
  }}
}}
",
        never = to_set("never", "goto refuse"),
        allowed = to_set("allowed", "goto pass"),
    )
}

/// The sets of both families.
fn sets(spec: &NetworkSpec, pinned: &[(IpAddr, Duration)]) -> String {
    let denied = if spec.is_closed() {
        Vec::new()
    } else {
        spec.denied_nets()
    };
    let floor: Vec<IpNet> = FLOOR
        .map(IpNet::V4)
        .into_iter()
        .chain(FLOOR6.map(IpNet::V6))
        .collect();
    let mut text = String::new();
    for (name, nets) in [
        ("never", floor),
        ("allowed", spec.allowed_nets()),
        ("denied", denied),
    ] {
        let ranges = nets.iter().map(|net| (net.addr().is_ipv4(), range(*net)));
        text += &twins(name, "flags interval;", ranges);
    }
    let addresses = pinned
        .iter()
        .map(|entry| (entry.0.is_ipv4(), element(entry)));
    text + &twins(
        "pinned",
        &format!("flags timeout; size {MAX_PINNED};"),
        addresses,
    )
}

/// What becomes of packets to an address of a set.
fn to_set(name: &str, verdict: &str) -> String {
    format!("ip daddr @{name} {verdict}\n    ip6 daddr @{name}6 {verdict}")
}

/// Marks of what goes through the proxy, and where it goes instead.
fn proxy() -> (String, String) {
    let mark = format!("tcp dport {{ 80, 443 }} meta mark set {TAKEN_IN}");
    let by_address = [to_set("never", "accept"), to_set("allowed", "accept")].join("\n    ");
    (
        mark,
        format!("{by_address}\n    tcp dport {{ 80, 443 }} redirect to :{PROXY_PORT}"),
    )
}

/// For what is neither allowed by its address nor out of reach.
fn last_rules(spec: &NetworkSpec) -> String {
    match (spec.has_names(), spec.is_closed()) {
        // These must come through the proxy, and a name has an address of the resolver's only.
        (true, _) => format!(
            "tcp dport {{ 80, 443, 853 }} goto refuse\n    udp dport {{ 443, 853 }} goto refuse\n    {}\n    goto refuse",
            to_set("pinned", "goto pass")
        ),
        (false, true) => "goto refuse".to_owned(),
        (false, false) => format!("{}\n    goto pass", to_set("denied", "goto refuse")),
    }
}

/// Adds addresses of names to the table, or lets them stay for longer.
#[must_use]
pub fn pin(changes: Transaction, pinned: &[(IpAddr, Duration)]) -> Transaction {
    let (four, six): (Vec<_>, Vec<_>) = pinned
        .iter()
        .copied()
        .partition(|(address, _)| address.is_ipv4());
    let table = (Family::Inet, POLICY_TABLE);
    changes
        .hold_addresses(table, "pinned", &four)
        .hold_addresses(table, "pinned6", &six)
}

fn element((address, lifetime): &(IpAddr, Duration)) -> String {
    format!("{address} timeout {}s", lifetime.as_secs().max(1))
}

/// nft takes no prefix of length 0 everywhere.
fn range(net: IpNet) -> String {
    if net.prefix_len() == 0 {
        format!("{}-{}", net.network(), net.broadcast())
    } else {
        net.to_string()
    }
}

/// A set of IPv4 and, with a 6 at the end of its name, one of IPv6, with those of the elements that
/// are theirs.
fn twins(name: &str, about: &str, elements: impl Iterator<Item = (bool, String)>) -> String {
    let (four, six): (Vec<_>, Vec<_>) = elements.partition(|(is_ipv4, _)| *is_ipv4);
    let set = |name: &str, kind: &str, elements: Vec<(bool, String)>| {
        let elements: Vec<String> = elements.into_iter().map(|(_, element)| element).collect();
        let elements = match elements.is_empty() {
            true => String::new(),
            false => format!("    elements = {{ {} }}\n", elements.join(", ")),
        };
        format!("  set {name} {{\n    type {kind}; {about}\n{elements}  }}\n")
    };
    set(name, "ipv4_addr", four) + &set(&format!("{name}6"), "ipv6_addr", six)
}

/// Stands for the rules, also after a restart of the agent. Never 0, which is no mark.
fn mark(spec: &NetworkSpec) -> u32 {
    let spec = spec.clone().at(Bandwidth::default());
    let hash = Sha256::digest(serde_json::to_vec(&spec).unwrap_or_default());
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) | 1
}

#[cfg(test)]
mod tests {
    use linux::nft;

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

    /// The real nft reads them, in a namespace of their own.
    #[test]
    fn nft_accepts_the_rules_in_the_place_of_others() {
        let name = format!("wtest-policy-{}", std::process::id());
        linux::netns::create(&name).unwrap();
        let applied = linux::netns::enter(&name, || {
            let pinned = ["8.8.8.8", "2001:4860::8888"]
                .map(|one| (one.parse().unwrap(), Duration::from_secs(300)));
            linux::nft::apply(&format!(
                "table ip {POLICY_TABLE} {{ chain of_before {{ }}; }}"
            ))?;
            linux::nft::apply(&rules(&NetworkSpec::default(), &[]))?;
            linux::nft::apply(&rules(
                &spec(&["0.0.0.0/0", "a.com"], &["1.0.0.0/8"], true),
                &pinned,
            ))?;
            pin(Transaction::new(), &pinned).commit()?;
            linux::nft::apply(&rules(
                &spec(&["1.1.1.1", "1.1.1.0/24"], &["0.0.0.0/0"], false),
                &[],
            ))?;
            linux::nft::apply(&rules(&spec(&[], &["9.0.0.0/8", "9.9.9.9"], true), &[]))?;
            linux::nft::apply(&rules(
                &spec(&["::/0", "0.0.0.0/0"], &["2606::/16", "2606::1"], true),
                &pinned,
            ))?;
            let of_before = nft::Transaction::new()
                .delete_table((nft::Family::Ip, POLICY_TABLE))
                .commit();
            assert_eq!(of_before.unwrap_err().kind(), std::io::ErrorKind::NotFound);
            Ok(())
        });
        linux::netns::remove(&name).unwrap();
        applied.unwrap();
    }

    #[test]
    fn other_rules_have_another_mark() {
        let (one, other) = (spec(&["1.1.1.1"], &[], true), spec(&["1.1.1.2"], &[], true));
        assert_eq!(mark(&one), mark(&one.clone()));
        assert_ne!(mark(&one), mark(&other));
        assert_eq!(
            mark(&one),
            mark(&one.clone().at(Bandwidth {
                egress_mbps: 1,
                ingress_mbps: 1
            }))
        );
        assert_ne!(mark(&NetworkSpec::default()), 0);
    }
}
