//! Limits of the connections that one sandbox has at one time: all of them share the host's table
//! of tracked connections, and the ports that it translates to.
//!
//! ```text
//!   guest → TAP → [namespace: the limit, in the sandbox's log] → [host: the limit and a quarter] → internet
//! ```
//! Counted twice, since the two tables can be made to differ: a guest that ends a connection with a
//! packet that dies between namespace and host (a TTL of 1) has it forgotten in the one and tracked
//! for days in the other. A sandbox that only has many connections meets the first limit, with a
//! line in its log; the second one is for guests that evade the first.
//!
//! Beyond the limit the first packets of connections are dropped, not refused: TCP tries again, and
//! gets through when others have ended.
//!
//! A packet that is refused is counted all the same (net/netfilter/nf_conncount.c), and for each
//! new entry the kernel removes up to nine stale ones, once in a tick. So that a flood does not
//! keep its own list long, and cost the host a walk through it for each packet, a packet over the
//! limit blocks all new connections of its link for [`CLOSED_MS`].
//!
//! Each of the two is a table of its own with a chain named by the limit, and is made anew only if
//! that changed: a new one counts from zero. It is the same for all sandboxes of the host, so
//! agents of one host have to agree: the last one that starts decides.

use std::io;

use linux::nft::{self, Family, Hook, Rule, Table, Transaction};

use super::plan::{Slot, TAP, VETH_PREFIX};
use super::policy::DNS_PORT;

/// Name of both tables.
pub const LIMITS: Table = (Family::Inet, "wrenn_limits");
/// Netlink log group of the first packets beyond the limit, in the namespace.
pub const LIMIT_LOG_GROUP: u16 = 2;
/// Bounds of `AGENT_SANDBOX_CONNECTIONS`. The upper one is since the kernel walks the list of one
/// sandbox's connections.
pub(crate) const LEAST: u32 = 64;
pub(crate) const MOST: u32 = 65_536;
/// Most of the limit by default: enough for a crawler.
pub(crate) const DEFAULT: u32 = 4096;
/// Divisor of the host's table that gives the limit of one sandbox, unless
/// `AGENT_SANDBOX_CONNECTIONS` is set.
pub(crate) const PARTS: u32 = 16;

/// Priority of the hooks: after connections are tracked, and after the host's other rules have
/// dropped what no sandbox may send.
const AFTER_RULES: i32 = -149;
/// Names of the sets of links with their connections, and of links that are over the limit, and of
/// the chain for packets beyond it.
const LINKS: &str = "links";
const CLOSED: &str = "closed";
const FULL: &str = "full";
const UDP: u8 = 17;
/// Most DNS questions a second over UDP, and burst of them: more than the resolver answers.
const QUESTIONS: u64 = 200;
const QUESTIONS_AT_ONCE: u32 = 1000;
/// Milliseconds for which no new connection is let through after one beyond the limit.
const CLOSED_MS: u64 = 100;

/// Setting of the kernel: the most connections that it tracks.
pub(crate) const TABLE_SIZE: &str = "net/netfilter/nf_conntrack_max";

/// Returns the limit for each sandbox: the wanted one, or a share of the host's table.
pub(crate) fn sandbox_limit(wanted: Option<u32>) -> u32 {
    let size = linux::sysctl::get(TABLE_SIZE)
        .ok()
        .and_then(|size| size.parse::<u32>().ok());
    let share = size.map_or(DEFAULT, |size| (size / PARTS).clamp(LEAST, DEFAULT));
    wanted.unwrap_or(share).clamp(LEAST, MOST)
}

/// Returns the number of connections of one sandbox that the host tracks at most.
pub(crate) fn limit_on_host(limit: u32) -> u32 {
    limit + limit / 4
}

/// Limits connections in the host's namespace.
///
/// # Errors
/// When the kernel refuses the table.
pub(super) fn limit_host(limit: u32) -> io::Result<()> {
    let begins = Rule::new()
        .iif(&format!("{VETH_PREFIX}*"))
        .begins_connection();
    let over = begins
        .clone()
        .connections_over_by_link(LINKS, limit_on_host(limit));
    replace(limit, |table| {
        let table = table.links(LIMITS, LINKS, Slot::MAX.into(), false);
        fill(table, [begins, over], &[])
    })
}

/// Limits connections in a sandbox's namespace, that of the calling thread.
///
/// # Errors
/// When the kernel refuses the table.
pub(crate) fn limit_namespace(limit: u32) -> io::Result<()> {
    let begins = Rule::new().iif(TAP).begins_connection();
    let over = begins.clone().connections_over(limit);
    let log = Rule::new().limit_per_second(1, 5).log(LIMIT_LOG_GROUP, 64);
    // Questions for names go no further than our resolver, and each is tracked for half a minute.
    let question = begins.clone().dport(UDP, DNS_PORT);
    let few = question
        .clone()
        .limit_per_second(QUESTIONS, QUESTIONS_AT_ONCE)
        .accept();
    replace(limit, |table| {
        let table = table.chain(
            LIMITS,
            "prerouting",
            Hook::filter(Hook::PREROUTING, AFTER_RULES),
        );
        let table =
            table
                .rule(LIMITS, "prerouting", &few)
                .rule(LIMITS, "prerouting", &question.drop());
        fill(table, [begins, over], &[log])
    })
}

/// Adds the rules that both tables have.
fn fill(table: Transaction, [begins, over]: [Rule; 2], first: &[Rule]) -> Transaction {
    let table = table
        .links(LIMITS, CLOSED, Slot::MAX.into(), true)
        .inner_chain(LIMITS, FULL);
    let close = [
        Rule::new().hold_link(CLOSED, CLOSED_MS).drop(),
        Rule::new().drop(),
    ];
    let table = first
        .iter()
        .chain(&close)
        .fold(table, |table, rule| table.rule(LIMITS, FULL, rule));
    let hook = Hook::filter(Hook::PREROUTING, AFTER_RULES);
    table
        .chain(LIMITS, "prerouting", hook)
        .rule(LIMITS, "prerouting", &begins.link_in(CLOSED).drop())
        .rule(LIMITS, "prerouting", &over.goto(FULL))
}

/// Makes the table unless there is one of that limit.
fn replace(limit: u32, fill: impl FnOnce(Transaction) -> Transaction) -> io::Result<()> {
    let name = format!("limit-{limit}");
    if nft::chain_exists(LIMITS, &name)? {
        return Ok(());
    }
    let table = Transaction::new()
        .table(LIMITS)
        .delete_table(LIMITS)
        .table(LIMITS)
        .inner_chain(LIMITS, &name);
    fill(table).commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_share_of_host_table() {
        let size: u32 = linux::sysctl::get(TABLE_SIZE).unwrap().parse().unwrap();
        assert!(sandbox_limit(None) <= DEFAULT && sandbox_limit(None) <= (size / PARTS).max(LEAST));
        assert_eq!(
            (sandbox_limit(Some(1000)), limit_on_host(1000)),
            (1000, 1250)
        );
    }
}
