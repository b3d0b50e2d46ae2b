//! What all networks of a machine share, whatever agent made them: that the host forwards, and the host's rules.
//!
//! ```text
//!   as it was → prepared, by the first agent → as it was, by `wrenn-agent --remove-host-rules`
//! ```
//! Below [`DIR`], gone after a reboot like the rules: a lock, which every agent shares for as long as it runs, so that
//! nobody takes away the rules on which it relies; and what forwarding was before, if that was not on, and what IPv6 took
//! ([`super::six`]). Dying anywhere leaves more in place than is needed, never less: notes are written before anything is
//! turned on.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use linux::file::{self, Lock};
use linux::{conntrack, nft, sysctl, tap, tc};

use super::connections::{self, limit_host, limit_namespace};
use super::six::{self, Six, Wanted};
use super::{CLAIMS_DIR, Error, Slot, TAP, rules};
use crate::sandbox::actor::blocking;

/// All that agents of this machine share until it is restarted. Ids of sandboxes are in there.
const RUN_DIR: &str = "/run/wrenn";
const DIR: &str = "/run/wrenn/host";
/// For another process that removes the host's rules.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at the networks of the host.
const RENEW: Duration = Duration::from_secs(30);
const FORWARDING: &str = "net/ipv4/ip_forward";

/// Returns the path of the lock, in a directory that nobody but root enters.
fn lock_path() -> io::Result<PathBuf> {
    file::create_private_dir(Path::new(RUN_DIR))?;
    file::create_private_dir(Path::new(DIR))?;
    Ok(Path::new(DIR).join("lock"))
}

/// Where it is written that forwarding was off.
fn note() -> PathBuf {
    Path::new(DIR).join("forwarding-was-off")
}

/// Prepares the host; as long as what is returned lives, nobody undoes it. Says whether sandboxes have IPv6, too.
pub(super) fn prepare(wanted: Wanted, connections: u32) -> Result<(Lock, Six), Error> {
    let host = |action| move |source| Error::Host { action, source };
    let lock = lock_path().and_then(|path| Lock::share_within(&path, LOCK_TIMEOUT));
    let lock = lock.map_err(host("lock the host's rules"))?;
    forward().map_err(host("turn on net.ipv4.ip_forward"))?;
    let six = Six::choose(wanted).map_err(host("see whether there is IPv6"))?;
    if let (Six::Off(why), Wanted::On) = (six, wanted) {
        tracing::warn!("sandboxes have no IPv6, though AGENT_IPV6 is on: {}", why.text());
    }
    let near = six::near().map_err(host("read the IPv6 addresses of this host"))?;
    // Before anything is forwarded over IPv6: what sandboxes send is dropped or decided upon.
    rules::host(six, &near).commit().map_err(host("set the host's nftables rules"))?;
    limit_host(connections).map_err(host("limit the connections of sandboxes (nft_connlimit)"))?;
    if six.is_on() {
        six::keep_in().map_err(host("keep the IPv6 addresses of sandboxes in"))?;
        six::forward(Path::new(DIR)).map_err(host("turn on net.ipv6.conf.all.forwarding"))?;
    }
    // Nobody has this address: it is tried whether connections can be forgotten at all.
    conntrack::forget(Ipv4Addr::UNSPECIFIED).map_err(host("see tracked connections (nf_conntrack_netlink)"))?;
    Ok((lock, six))
}

/// Keeps sandboxes away from networks of the host, which routers may number anew at any time.
pub(crate) async fn keep_away(six: Six) {
    let mut known = Vec::new();
    while six.is_on() {
        let before = known.clone();
        let renewed = blocking(move || {
            let near = six::near()?;
            if near != before {
                rules::host(six, &near).commit()?;
            }
            Ok::<_, io::Error>(near)
        });
        match renewed.await {
            Ok(near) => known = near,
            Err(error) => tracing::warn!(error, "sandboxes may reach new networks of this host over IPv6"),
        }
        tokio::time::sleep(RENEW).await;
    }
}

fn forward() -> io::Result<()> {
    if sysctl::get(FORWARDING)? != "1" {
        file::open_private(&note())?;
    }
    sysctl::set(FORWARDING, "1")
}

/// Makes everything that rules and limits need of the kernel, in the calling thread's namespace: one that goes afterwards.
///
/// # Errors
/// What the kernel lacks.
pub fn try_rules(six: Six) -> io::Result<()> {
    rules::host(six, &[]).commit()?;
    tap::create(TAP, 0)?;
    rules::namespace(Slot::FIRST, six).commit()?;
    limit_namespace(connections::LEAST)?;
    tc::limit(TAP, 1_000_000)?;
    conntrack::forget(Ipv4Addr::UNSPECIFIED)
}

/// Makes the host's rules and its forwarding what they were before the first agent.
///
/// # Errors
/// While an agent runs, or sandboxes have networks; else what the kernel refused.
pub fn remove_host_rules() -> Result<(), Error> {
    let host = |action| move |source| Error::Host { action, source };
    let lock = lock_path().and_then(|path| Lock::try_take(&path)).map_err(host("lock the host's rules"))?;
    let Some(_lock) = lock else { return Err(Error::InUse("a host agent runs: stop it first")) };
    let mut claims = fs::read_dir(CLAIMS_DIR).into_iter().flatten().flatten();
    if claims.any(|claim| claim.file_name().to_string_lossy().parse::<u16>().is_ok()) {
        return Err(Error::InUse("there are sandboxes: start the agent, delete them, and stop it again"));
    }
    for table in [rules::HOST, connections::LIMITS] {
        nft::remove(table).map_err(host("remove the host's nftables tables"))?;
    }
    if note().exists() {
        sysctl::set(FORWARDING, "0").map_err(host("turn off net.ipv4.ip_forward"))?;
        fs::remove_file(note()).map_err(host("remove the note about forwarding"))?;
    }
    six::undo(Path::new(DIR)).map_err(host("put settings of IPv6 back"))?;
    Ok(())
}
