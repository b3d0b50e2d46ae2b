//! Effects of other software's firewall rules on the traffic of sandboxes.
//!
//! Our table decides what sandboxes must not reach: a drop there is final. An accept is not: every
//! other chain at the same hook of the kernel sees the packet, too, and may drop it. We cannot
//! change that without touching rules of others, so the check has a command to type as its fix. It
//! reads all rules over netlink, whatever has written them: Docker, ufw, firewalld, `iptables-nft`.
//! Only those of `iptables-legacy` cannot be read so.

use std::io;

use linux::nft::{self, BaseChain, Family, Hook};

use super::Check;
use crate::network::{TABLE, VETH_PREFIX};

const NAME: &str = "firewall";

/// Software that made a rule, which decides the words of the fix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RuleOwner {
    Docker,
    Ufw,
    Firewalld,
    Other,
}

impl RuleOwner {
    fn name(self) -> &'static str {
        match self {
            Self::Docker => "Docker",
            Self::Ufw => "ufw",
            Self::Firewalld => "firewalld",
            Self::Other => "another program",
        }
    }

    fn fix(self, family: Family) -> String {
        let iptables = if family == Family::Ip6 {
            "ip6tables"
        } else {
            "iptables"
        };
        match self {
            Self::Docker => format!(
                "{iptables} -I DOCKER-USER -i {VETH_PREFIX}+ -j ACCEPT; {iptables} -I DOCKER-USER -o {VETH_PREFIX}+ -j \
                 ACCEPT; and again after each start of Docker"
            ),
            Self::Ufw => {
                format!(
                    "ufw route allow in on {VETH_PREFIX}+; ufw route allow out on {VETH_PREFIX}+"
                )
            }
            Self::Firewalld => format!(
                "firewall-cmd --permanent --zone=trusted --add-interface={VETH_PREFIX}+; firewall-cmd --reload; our own \
                 rules keep sandboxes from the host all the same"
            ),
            Self::Other => {
                format!("let what comes in on or goes out of the links {VETH_PREFIX}* pass there")
            }
        }
    }
}

/// Reports chains of other software that do not let forwarded packets of sandboxes pass.
pub(super) fn check_forwarding_rules() -> Check {
    match read_base_chains(Family::Ip) {
        Ok(chains) => check_chains(&chains, has_legacy_rules("ip_tables_names")),
        Err(error) => Check::warning(
            NAME,
            format!("the rules cannot be read: {error}"),
            "sudo wrenn doctor",
        ),
    }
}

/// Returns what stops forwarded IPv6 packets of sandboxes, and a fix: the first of the host's
/// chains that does not let them pass. `None` if there is none.
///
/// # Errors
/// When the rules cannot be read.
pub(super) fn stops_ipv6() -> io::Result<Option<(String, String)>> {
    let legacy = has_legacy_rules("ip6_tables_names").then(|| {
        let fix = "ip6tables-legacy -S FORWARD shows them; switch to ip6tables-nft, or let the links wrv-+ pass";
        ("there are rules of ip6tables-legacy, which cannot be read here".to_owned(), fix.to_owned())
    });
    Ok(find_blocking_chain(&read_base_chains(Family::Ip6)?, Family::Ip6).or(legacy))
}

fn read_base_chains(family: Family) -> io::Result<Vec<BaseChain>> {
    nft::base_chains(Hook::FORWARD, family, VETH_PREFIX.as_bytes())
}

fn others(chains: &[BaseChain]) -> impl Iterator<Item = &BaseChain> {
    chains.iter().filter(|chain| chain.table != TABLE)
}

fn find_blocking_chain(chains: &[BaseChain], family: Family) -> Option<(String, String)> {
    // firewalld refuses at the end of its chain, with the policy that accepts.
    let stops = |chain: &&BaseChain| (chain.drops || chain.table == "firewalld") && !chain.mentions;
    let chain = others(chains).find(stops)?;
    let by = match chain {
        chain if chain.table == "firewalld" => RuleOwner::Firewalld,
        chain if chain.beside.iter().any(|name| name == "DOCKER-USER") => RuleOwner::Docker,
        chain
            if chain
                .beside
                .iter()
                .any(|name| name.starts_with("ufw-") || name.starts_with("ufw6-")) =>
        {
            RuleOwner::Ufw
        }
        _ => RuleOwner::Other,
    };
    let over = if family == Family::Ip6 {
        " over IPv6"
    } else {
        ""
    };
    let found = format!(
        "{}'s chain {} of table {} drops what sandboxes send to the internet{over}: they have no network{over}",
        by.name(),
        chain.name,
        chain.table
    );
    Some((found, by.fix(family)))
}

fn check_chains(chains: &[BaseChain], legacy: bool) -> Check {
    if let Some((found, fix)) = find_blocking_chain(chains, Family::Ip) {
        return Check::warning(NAME, found, fix);
    }
    if legacy {
        let fix = "iptables-legacy -S FORWARD shows them; switch to iptables-nft, or let the links wrv-+ pass";
        return Check::warning(
            NAME,
            "there are rules of iptables-legacy, which cannot be read here",
            fix,
        );
    }
    match others(chains).count() {
        0 => Check::ok(NAME, "no other program has rules about forwarded packets"),
        count => Check::ok(
            NAME,
            format!("{count} chains of others let the packets of sandboxes pass"),
        ),
    }
}

/// Returns true if `iptables-legacy` has filter rules: a `filter` table in `/proc/net/LIST`, which
/// only root can read.
fn has_legacy_rules(list: &str) -> bool {
    let names = std::fs::read_to_string(format!("/proc/net/{list}"));
    names.is_ok_and(|names| names.lines().any(|name| name == "filter"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use linux::netns;

    use super::*;
    use crate::doctor::Status;

    fn with(rules: &'static str) -> Check {
        check_chains(&chains(rules, Family::Ip), false)
    }

    fn chains(rules: &'static str, family: Family) -> Vec<BaseChain> {
        let name = format!(
            "wtest-fw-{:?}-{}",
            std::thread::current().id(),
            std::process::id()
        );
        let name: String = name
            .chars()
            .filter(|sign| sign.is_ascii_alphanumeric() || *sign == '-')
            .collect();
        netns::create(&name).unwrap();
        let found = netns::enter(&name, move || {
            testkit::nft::apply(rules)?;
            crate::network::host_table(crate::network::Ipv6Mode::On, &[], &BTreeSet::new())
                .commit()?;
            read_base_chains(family)
        });
        netns::remove(&name).unwrap();
        found.unwrap()
    }

    #[test]
    fn chain_dropping_only_ipv6_is_reported() {
        let rules = "table ip6 filter { chain DOCKER-USER { }; \
            chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }; }";
        let (found, fix) = find_blocking_chain(&chains(rules, Family::Ip6), Family::Ip6).unwrap();
        assert!(
            found.contains("Docker's")
                && found.ends_with("over IPv6")
                && fix.starts_with("ip6tables -I"),
            "{found}"
        );
        assert_eq!(with(rules).status, Status::Ok);
        assert_eq!(
            find_blocking_chain(&chains("", Family::Ip6), Family::Ip6),
            None
        );
    }

    #[test]
    fn no_blocking_chain_passes() {
        assert_eq!(with("").status, Status::Ok);
        let accepts = with(
            "table ip filter { chain FORWARD { type filter hook forward priority 0; policy accept; }; }",
        );
        assert!(
            accepts.status == Status::Ok && accepts.found.contains('1'),
            "{accepts:?}"
        );
        assert_eq!(
            with("table ip x { chain c { type filter hook input priority 0; policy drop; }; }")
                .status,
            Status::Ok
        );
    }

    #[test]
    fn blocking_owner_is_named_with_fix() {
        let docker = with(
            "table ip filter { chain DOCKER-USER { }; \
             chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }; }",
        );
        assert!(
            docker.found.contains("Docker") && docker.fix.unwrap().contains("DOCKER-USER -i wrv-+")
        );
        let ufw = with(
            "table ip filter { chain ufw-before-forward { }; \
             chain FORWARD { type filter hook forward priority 0; policy drop; jump ufw-before-forward; }; }",
        );
        assert!(
            ufw.found.contains("ufw's") && ufw.fix.unwrap().contains("ufw route allow in on wrv-+")
        );
        let firewalld = with(
            "table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; policy accept; \
             reject with icmpx admin-prohibited; }; }",
        );
        assert!(
            firewalld.found.contains("firewalld's")
                && firewalld.fix.unwrap().contains("--zone=trusted")
        );
        let own = with(
            "table inet mine { chain f { type filter hook forward priority 0; policy drop; }; }",
        );
        assert!(own.status == Status::Warning && own.fix.unwrap().contains("wrv-*"));
    }

    #[test]
    fn chain_that_accepts_sandboxes_passes() {
        let docker = with(
            "table ip filter { chain DOCKER-USER { iifname \"wrv-*\" accept; oifname \"wrv-*\" accept; }; \
             chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }; }",
        );
        assert_eq!(docker.status, Status::Ok, "{docker:?}");
    }
}
