//! IPv6 of the guest's link, as `/init` of the host sets it: address, default route, and the
//! gateway's hardware address.
//!
//! The host answers neither neighbour nor router solicitations, so the kernel gets permanent entries
//! over rtnetlink (rtnetlink(7)), and ignores router advertisements. The configuration is kept in
//! memory, and so in snapshots: a guest that is restored on a host without IPv6 removes it again. An
//! error is logged and fails no `/init`: a guest whose kernel has no IPv6, or whose root turned it
//! off, has IPv4 as before.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use guest_rpc::http::Ipv6;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily as Domain, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use parking_lot::Mutex;

use crate::boot::ETHERNET;
use crate::connections::{error_code, netlink_messages};

/// Maximum size of the answer to one request, bytes: an error repeats the request.
const MAX_ANSWER: usize = 4096;

/// IPv6 configuration that the link has.
#[derive(Debug, Default)]
pub struct LinkIpv6(Mutex<Option<Ipv6>>);

impl LinkIpv6 {
    /// Configures the link as `wanted`, and removes an earlier configuration if it differs.
    pub fn set(&self, wanted: Option<Ipv6>) {
        let mut given = self.0.lock();
        let old = given.take().filter(|old| Some(old) != wanted.as_ref());
        if let Some(Err(e)) = old.map(|old| remove(&old)) {
            tracing::warn!("the earlier IPv6 of {ETHERNET} cannot be removed: {e}");
        }
        if let Some(Err(e)) = wanted.as_ref().map(configure) {
            tracing::warn!("{ETHERNET} has no IPv6: {e}");
        }
        *given = wanted;
    }
}

fn configure(ipv6: &Ipv6) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/ipv6/conf/{ETHERNET}/accept_ra"), "0") {
        // A kernel without IPv6.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    let netlink = Netlink::open()?;
    let link = index()?;
    // An existing entry, as after a restore, is replaced. But a default route that the user has set,
    // for example into a tunnel, stays.
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    netlink.request(RouteNetlinkMessage::NewAddress(address(link, ipv6)), flags)?;
    netlink.request(
        RouteNetlinkMessage::NewNeighbour(gateway(link, ipv6)),
        flags,
    )?;
    match netlink.request(
        RouteNetlinkMessage::NewRoute(default_route(link, ipv6)),
        NLM_F_CREATE | NLM_F_EXCL,
    ) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Removes the configuration, the route before the address: with a route and no address, connections
/// would wait for a timeout instead of failing at once.
fn remove(ipv6: &Ipv6) -> io::Result<()> {
    let netlink = Netlink::open()?;
    let link = index()?;
    let parts = [
        RouteNetlinkMessage::DelRoute(default_route(link, ipv6)),
        RouteNetlinkMessage::DelNeighbour(gateway(link, ipv6)),
        RouteNetlinkMessage::DelAddress(address(link, ipv6)),
    ];
    let done: Vec<io::Result<()>> = parts
        .into_iter()
        .map(|part| netlink.request(part, 0))
        .collect();
    done.into_iter().filter(|done| !was_missing(done)).collect()
}

/// Returns true if there was nothing to remove: root in the guest may have removed it.
fn was_missing(done: &io::Result<()>) -> bool {
    let code = done
        .as_ref()
        .err()
        .and_then(io::Error::raw_os_error)
        .map(Errno::from_raw);
    matches!(
        code,
        Some(
            Errno::ESRCH
                | Errno::ENOENT
                | Errno::EADDRNOTAVAIL
                | Errno::EAFNOSUPPORT
                | Errno::EOPNOTSUPP
        )
    )
}

fn index() -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(ETHERNET)?)
}

/// Returns the guest's address, without duplicate address detection (`IFA_F_NODAD`): it can be used
/// at once.
fn address(link: u32, ipv6: &Ipv6) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.index = link;
    message.header.prefix_len = ipv6.prefix;
    message.header.flags = AddressHeaderFlags::Nodad;
    let address = IpAddr::V6(ipv6.address);
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    message
}

fn gateway(link: u32, ipv6: &Ipv6) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.ifindex = link;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ipv6.gateway)),
        NeighbourAttribute::LinkLayerAddress(ipv6.gateway_mac.to_vec()),
    ];
    message
}

fn default_route(link: u32, ipv6: &Ipv6) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Gateway(RouteAddress::Inet6(ipv6.gateway)),
        RouteAttribute::Oif(link),
    ];
    message
}

/// A socket of rtnetlink.
struct Netlink(OwnedFd);

impl Netlink {
    fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(Self(socket(
            Domain::Netlink,
            SockType::Raw,
            flags,
            SockProtocol::NetlinkRoute,
        )?))
    }

    /// Sends one request and waits until the kernel has acknowledged it.
    fn request(&self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(self.0.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut answer = vec![0; MAX_ANSWER];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        match netlink_messages(&answer[..length])
            .next()
            .map_or(0, |(_, body)| error_code(body))
        {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(-code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    fn settings(prefix: u8) -> Ipv6 {
        let of = |last| Ipv6Addr::new(0xfd77, 0x7265, 0x6e6e, 0, 0, 0, 0, last);
        Ipv6 {
            address: of(0x15),
            prefix,
            gateway: of(0x16),
            gateway_mac: [2, 0xfc, 0, 0, 0, 6],
        }
    }

    /// Runs `act` in a new network namespace that has a link as in a guest. The namespace ends with
    /// its thread.
    fn with_link(act: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: this needs root");
            ip(&[
                "link", "add", ETHERNET, "up", "type", "veth", "peer", "name", "peer0",
            ]);
            ip(&["link", "set", "peer0", "up"]);
            act();
        });
        thread.join().expect("the test holds");
    }

    fn ip(arguments: &[&str]) {
        let status = std::process::Command::new("ip")
            .args(arguments)
            .status()
            .expect("ip starts");
        assert!(status.success(), "{arguments:?}");
    }

    fn read(name: &str) -> String {
        fs::read_to_string(format!("/proc/thread-self/net/{name}")).expect("can be read")
    }

    fn lines(name: &str, with: &str) -> usize {
        read(name)
            .lines()
            .filter(|line| line.contains(with))
            .count()
    }

    const ADDRESS: &str = "fd7772656e6e00000000000000000015";
    const GATEWAY: &str = "fd7772656e6e00000000000000000016";

    #[test]
    fn link_has_only_its_last_settings() {
        with_link(|| {
            let link = LinkIpv6::default();
            link.set(None);
            for _ in 0..2 {
                link.set(Some(settings(126)));
                assert_eq!(lines("if_inet6", ADDRESS), 1);
                // Permanent and not tentative: 0x80, and 0x02 for no duplicate address detection.
                assert!(
                    read("if_inet6").contains(" 7e 00 82 "),
                    "{}",
                    read("if_inet6")
                );
                assert_eq!(lines("ipv6_route", GATEWAY), 1, "{}", read("ipv6_route"));
            }
            link.set(None);
            assert_eq!(
                (lines("if_inet6", ADDRESS), lines("ipv6_route", GATEWAY)),
                (0, 0),
                "{}",
                read("ipv6_route")
            );
            link.set(Some(settings(126)));
            link.set(Some(settings(64)));
            assert!(
                read("if_inet6").contains(" 40 00 82 "),
                "{}",
                read("if_inet6")
            );
            let accepts =
                fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/accept_ra").expect("is there");
            assert_eq!(accepts.trim(), "0");
            link.set(None);
            ip(&["-6", "route", "add", "default", "dev", "peer0"]);
            link.set(Some(settings(126)));
            assert_eq!(
                lines("ipv6_route", GATEWAY),
                0,
                "the user has a default route: {}",
                read("ipv6_route")
            );
        });
    }

    #[test]
    fn settings_removed_by_root_are_tolerated() {
        with_link(|| {
            let link = LinkIpv6::default();
            link.set(Some(settings(126)));
            fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1").expect("can be written");
            link.set(None);
            link.set(Some(settings(126)));
            assert_eq!(lines("if_inet6", ADDRESS), 0);
            fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0").expect("can be written");
            link.set(Some(settings(126)));
            assert_eq!(lines("if_inet6", ADDRESS), 1);
        });
    }
}
