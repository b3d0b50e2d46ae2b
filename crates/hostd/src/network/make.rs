//! The objects of one slot's network, made in the kernel.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use linux::link::Links;
use linux::sysctl::Settings;
use linux::{tap, tc};
use model::network::Bandwidth;
use stdx::io::OptionalExt;
use vmm::GUEST_IP;

use super::connections::limit_namespace;
use super::ipv6::Ipv6Mode;
use super::mtu::ETHERNET;
use super::plan::{
    GATEWAY_IP, GATEWAY_IP6, GUEST_IP6, GUEST_MAC, GUEST_PREFIX, GUEST_PREFIX6, PEER_IP6, Slot,
    TAP, TAP_MAC, VETH_IP6, VETH_MACS,
};
use super::rules;

const MEGABIT: u64 = 1_000_000;

/// Creates the veth pair, and in the host's namespace sets up the host's end and the route to the
/// guest.
pub(super) fn create_veth(slot: Slot, ipv6: Ipv6Mode, mtu: u32) -> io::Result<()> {
    let links = Links::in_this_netns()?;
    links.add_veth(&slot.veth(), &slot.peer(), &slot.netns(), VETH_MACS)?;
    set_mtu(&links, &slot.veth(), mtu)?;
    links.add_address(&slot.veth(), slot.veth_ip(), 31)?;
    without_ipv6(&links, &slot.veth(), ipv6)?;
    links.set_up(&slot.veth())?;
    if ipv6.is_on() {
        links.add_neighbour(&slot.veth(), PEER_IP6, VETH_MACS[1])?;
        links.add_route6(&slot.veth(), slot.host_ip6(), 128, PEER_IP6)?;
    }
    links.add_route(slot.host_ip(), 32, slot.peer_ip())
}

/// Sets the MTU of a new link, which has that of Ethernet.
fn set_mtu(links: &Links, link: &str, mtu: u32) -> io::Result<()> {
    if mtu == ETHERNET {
        return Ok(());
    }
    links.set_mtu(link, mtu)
}

/// Turns off IPv6 of a link that is not up yet, or with IPv6 only its automatic addresses. At each
/// link that comes and goes the kernel walks all of the host's IPv6 routes, and automatic addresses
/// add some for each link.
fn without_ipv6(links: &Links, link: &str, ipv6: Ipv6Mode) -> io::Result<()> {
    if ipv6.is_on() {
        return links.without_own_ipv6(link);
    }
    turned_off(Settings::new()?.set(&format!("net/ipv6/conf/{link}/disable_ipv6"), "1"))
}

/// Turns the error "not found" into success: a kernel without IPv6 has nothing to turn off.
fn turned_off(set: io::Result<()>) -> io::Result<()> {
    set.optional().map(drop)
}

/// Sets up the calling thread's namespace: the other end of the pair, the TAP, routes and rules.
pub(super) fn configure_netns(
    slot: Slot,
    user: u32,
    ipv6: Ipv6Mode,
    connections: u32,
    mtu: u32,
) -> io::Result<()> {
    // First, so that no link gets an IPv6 address that it is not to have when it comes up.
    settings(ipv6)?;
    let links = Links::in_this_netns()?;
    links.set_up("lo")?;
    let peer = slot.peer();
    set_mtu(&links, &peer, mtu)?;
    links.add_address(&peer, slot.peer_ip(), 31)?;
    if ipv6.is_on() {
        links.without_own_ipv6(&peer)?;
    }
    links.set_up(&peer)?;
    tap::create(TAP, user)?;
    links.set_mac(TAP, TAP_MAC)?;
    set_mtu(&links, TAP, mtu)?;
    if ipv6.is_on() {
        links.without_own_ipv6(TAP)?;
    }
    links.add_address(TAP, GATEWAY_IP, GUEST_PREFIX)?;
    links.set_up(TAP)?;
    // Known from the start: a guest that boots is reached by the first packet that it can take.
    links.add_neighbour(TAP, GUEST_IP, GUEST_MAC)?;
    links.add_route(Ipv4Addr::UNSPECIFIED, 0, slot.veth_ip())?;
    if ipv6.is_on() {
        configure_netns_ipv6(&links, &peer)?;
    }
    rules::namespace_tables(slot, ipv6).commit()?;
    limit_namespace(connections)
}

fn configure_netns_ipv6(links: &Links, peer: &str) -> io::Result<()> {
    links.add_address(TAP, GATEWAY_IP6, GUEST_PREFIX6)?;
    links.add_neighbour(TAP, GUEST_IP6, GUEST_MAC)?;
    links.add_neighbour(peer, VETH_IP6, VETH_MACS[0])?;
    links.add_route6(peer, Ipv6Addr::UNSPECIFIED, 0, VETH_IP6)
}

fn settings(ipv6: Ipv6Mode) -> io::Result<()> {
    let settings = Settings::new()?;
    settings.set("net/ipv4/ip_forward", "1")?;
    if ipv6.is_on() {
        // A kernel that was started with `ipv6.disable_ipv6=1` has it off in new namespaces.
        settings.set("net/ipv6/conf/all/disable_ipv6", "0")?;
        // With forwarding on, the namespace takes no router advertisements.
        return settings.set("net/ipv6/conf/all/forwarding", "1");
    }
    turned_off(settings.set("net/ipv6/conf/all/disable_ipv6", "1"))
}

/// Sets the bandwidth of the slot, in the calling thread's namespace. All traffic counts, also that
/// of the host itself.
pub(crate) fn limit_bandwidth(slot: Slot, limits: Bandwidth) -> io::Result<()> {
    // A qdisc limits only what its link sends: the link to the host is the guest's egress, and the
    // TAP its ingress.
    for (link, mbps) in [
        (slot.peer().as_str(), limits.egress_mbps),
        (TAP, limits.ingress_mbps),
    ] {
        match mbps {
            0 => tc::unlimit(link)?,
            mbps => tc::limit_bandwidth(link, u64::from(mbps) * MEGABIT)?,
        }
    }
    Ok(())
}
