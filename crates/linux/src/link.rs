//! Network links, addresses and routes over rtnetlink, in the network namespace of the calling
//! thread.
//!
//! Call from a thread that may block ([`crate::netns::enter`] gives one), never from an async task.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use futures::TryStreamExt;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute,
};
use rtnetlink::packet_route::route::{RouteMessage, RouteType};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::runtime::{Builder, Runtime};

use crate::netns;

/// A netlink socket in one network namespace.
#[derive(Debug)]
pub struct Links {
    runtime: Runtime,
    handle: Handle,
}

impl Links {
    /// Opens a socket in the namespace in which the calling thread is now.
    ///
    /// # Errors
    /// When no netlink socket can be opened.
    pub fn in_this_netns() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let (connection, handle, _) = {
            let _context = runtime.enter();
            rtnetlink::new_connection()?
        };
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    /// Creates a veth pair: `name` here, `peer` in the network namespace `peer_netns`. The peer is
    /// created there: to move a link takes the kernel some 20 ms, in which it lets no other thread
    /// change links. The first hardware address is that of the end here. They are set from the
    /// start: systemd-udevd leaves such an address alone.
    ///
    /// # Errors
    /// `AlreadyExists` when either name is taken; then nothing is left.
    pub fn add_veth(
        &self,
        name: &str,
        peer: &str,
        peer_netns: &str,
        macs: [[u8; 6]; 2],
    ) -> io::Result<()> {
        let [here, there] = macs.map(Vec::from);
        let namespace = netns::open(peer_netns)?;
        let there = LinkUnspec::new_with_name(peer)
            .address(there)
            .setns_by_fd(namespace.as_raw_fd())
            .build();
        let pair = LinkVeth::new(name, peer)
            .address(here)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(there)))
            .build();
        self.run(self.handle.link().add(pair).execute())
    }

    /// Brings the link up.
    ///
    /// # Errors
    /// `NotFound` when there is no such link.
    pub fn set_up(&self, name: &str) -> io::Result<()> {
        let index = self.index(name)?;
        self.run(
            self.handle
                .link()
                .set(LinkUnspec::new_with_index(index).up().build())
                .execute(),
        )
    }

    /// Gives the link a hardware address.
    ///
    /// # Errors
    /// `NotFound` when there is no such link.
    pub fn set_mac(&self, name: &str, mac: [u8; 6]) -> io::Result<()> {
        let index = self.index(name)?;
        let message = LinkUnspec::new_with_index(index)
            .address(mac.to_vec())
            .build();
        self.run(self.handle.link().set(message).execute())
    }

    /// Returns how many bytes the link carries in one packet.
    ///
    /// # Errors
    /// `NotFound` when there is no such link.
    pub fn mtu(&self, name: &str) -> io::Result<u32> {
        // By index: for a name that is not there the kernel answers an error of its own kind.
        let index = self.index(name)?;
        let request = self.handle.link().get().match_index(index);
        let found = self.run(request.execute().try_next())?;
        let attributes = found.ok_or_else(|| not_found(name))?.attributes;
        let mtu = attributes
            .into_iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Mtu(mtu) => Some(mtu),
                _ => None,
            });
        mtu.ok_or_else(|| io::Error::other(format!("link {name} has no MTU")))
    }

    /// Sets how many bytes the link carries in one packet.
    ///
    /// # Errors
    /// `NotFound` when there is no such link.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> io::Result<()> {
        let index = self.index(name)?;
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        self.run(self.handle.link().set(message).execute())
    }

    /// Keeps the kernel from giving the link an IPv6 address by itself. Takes effect only before
    /// the link is up.
    ///
    /// # Errors
    /// `NotFound` when there is no such link.
    pub fn without_own_ipv6(&self, name: &str) -> io::Result<()> {
        let index = self.index(name)?;
        let none = vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
            In6AddrGenMode::None,
        )])];
        let message = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(none));
        self.run(self.handle.link().set(message.build()).execute())
    }

    /// Gives the link an address. An IPv6 address is usable at once: there is no duplicate address
    /// detection. A longer prefix than the address is taken for its whole length.
    ///
    /// # Errors
    /// `NotFound` when there is no such link, `AlreadyExists` when it has the address.
    pub fn add_address(
        &self,
        name: &str,
        address: impl Into<IpAddr>,
        prefix: u8,
    ) -> io::Result<()> {
        let index = self.index(name)?;
        let address = address.into();
        let prefix = if address.is_ipv4() {
            prefix.min(32)
        } else {
            prefix
        };
        let mut request = self.handle.address().add(index, address, prefix);
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        self.run(request.execute())
    }

    /// Adds a permanent neighbour entry: which hardware address an address on this link has, so
    /// that neither ARP nor neighbour discovery asks for it.
    ///
    /// # Errors
    /// `NotFound` when there is no such link, `AlreadyExists` when the address is known.
    pub fn add_neighbour(
        &self,
        name: &str,
        address: impl Into<IpAddr>,
        mac: [u8; 6],
    ) -> io::Result<()> {
        let index = self.index(name)?;
        self.run(
            self.handle
                .neighbours()
                .add(index, address.into())
                .link_layer_address(&mac)
                .execute(),
        )
    }

    /// Routes `destination/prefix` through `gateway`.
    ///
    /// # Errors
    /// When the gateway cannot be reached directly.
    pub fn add_route(
        &self,
        destination: Ipv4Addr,
        prefix: u8,
        gateway: Ipv4Addr,
    ) -> io::Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(destination, prefix)
            .gateway(gateway)
            .build();
        self.run(self.handle.route().add(route).execute())
    }

    /// Routes `destination/prefix` through `gateway`, which is on the link: it may be a link-local
    /// address.
    ///
    /// # Errors
    /// `NotFound` when there is no such link.
    pub fn add_route6(
        &self,
        name: &str,
        destination: Ipv6Addr,
        prefix: u8,
        gateway: Ipv6Addr,
    ) -> io::Result<()> {
        let index = self.index(name)?;
        let route = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(destination, prefix);
        self.run(
            self.handle
                .route()
                .add(route.gateway(gateway).output_interface(index).build())
                .execute(),
        )
    }

    /// Makes `destination/prefix` unreachable but for more specific routes. An existing such route
    /// is no error.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn add_unreachable6(&self, destination: Ipv6Addr, prefix: u8) -> io::Result<()> {
        match self.run(
            self.handle
                .route()
                .add(unreachable6(destination, prefix))
                .execute(),
        ) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// Removes the route of [`Links::add_unreachable6`]. A missing one is no error.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn remove_unreachable6(&self, destination: Ipv6Addr, prefix: u8) -> io::Result<()> {
        match self.run(
            self.handle
                .route()
                .del(unreachable6(destination, prefix))
                .execute(),
        ) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                Ok(())
            }
            other => other,
        }
    }

    /// Removes a link, and with a veth its peer. A link that does not exist is no error.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn delete(&self, name: &str) -> io::Result<()> {
        match self.index(name) {
            Ok(index) => match self.run(self.handle.link().del(index).execute()) {
                Err(error)
                    if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) =>
                {
                    Ok(())
                }
                other => other,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Returns the index of a link in the namespace of the calling thread, which is that of the
    /// socket.
    fn index(&self, name: &str) -> io::Result<u32> {
        match nix::net::if_::if_nametoindex(name) {
            Err(nix::Error::ENODEV) => Err(not_found(name)),
            other => Ok(other?),
        }
    }

    fn run<T>(&self, work: impl Future<Output = Result<T, rtnetlink::Error>>) -> io::Result<T> {
        self.runtime.block_on(work).map_err(|error| match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other),
        })
    }
}

fn unreachable6(destination: Ipv6Addr, prefix: u8) -> RouteMessage {
    let mut route = RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(destination, prefix)
        .build();
    route.header.kind = RouteType::Unreachable;
    route
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no link {name}"))
}

/// Returns true if the calling thread's namespace has a link of that name.
#[must_use]
pub fn exists(name: &str) -> bool {
    nix::net::if_::if_nametoindex(name).is_ok()
}

/// Route to an IPv6 network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route6 {
    pub destination: Ipv6Addr,
    pub prefix: u8,
    pub link: String,
    /// Leads to a router, and not to the link itself.
    pub has_gateway: bool,
}

/// Returns the IPv6 routes of the calling thread's namespace that lead to a link other than `lo`:
/// none where the kernel has no IPv6.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn list_routes6() -> io::Result<Vec<Route6>> {
    let table = table6("ipv6_route")?;
    Ok(table
        .lines()
        .filter_map(route6)
        .filter(|route| route.link != "lo")
        .collect())
}

/// Reads a table of IPv6 in the calling thread's namespace; an empty one where the kernel has no
/// IPv6.
fn table6(name: &str) -> io::Result<String> {
    match std::fs::read_to_string(format!("/proc/thread-self/net/{name}")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

/// Parses one line: destination, its prefix, source, its prefix, gateway, metric, two counters,
/// flags, link, all but the last in hexadecimal digits (the kernel's net/ipv6/route.c). `None` for
/// a route that rejects packets, or depends on the source.
fn route6(line: &str) -> Option<Route6> {
    /// Flags of linux/route.h.
    const GATEWAY: u32 = 0x0002;
    const REJECT: u32 = 0x0200;
    let parts: Vec<&str> = line.split_ascii_whitespace().collect();
    let [destination, prefix, _, "00", _, _, _, _, flags, link] = parts[..] else {
        return None;
    };
    let destination = Ipv6Addr::from_bits(u128::from_str_radix(destination, 16).ok()?);
    let flags = u32::from_str_radix(flags, 16).ok()?;
    let prefix = u8::from_str_radix(prefix, 16).ok()?;
    let has_gateway = flags & GATEWAY != 0;
    (flags & REJECT == 0).then(|| Route6 {
        destination,
        prefix,
        link: link.to_owned(),
        has_gateway,
    })
}

/// Returns the IPv6 addresses of the calling thread's namespace, each with the length of its prefix
/// and the name of its link: none where the kernel has no IPv6.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn list_addresses6() -> io::Result<Vec<(Ipv6Addr, u8, String)>> {
    let table = table6("if_inet6")?;
    Ok(table.lines().filter_map(address6).collect())
}

/// Parses one line: address, index of the link, prefix, scope, flags, all in hexadecimal digits,
/// and the link's name (the kernel's net/ipv6/addrconf.c).
fn address6(line: &str) -> Option<(Ipv6Addr, u8, String)> {
    let parts: Vec<&str> = line.split_ascii_whitespace().collect();
    let [address, _, prefix, _, _, link] = parts[..] else {
        return None;
    };
    let address = Ipv6Addr::from_bits(u128::from_str_radix(address, 16).ok()?);
    Some((
        address,
        u8::from_str_radix(prefix, 16).ok()?,
        link.to_owned(),
    ))
}

/// Returns the names of the links in the calling thread's namespace that begin with `prefix`.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn list(prefix: &str) -> io::Result<Vec<String>> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let names = table
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    Ok(names.filter(|name| name.starts_with(prefix)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 7], [2, 0, 0, 0, 0, 8]];

    #[test]
    fn veth_pair_gets_addresses_and_routes() {
        let pid = std::process::id();
        let near = format!("wtest-near-{pid}");
        let far = format!("wtest-far-{pid}");
        netns::create(&near).unwrap();
        netns::create(&far).unwrap();
        let other = far.clone();
        netns::enter(&near, move || {
            let links = Links::in_this_netns()?;
            links.add_veth("one", "two", &other, MACS)?;
            assert_eq!(
                links
                    .add_veth("one", "three", &other, MACS)
                    .unwrap_err()
                    .kind(),
                io::ErrorKind::AlreadyExists
            );
            links.add_address("one", Ipv4Addr::new(10, 99, 0, 0), 31)?;
            links.set_up("one")?;
            links.add_route(Ipv4Addr::new(10, 98, 0, 7), 32, Ipv4Addr::new(10, 99, 0, 1))?;
            links.add_neighbour("one", Ipv4Addr::new(10, 99, 0, 1), [2, 0, 0, 0, 0, 7])?;
            let known = std::fs::read_to_string("/proc/thread-self/net/arp")?;
            assert!(known.contains("02:00:00:00:00:07"), "{known}");
            assert_eq!(
                links.set_up("none").unwrap_err().kind(),
                io::ErrorKind::NotFound
            );
            assert_eq!(list("on")?, ["one"]);
            Ok(())
        })
        .unwrap();
        assert_eq!(netns::enter(&far, || list("t")).unwrap(), ["two"]);
        netns::enter(&near, || {
            Links::in_this_netns()?
                .delete("one")
                .and_then(|()| Links::in_this_netns()?.delete("one"))
        })
        .unwrap();
        assert!(netns::enter(&far, || list("t")).unwrap().is_empty());
        netns::remove(&near).unwrap();
        netns::remove(&far).unwrap();
    }

    #[test]
    fn ipv6_veth_pair_solicits_no_neighbours() {
        let pid = std::process::id();
        let near = format!("wtest-near6-{pid}");
        let far = format!("wtest-far6-{pid}");
        netns::create(&near).unwrap();
        netns::create(&far).unwrap();
        let address = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);
        let gateway = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
        let other = far.clone();
        let made = netns::enter(&near, move || {
            let links = Links::in_this_netns()?;
            links.add_veth("one", "two", &other, MACS)?;
            links.without_own_ipv6("one")?;
            links.set_up("one")?;
            netns::enter(&other, || Links::in_this_netns()?.set_up("two"))?;
            links.add_address("one", address, 126)?;
            links.add_neighbour("one", gateway, MACS[1])?;
            links.add_route6("one", Ipv6Addr::UNSPECIFIED, 0, gateway)?;
            let routes = list_routes6()?;
            let has = |destination, prefix, has_gateway| {
                let route = Route6 {
                    destination,
                    prefix,
                    link: "one".to_owned(),
                    has_gateway,
                };
                routes.contains(&route)
            };
            assert!(has(Ipv6Addr::UNSPECIFIED, 0, true), "{routes:?}");
            assert!(
                has(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0), 126, false),
                "{routes:?}"
            );
            let ours = Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 0);
            for _ in 0..2 {
                links.add_unreachable6(ours, 48)?;
            }
            assert_eq!(list_routes6()?, routes, "which leads nowhere");
            assert!(std::fs::read_to_string("/proc/thread-self/net/ipv6_route")?.contains("fd98"));
            for _ in 0..2 {
                links.remove_unreachable6(ours, 48)?;
            }
            assert!(!std::fs::read_to_string("/proc/thread-self/net/ipv6_route")?.contains("fd98"));
            assert_eq!(list_addresses6()?, [(address, 126, "one".to_owned())]);
            let addresses = std::fs::read_to_string("/proc/thread-self/net/if_inet6")?;
            Ok((
                addresses,
                nix::ifaddrs::getifaddrs()?
                    .filter_map(|one| one.address?.as_link_addr()?.addr())
                    .collect(),
            ))
        });
        netns::remove(&near).unwrap();
        netns::remove(&far).unwrap();
        let (addresses, own): (String, Vec<[u8; 6]>) = made.unwrap();
        // One address, of everybody's scope, and permanent without having been tried.
        assert_eq!(addresses.lines().count(), 1, "{addresses}");
        assert!(
            addresses.contains("fd990000000000000000000000000001")
                && addresses.contains(" 7e 00 82 "),
            "{addresses}"
        );
        assert!(own.contains(&MACS[0]), "{own:?}");
    }

    #[test]
    fn unreachable_routes_are_no_uplink() {
        let line = |destination: &str, flags: &str, link: &str| {
            let none = "00000000000000000000000000000000";
            format!("{destination} 00 {none} 00 {none} 00000400 00000001 00000000 {flags} {link}")
        };
        let zero = "0".repeat(32);
        assert!(route6(&line(&zero, "00000003", "eth0")).is_some_and(|route| route.has_gateway));
        assert!(route6(&line(&zero, "00000001", "eth0")).is_some_and(|route| !route.has_gateway));
        assert_eq!(
            (
                route6(&line(&zero, "00200200", "lo")),
                route6(&line(&zero, "00000203", "eth0"))
            ),
            (None, None)
        );
        assert_eq!(route6(""), None);
    }
}
