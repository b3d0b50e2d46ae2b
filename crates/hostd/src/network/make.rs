//! The objects of one slot's network, made in the kernel.

use std::io;
use std::net::Ipv4Addr;

use linux::link::Links;
use linux::sysctl::Settings;
use linux::{tap, tc};
use model::network::Bandwidth;
use vmm::GUEST_IP;

use super::plan::{GATEWAY_IP, GUEST_MAC, GUEST_PREFIX, Slot, TAP, TAP_MAC};
use super::rules;

const MEGABIT: u64 = 1_000_000;

/// In the host's namespace: the pair, our end of it, and the way to the guest.
pub(super) fn connect(slot: Slot) -> io::Result<()> {
    let links = Links::here()?;
    links.add_veth(&slot.veth(), &slot.peer(), &slot.netns())?;
    links.add_address(&slot.veth(), slot.veth_ip(), 31)?;
    links.without_own_ipv6(&slot.veth())?;
    links.up(&slot.veth())?;
    links.add_route(slot.host_ip(), 32, slot.peer_ip())
}

/// Inside the namespace: the other end, the TAP, routes and rules.
pub(super) fn furnish(slot: Slot, user: u32) -> io::Result<()> {
    // First, so that no link gets an IPv6 address when it comes up.
    settings()?;
    let links = Links::here()?;
    links.up("lo")?;
    links.add_address(&slot.peer(), slot.peer_ip(), 31)?;
    links.up(&slot.peer())?;
    tap::create(TAP, user)?;
    links.set_mac(TAP, TAP_MAC)?;
    links.add_address(TAP, GATEWAY_IP, GUEST_PREFIX)?;
    links.up(TAP)?;
    // Known from the start: a guest that boots is reached by the first packet that it can take.
    links.add_neighbour(TAP, GUEST_IP, GUEST_MAC)?;
    links.add_route(Ipv4Addr::UNSPECIFIED, 0, slot.veth_ip())?;
    rules::namespace(slot).commit()
}

fn settings() -> io::Result<()> {
    let settings = Settings::new()?;
    settings.set("net/ipv4/ip_forward", "1")?;
    match settings.set("net/ipv6/conf/all/disable_ipv6", "1") {
        // A kernel without IPv6 has nothing to turn off.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Inside the namespace: how fast it is. Everything counts, what the host sends and asks for itself included.
pub(crate) fn limit(slot: Slot, limits: Bandwidth) -> io::Result<()> {
    // A link limits what it sends: the one to the host what the guest sends, the one to the guest what it gets.
    for (link, mbps) in [(slot.peer().as_str(), limits.egress_mbps), (TAP, limits.ingress_mbps)] {
        match mbps {
            0 => tc::unlimit(link)?,
            mbps => tc::limit(link, u64::from(mbps) * MEGABIT)?,
        }
    }
    Ok(())
}
