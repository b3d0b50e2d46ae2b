//! Choice of the IPv4 networks of sandboxes: those of the original Wrenn, unless something else on
//! this host, or a peer of its connections, has addresses in them: a LAN, a VPN, Docker,
//! Kubernetes. Then others are taken. A route into a sandbox would win over the one to the LAN, as
//! it is narrower.
//!
//! ```text
//!   AGENT_NETWORK_CIDR? ─ yes → that one, also if it is in use (then with a warning, and one of `wrenn doctor`)
//!        └ no → one that this host has used already and that is still free → the first free one → none: the start fails
//! ```
//! Networks behind the host's default route with which it has no connection now cannot be found;
//! the setting is for those. Sandboxes that were made with other networks keep theirs (they are in
//! their claims and records), and the host's rules are about all of them.
//!
//! On disk is `/run/wrenn/host/networks`, which all agents of the machine share: the networks that
//! they have taken, since rules must hold for sandboxes of agents that have none yet. Written
//! before the rules, gone after a restart.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use linux::{file, route};

use super::plan::{Plan, VETH_PREFIX};

/// Networks to take if the original ones are in use: ranges that are rarely a default. Docker
/// takes 172.17.0.0/16 to 172.31.0.0/16 and 192.168.0.0/16, Podman 10.88.0.0/16, k3s 10.42.0.0/15,
/// kubeadm 10.96.0.0/12 and 10.244.0.0/16, Tailscale 100.64.0.0/10, libvirt and LXD parts of
/// 192.168.0.0/16 and 10.0.0.0/8.
const OTHERS: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 212, 0, 0), 15),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 182, 0, 0), 15),
    // For measurements of network devices (RFC 2544).
    Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 30, 0, 0), 15),
];
/// Name of the file with the noted networks, in the directory that agents of the machine share.
const NOTE: &str = "networks";

/// IPv4 network that is in use on this host, or an address that it talks to, and a text that says
/// what uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InUse {
    pub(crate) network: Ipv4Net,
    pub(crate) by: String,
}

/// Returns what uses IPv4 addresses: routes of all tables but the default ones, addresses of links,
/// name servers, and the other ends of connections. What is `ours` does not count: the host talks
/// to guests, too.
///
/// # Errors
/// When the kernel's routes or connections cannot be read.
pub(crate) fn in_use(name_servers: &str, ours: &BTreeSet<Plan>) -> io::Result<Vec<InUse>> {
    let mut found = Vec::new();
    for route in route::list_routes4()? {
        let Ok(network) = Ipv4Net::new(route.destination, route.prefix) else {
            continue;
        };
        if route.prefix > 0
            && !route
                .link
                .as_ref()
                .is_some_and(|link| link.starts_with(VETH_PREFIX))
        {
            let by = route.link.map_or_else(
                || format!("a route to {network}"),
                |link| format!("{network} on {link}"),
            );
            found.push(InUse {
                network: network.trunc(),
                by,
            });
        }
    }
    let resolv_conf = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let configured = resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"));
    let servers = configured
        .chain(name_servers.split(','))
        .map(|text| text.trim().split(':').next().unwrap_or_default());
    let servers = servers
        .filter_map(|text| text.parse().ok())
        .map(|at| single(at, format!("name server {at}")));
    let is_ours = |at: &Ipv4Addr| {
        ours.iter()
            .any(|plan| plan.reachable.contains(at) || plan.pairs.contains(at))
    };
    let peers = route::tcp_peers()?
        .into_iter()
        .filter(|at| !is_ours(at))
        .map(|at| single(at, format!("a connection with {at}")));
    found.extend(servers.chain(peers));
    Ok(found)
}

fn single(address: Ipv4Addr, by: String) -> InUse {
    InUse {
        network: address.into(),
        by,
    }
}

/// Returns what uses addresses of these networks.
pub(crate) fn find_overlaps(plan: Plan, in_use: &[InUse]) -> Vec<&InUse> {
    let overlap = |one: &Ipv4Net, other: &Ipv4Net| one.contains(other) || other.contains(one);
    in_use
        .iter()
        .filter(|used| {
            overlap(&used.network, &plan.reachable) || overlap(&used.network, &plan.pairs)
        })
        .collect()
}

/// Chooses the networks of new sandboxes. `known` are those that this host has used already.
///
/// # Errors
/// When none is free.
pub(crate) fn choose_networks(
    wanted: Option<Plan>,
    known: &BTreeSet<Plan>,
    in_use: &[InUse],
) -> io::Result<Plan> {
    if let Some(plan) = wanted {
        return Ok(plan);
    }
    let others = OTHERS.into_iter().filter_map(Plan::from_halves);
    let mut candidates = [Plan::ORIGINAL]
        .into_iter()
        .chain(known.iter().copied())
        .chain(others);
    candidates.find(|plan| find_overlaps(*plan, in_use).is_empty()).ok_or_else(|| {
        let first = find_overlaps(Plan::ORIGINAL, in_use).first().map_or_else(String::new, |used| used.by.clone());
        io::Error::other(format!(
            "all networks that sandboxes could have are in use on this host ({first}, and others): set \
             AGENT_NETWORK_CIDR to a private network of /{} or larger that is not",
            Plan::LONGEST_PREFIX
        ))
    })
}

/// Returns the networks that agents of this machine have noted.
pub(super) fn read_noted(dir: &Path) -> io::Result<BTreeSet<Plan>> {
    match fs::read(dir.join(NOTE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        // A file that cannot be parsed was cut off before its writer made any rules.
        other => Ok(serde_json::from_slice(&other?).unwrap_or_default()),
    }
}

/// Notes all networks for which the host's rules have to hold.
pub(super) fn write_note(dir: &Path, plans: &BTreeSet<Plan>) -> io::Result<()> {
    file::write_atomic(&dir.join(NOTE), &serde_json::to_vec(plans)?, 0o600)
}

/// Removes the note of all networks.
pub(super) fn remove_note(dir: &Path) -> io::Result<()> {
    stdx::fs::remove_file_if_exists(dir.join(NOTE))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use linux::netns;

    use super::*;

    /// What is found on a host with these routes.
    fn on_a_host(name: &str, commands: &'static [&'static str]) -> Vec<InUse> {
        let name = format!("wtest-addr-{name}-{}", std::process::id());
        netns::create(&name).unwrap();
        let found = netns::enter(&name, move || {
            for command in commands {
                assert!(
                    Command::new("ip")
                        .args(command.split(' '))
                        .status()?
                        .success(),
                    "{command}"
                );
            }
            in_use("8.8.8.8", &BTreeSet::new())
        });
        netns::remove(&name).unwrap();
        found.unwrap()
    }

    fn chosen(in_use: &[InUse]) -> Plan {
        choose_networks(None, &BTreeSet::new(), in_use).unwrap()
    }

    #[test]
    fn free_host_gets_the_original_networks() {
        let found = on_a_host(
            "free",
            &[
                "link add lan type veth peer name lan-far",
                "link set lan up",
                "addr add 192.168.1.5/24 dev lan",
                "route add default via 192.168.1.1",
                // A route of ours.
                "link add wrv-7 type veth peer name wrv-7-far",
                "link set wrv-7 up",
                "route add 10.11.0.7/32 dev wrv-7",
            ],
        );
        assert_eq!(chosen(&found), Plan::ORIGINAL, "{found:?}");
        assert!(
            found.iter().any(|used| used.by == "192.168.1.0/24 on lan"),
            "{found:?}"
        );
    }

    #[test]
    fn networks_in_use_are_left_alone() {
        let lan = on_a_host(
            "lan",
            &[
                "link add lan type veth peer name lan-far",
                "link set lan up",
                "addr add 10.11.3.4/16 dev lan",
            ],
        );
        assert!(
            find_overlaps(Plan::ORIGINAL, &lan)
                .iter()
                .any(|used| used.by == "10.11.0.0/16 on lan"),
            "{lan:?}"
        );
        assert_eq!(Some(chosen(&lan)), Plan::from_halves(OTHERS[0]));
        // A VPN with a table of its own, to a wider network.
        let vpn = on_a_host(
            "vpn",
            &[
                "link add wg0 type veth peer name wg0-far",
                "link set wg0 up",
                "route add 10.0.0.0/8 dev wg0 table 51820",
            ],
        );
        assert_eq!(Some(chosen(&vpn)), Plan::from_halves(OTHERS[2]), "{vpn:?}");
        let blackhole = on_a_host(
            "hole",
            &["link set lo up", "route add blackhole 10.12.9.0/24"],
        );
        assert_ne!(chosen(&blackhole), Plan::ORIGINAL);
        let dns = [single(
            Ipv4Addr::new(10, 12, 0, 2),
            "name server 10.12.0.2".to_owned(),
        )];
        assert_ne!(chosen(&dns), Plan::ORIGINAL);
    }

    #[test]
    fn full_host_is_told_the_setting() {
        let all = [
            InUse {
                network: Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 1).unwrap(),
                by: "one half".to_owned(),
            },
            InUse {
                network: "128.0.0.0/1".parse().unwrap(),
                by: "the other".to_owned(),
            },
        ];
        let error = choose_networks(None, &BTreeSet::new(), &all)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("AGENT_NETWORK_CIDR") && error.contains("one half"),
            "{error}"
        );
        let wanted = Plan::from_halves("10.77.0.0/20".parse().unwrap());
        assert_eq!(
            choose_networks(wanted, &BTreeSet::new(), &all).unwrap(),
            wanted.unwrap()
        );
    }
}
