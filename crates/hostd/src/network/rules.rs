//! nftables rules, as text for one transaction each.
//!
//! On the host one table for all sandboxes of the machine: nothing in it names a slot, so making and removing a
//! sandbox never touches it. In each namespace one table with that sandbox's address translation.
//!
//! Default policy: out to the public internet, and nowhere else. A sandbox reaches neither the host,
//! nor other sandboxes, nor private, link-local, carrier-grade NAT or metadata addresses. Nothing reaches in but
//! the host itself. IPv6 is off in the namespaces, and dropped on the host all the same.

use super::plan::{HOST_REACHABLE, Slot, TAP, VETH_PREFIX};
use super::policy::{DNS_PORT, PROXY_PORT};
use vmm::GUEST_IP;

/// Name of the table on the host and in the namespaces.
pub const TABLE: &str = "wrenn";

/// Special-purpose IPv4 ranges that are not the public internet (RFC 6890 and its registry).
const NOT_PUBLIC: &str = "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, \
    192.0.0.0/24, 192.0.2.0/24, 192.88.99.0/24, 192.168.0.0/16, 198.18.0.0/15, 198.51.100.0/24, 203.0.113.0/24, \
    224.0.0.0/4, 240.0.0.0/4";

/// The host's table, replaced as a whole. Idempotent.
#[must_use]
pub fn host() -> String {
    format!(
        "table inet {TABLE} {{ }}
delete table inet {TABLE}
table inet {TABLE} {{
  set not_public {{
    type ipv4_addr
    flags interval
    elements = {{ {NOT_PUBLIC} }}
  }}
  chain input {{
    type filter hook input priority filter - 5; policy accept;
    iifname \"{VETH_PREFIX}*\" ct state established,related accept
    iifname \"{VETH_PREFIX}*\" drop
  }}
  chain forward {{
    type filter hook forward priority filter - 5; policy accept;
    iifname \"{VETH_PREFIX}*\" meta nfproto ipv6 drop
    iifname \"{VETH_PREFIX}*\" ip daddr @not_public drop
    iifname \"{VETH_PREFIX}*\" ip saddr != {HOST_REACHABLE} drop
    oifname \"{VETH_PREFIX}*\" ct state established,related accept
    oifname \"{VETH_PREFIX}*\" drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {HOST_REACHABLE} oifname != \"{VETH_PREFIX}*\" masquerade
  }}
}}
"
    )
}

/// The table of one namespace.
#[must_use]
pub fn namespace(slot: Slot) -> String {
    let (host_ip, peer) = (slot.host_ip(), slot.peer());
    format!(
        "table ip {TABLE} {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname \"{peer}\" ip daddr {host_ip} dnat to {GUEST_IP}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname \"{peer}\" snat to {host_ip}
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname \"{TAP}\" ip saddr != {GUEST_IP} drop
    iifname \"{TAP}\" ct state invalid drop
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    ip protocol icmp accept
    ct state established,related accept
    iifname \"{TAP}\" udp dport {DNS_PORT} accept
    iifname \"{TAP}\" tcp dport {{ {DNS_PORT}, {PROXY_PORT} }} accept
  }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The real nft reads them, in namespaces of their own.
    #[test]
    fn nft_accepts_the_rules_any_number_of_times() {
        let name = format!("wtest-rules-{}", std::process::id());
        linux::netns::create(&name).unwrap();
        let applied = linux::netns::enter(&name, || {
            linux::nft::apply(&host())?;
            linux::nft::apply(&host())?;
            linux::nft::apply(&namespace(Slot::new(7).unwrap()))
        });
        linux::netns::remove(&name).unwrap();
        applied.unwrap();
    }
}
