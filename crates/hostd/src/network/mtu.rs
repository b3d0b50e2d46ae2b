//! MTU of the networks of sandboxes: that of the host's route to the internet. It can be less than
//! the usual 1500 bytes, as in tunnels, overlays and on DSL, and the ICMP errors that would report
//! it to a server are often lost on their way.
//!
//! ```text
//!   MTU of the route to the internet → every network of this agent, also those that wait → POST /init → eth0
//! ```
//! [`keep_updated`] asks the kernel for the route every [`PERIOD`] and sets whatever network has another
//! MTU: those of an earlier agent, and all when the route changes. A guest gets the MTU when it
//! boots or is restored. A running guest gets ICMP errors from its own namespace, which are not
//! lost, and TCP is clamped besides ([`super::rules`]). IPv6 shares the links, and its route is not
//! looked up: the errors of its way out come from this host. Nothing is on disk.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use linux::link::Links;
use linux::{netns, route};

use super::plan::{Slot, TAP};
use super::slots::{Holder, Slots};
use stdx::task::run_blocking;

/// MTU of Ethernet, in bytes. A link of a sandbox has no larger one, since a snapshot may be
/// restored on any host.
pub(super) const ETHERNET: u32 = 1500;
/// Smallest MTU of a link with IPv6 (RFC 8200, section 5), in bytes: with less, the kernel turns
/// off its IPv6. Every route to the internet of today carries as much.
const SMALLEST: u32 = 1280;
/// Interval at which the MTU of the route is read.
const PERIOD: Duration = Duration::from_secs(10);
/// An address of the public internet whose route the kernel is asked for: it is the default one, or
/// that of a tunnel that takes everything. Nothing is sent there.
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1));

/// MTU of new networks of an agent.
#[derive(Debug)]
pub(crate) struct LinkMtu(AtomicU32);

impl Default for LinkMtu {
    fn default() -> Self {
        Self(AtomicU32::new(ETHERNET))
    }
}

impl LinkMtu {
    pub(crate) fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Reads the MTU of the route to the internet. A host without one keeps the value.
    pub(super) fn refresh(&self) {
        let Ok(mtu) = route::mtu_to(PUBLIC) else {
            return;
        };
        let mtu = mtu.clamp(SMALLEST, ETHERNET);
        let before = self.0.swap(mtu, Ordering::Relaxed);
        if before != mtu {
            tracing::info!(
                before,
                mtu,
                "networks of sandboxes have the MTU of the way out"
            );
        }
    }
}

/// Keeps the MTU of all networks that `slots` has claims of. Never returns.
pub(crate) async fn keep_updated(mtu: Arc<LinkMtu>, slots: Slots) {
    let slots = Arc::new(slots);
    loop {
        tokio::time::sleep(PERIOD).await;
        let mtu = Arc::clone(&mtu);
        let slots = Arc::clone(&slots);
        let set = run_blocking(move || {
            mtu.refresh();
            set_all(&slots, mtu.get())
        });
        if let Err(error) = set.await {
            tracing::warn!(
                %error,
                "networks of sandboxes do not have the MTU of the way out"
            );
        }
    }
}

/// Sets the MTU of every network that has another one.
///
/// # Errors
/// The first network's that failed; all others were set.
pub(super) fn set_all(slots: &Slots, mtu: u32) -> io::Result<()> {
    let mut result = Ok(());
    for (slot, holder) in slots.list_claims()? {
        if !matches!(holder, Holder::Ours(_)) {
            continue;
        }
        match set_mtu(slot, mtu) {
            // The network is being made or removed right now; a new one is set in the next round.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => result = result.and(other),
        }
    }
    result
}

/// Sets the MTU of a network, the host's link last: as long as that one differs, it is tried again.
fn set_mtu(slot: Slot, mtu: u32) -> io::Result<()> {
    let links = Links::in_this_netns()?;
    if links.mtu(&slot.veth())? == mtu {
        return Ok(());
    }
    netns::enter(&slot.netns(), move || {
        let links = Links::in_this_netns()?;
        links.set_mtu(&slot.peer(), mtu)?;
        links.set_mtu(TAP, mtu)
    })?;
    links.set_mtu(&slot.veth(), mtu)
}
