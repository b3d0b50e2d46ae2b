//! Host state that all networks of a machine share, whatever agent made them: forwarding, and the
//! host's rules.
//!
//! ```text
//!   as it was → prepared, by the first agent → as it was, by `wrenn-agent --remove-host-rules`
//! ```
//! Below [`DIR`], gone after a reboot like the rules: a lock, which every agent shares for as long
//! as it runs, so that the rules on which it relies are not removed; a note if forwarding was off
//! before; and one of the settings that IPv6 changed ([`super::ipv6`]). An agent that dies anywhere
//! leaves more in place than is needed, never less: notes are written before settings are changed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv6Net;
use linux::file::{self, Lock};
use linux::{conntrack, nft, sysctl, tap, tc};

use super::connections::{self, limit_host, limit_namespace};
use super::ipv6::{self, Ipv6Mode, Ipv6Setting};
use super::plan::Plan;
use super::{CLAIMS_DIR, Error, NetworkSettings, Slot, Slots, TAP, addresses, rules};
use stdx::task::run_blocking;

/// Directory of all that agents of this machine share until it is restarted. It is private, since
/// ids of sandboxes are in there.
const RUN_DIR: &str = "/run/wrenn";
const DIR: &str = "/run/wrenn/host";
/// Time to wait for another process that removes the host's rules.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Intervals at which the host's local prefixes are read again, and its rules are checked.
const RENEW: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_secs(2);
const FORWARDING: &str = "net/ipv4/ip_forward";

/// Returns the path of the lock, in a directory that only root can enter.
fn lock_path() -> io::Result<PathBuf> {
    file::ensure_private_dir(Path::new(RUN_DIR))?;
    file::ensure_private_dir(Path::new(DIR))?;
    Ok(Path::new(DIR).join("lock"))
}

/// Returns the path of the note that forwarding was off.
fn note() -> PathBuf {
    Path::new(DIR).join("forwarding-was-off")
}

/// Prepares the host. Returns a lock that keeps [`remove_host_rules`] from undoing it, the IPv6
/// mode of sandboxes, and their networks.
pub(super) fn prepare_host(
    settings: &NetworkSettings,
    connections: u32,
) -> Result<(Lock, Ipv6Mode, Plan), Error> {
    let wanted = settings.ipv6;
    let host = |action| move |source| Error::Host { action, source };
    let lock = lock_path().and_then(|path| Lock::share_within(&path, LOCK_TIMEOUT));
    let lock = lock.map_err(host("lock the host's rules"))?;
    forward().map_err(host("turn on net.ipv4.ip_forward"))?;
    let ipv6 = Ipv6Mode::choose(wanted).map_err(host("see whether there is IPv6"))?;
    if let (Ipv6Mode::Off(why), Ipv6Setting::On) = (ipv6, wanted) {
        tracing::warn!(
            "sandboxes have no IPv6, though AGENT_IPV6 is on: {}",
            why.as_text()
        );
    }
    let local = ipv6::local_prefixes().map_err(host("read the IPv6 addresses of this host"))?;
    let (plan, plans) = choose_plan(settings).map_err(host("choose the networks of sandboxes"))?;
    // Before anything is forwarded over IPv6: what sandboxes send is dropped or decided upon.
    rules::host_table(ipv6, &local, &plans)
        .commit()
        .map_err(host("set the host's nftables rules"))?;
    limit_host(connections).map_err(host("limit the connections of sandboxes (nft_connlimit)"))?;
    if ipv6.is_on() {
        ipv6::add_unreachable_route().map_err(host("keep the IPv6 addresses of sandboxes in"))?;
        ipv6::enable_forwarding(Path::new(DIR))
            .map_err(host("turn on net.ipv6.conf.all.forwarding"))?;
    }
    // No connection has this address: this only checks that connections can be removed at all.
    conntrack::remove_connections(Ipv4Addr::UNSPECIFIED)
        .map_err(host("see tracked connections (nf_conntrack_netlink)"))?;
    Ok((lock, ipv6, plan))
}

/// Restores the host's rules whenever they are gone, and updates its local prefixes. A `flush
/// ruleset`, which starts each reload of Debian's nftables service, removes all rules, and routers
/// may renumber networks of the host at any time. Never returns.
pub(crate) async fn keep_rules(ipv6: Ipv6Mode, connections: u32) {
    let mut local = Vec::new();
    loop {
        for _ in 0..RENEW.as_secs() / LOOK.as_secs() {
            let known = local.clone();
            let kept = run_blocking(move || restore_rules(ipv6, connections, &known)).await;
            if let Err(error) = kept {
                tracing::error!(
                    %error,
                    "the host's rules are gone and cannot be made again: sandboxes may reach this host"
                );
            }
            tokio::time::sleep(LOOK).await;
        }
        let known = local.clone();
        match run_blocking(move || refresh_local_prefixes(ipv6, known)).await {
            Ok(now) => local = now,
            Err(error) => tracing::warn!(
                %error,
                "sandboxes may reach new networks of this host over IPv6"
            ),
        }
    }
}

/// Makes the host's tables again if another program has removed them. Returns true if it has.
pub(super) fn restore_rules(
    ipv6: Ipv6Mode,
    connections: u32,
    local: &[Ipv6Net],
) -> io::Result<bool> {
    let is_there = nft::chain_exists(rules::HOST, "prerouting")?;
    if !is_there {
        rules::host_table(ipv6, local, &noted_plans()?).commit()?;
        tracing::warn!(
            "something has removed the nftables rules for sandboxes (`nft flush ruleset`?): they hold again"
        );
    }
    limit_host(connections)?;
    Ok(!is_there)
}

/// Returns the networks that the host's links are in; if they are others than before, the rules are
/// about them by now.
fn refresh_local_prefixes(ipv6: Ipv6Mode, before: Vec<Ipv6Net>) -> io::Result<Vec<Ipv6Net>> {
    if !ipv6.is_on() {
        return Ok(before);
    }
    let local = ipv6::local_prefixes()?;
    if local != before {
        rules::host_table(ipv6, &local, &noted_plans()?).commit()?;
    }
    Ok(local)
}

/// Returns the networks that agents of this machine have taken since it was started.
pub(crate) fn noted_plans() -> io::Result<BTreeSet<Plan>> {
    addresses::read_noted(Path::new(DIR))
}

/// Returns the networks of new sandboxes, and all for which the host's rules have to hold.
fn choose_plan(settings: &NetworkSettings) -> io::Result<(Plan, BTreeSet<Plan>)> {
    // Agents that start at the same time must not overwrite each other's note.
    let _lock = Lock::take_within(&Path::new(DIR).join("networks.lock"), LOCK_TIMEOUT)?;
    let noted = noted_plans()?;
    let in_use = addresses::in_use(&settings.name_servers, &noted)?;
    let plan = addresses::choose_networks(settings.plan, &noted, &in_use)?;
    for used in addresses::find_overlaps(plan, &in_use) {
        tracing::warn!(
            "sandboxes get addresses of {plan}, as AGENT_NETWORK_CIDR says, where this host has {}",
            used.by
        );
    }
    if plan != Plan::ORIGINAL && settings.plan.is_none() {
        let by = addresses::find_overlaps(Plan::ORIGINAL, &in_use)
            .first()
            .map_or_else(String::new, |used| used.by.clone());
        tracing::info!(
            "sandboxes get addresses of {plan}: {by} is in the usual ones; AGENT_NETWORK_CIDR sets others"
        );
    }
    let claimed = Slots::new(Path::new("")).claimed_plans()?;
    let plans: BTreeSet<Plan> = noted.into_iter().chain(claimed).chain([plan]).collect();
    addresses::write_note(Path::new(DIR), &plans)?;
    Ok((plan, plans))
}

fn forward() -> io::Result<()> {
    if sysctl::get(FORWARDING)? != "1" {
        file::open_private(&note())?;
    }
    sysctl::set(FORWARDING, "1")
}

/// Tries everything that rules and limits need of the kernel, in the calling thread's namespace,
/// which the caller removes afterwards.
///
/// # Errors
/// Returns the first error of the kernel, as of a missing module.
pub fn try_rules(ipv6: Ipv6Mode) -> io::Result<()> {
    rules::host_table(ipv6, &[], &BTreeSet::from([Plan::ORIGINAL])).commit()?;
    tap::create(TAP, 0)?;
    rules::namespace_tables(Slot::FIRST, ipv6).commit()?;
    limit_namespace(connections::LEAST)?;
    tc::limit_bandwidth(TAP, 1_000_000)?;
    conntrack::remove_connections(Ipv4Addr::UNSPECIFIED)
}

/// Removes the host's rules, and restores its forwarding as it was before the first agent.
///
/// # Errors
/// [`Error::InUse`] while an agent runs, or sandboxes have networks; otherwise when the kernel
/// refuses.
pub fn remove_host_rules() -> Result<(), Error> {
    let host = |action| move |source| Error::Host { action, source };
    let lock = lock_path()
        .and_then(|path| Lock::try_take(&path))
        .map_err(host("lock the host's rules"))?;
    let Some(_lock) = lock else {
        return Err(Error::InUse("a host agent runs: stop it first"));
    };
    let mut claims = fs::read_dir(CLAIMS_DIR).into_iter().flatten().flatten();
    if claims.any(|claim| claim.file_name().to_string_lossy().parse::<u16>().is_ok()) {
        return Err(Error::InUse(
            "there are sandboxes: start the agent, delete them, and stop it again",
        ));
    }
    for table in [rules::HOST, connections::LIMITS] {
        nft::remove(table).map_err(host("remove the host's nftables tables"))?;
    }
    if note().exists() {
        sysctl::set(FORWARDING, "0").map_err(host("turn off net.ipv4.ip_forward"))?;
        fs::remove_file(note()).map_err(host("remove the note about forwarding"))?;
    }
    addresses::remove_note(Path::new(DIR)).map_err(host("forget the networks of sandboxes"))?;
    ipv6::restore_settings(Path::new(DIR)).map_err(host("put settings of IPv6 back"))?;
    Ok(())
}
