//! Network links, addresses and routes over rtnetlink, in the network namespace of the calling thread.
//!
//! Call from a thread that may block ([`crate::netns::enter`] gives one), never from an async task.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use futures::TryStreamExt;
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute};
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
    pub fn here() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let (connection, handle, _) = {
            let _context = runtime.enter();
            rtnetlink::new_connection()?
        };
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    /// Makes a veth pair: `name` here, `peer` in the network namespace `peer_netns`. It is born there: to move a link
    /// takes the kernel some 20 ms, for which nobody else can change one.
    ///
    /// # Errors
    /// `AlreadyExists` when either name is taken; then nothing is left.
    pub fn add_veth(&self, name: &str, peer: &str, peer_netns: &str) -> io::Result<()> {
        let namespace = netns::open(peer_netns)?;
        let there = LinkUnspec::new_with_name(peer).setns_by_fd(namespace.as_raw_fd()).build();
        let pair = LinkVeth::new(name, peer).set_info_data(InfoData::Veth(InfoVeth::Peer(there))).build();
        self.run(self.handle.link().add(pair).execute())
    }

    /// Has the link get no IPv6 address by itself when it comes up, which is also more for the kernel to do the more links
    /// there are.
    ///
    /// # Errors
    /// `NotFound` when there is no such link.
    pub fn without_own_ipv6(&self, name: &str) -> io::Result<()> {
        let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let setting = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])]);
        let message = LinkUnspec::new_with_index(self.index(name)?).append_extra_attribute(setting).build();
        self.run(self.handle.link().set(message).execute())
    }

    /// Brings the link up.
    ///
    /// # Errors
    /// `NotFound` when there is no such link.
    pub fn up(&self, name: &str) -> io::Result<()> {
        let index = self.index(name)?;
        self.run(self.handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute())
    }

    /// Gives the link a hardware address.
    ///
    /// # Errors
    /// `NotFound` when there is no such link.
    pub fn set_mac(&self, name: &str, mac: [u8; 6]) -> io::Result<()> {
        let index = self.index(name)?;
        let message = LinkUnspec::new_with_index(index).address(mac.to_vec()).build();
        self.run(self.handle.link().set(message).execute())
    }

    /// Gives the link an IPv4 address.
    ///
    /// # Errors
    /// `NotFound` when there is no such link, `AlreadyExists` when it has the address.
    pub fn add_address(&self, name: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let index = self.index(name)?;
        self.run(self.handle.address().add(index, address.into(), prefix).execute())
    }

    /// Says for good which hardware address an IPv4 address on this link has, so that nobody asks for it.
    ///
    /// # Errors
    /// `NotFound` when there is no such link, `AlreadyExists` when the address is known.
    pub fn add_neighbour(&self, name: &str, address: Ipv4Addr, mac: [u8; 6]) -> io::Result<()> {
        let index = self.index(name)?;
        self.run(self.handle.neighbours().add(index, address.into()).link_layer_address(&mac).execute())
    }

    /// Routes `destination/prefix` through `gateway`.
    ///
    /// # Errors
    /// When the gateway cannot be reached directly.
    pub fn add_route(&self, destination: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) -> io::Result<()> {
        let route =
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(destination, prefix).gateway(gateway).build();
        self.run(self.handle.route().add(route).execute())
    }

    /// Removes a link, and with a veth its peer. That there is none is fine.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn delete(&self, name: &str) -> io::Result<()> {
        match self.index(name) {
            Ok(index) => match self.run(self.handle.link().del(index).execute()) {
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(()),
                other => other,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn index(&self, name: &str) -> io::Result<u32> {
        let request = self.handle.link().get().match_name(name.to_owned()).execute();
        let found = self.run(async move { std::pin::pin!(request).try_next().await });
        match found {
            Ok(Some(link)) => Ok(link.header.index),
            Ok(None) => Err(not_found(name)),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Err(not_found(name)),
            Err(error) => Err(error),
        }
    }

    fn run<T>(&self, work: impl Future<Output = Result<T, rtnetlink::Error>>) -> io::Result<T> {
        self.runtime.block_on(work).map_err(|error| match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other),
        })
    }
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no link {name}"))
}

/// Whether the calling thread's namespace has a link of that name.
#[must_use]
pub fn exists(name: &str) -> bool {
    nix::net::if_::if_nametoindex(name).is_ok()
}

/// Names of the links in the calling thread's namespace that begin with `prefix`.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn list(prefix: &str) -> io::Result<Vec<String>> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let names = table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    Ok(names.filter(|name| name.starts_with(prefix)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_veth_pair_with_addresses_and_routes() {
        let pid = std::process::id();
        let (near, far) = (format!("wtest-near-{pid}"), format!("wtest-far-{pid}"));
        netns::create(&near).unwrap();
        netns::create(&far).unwrap();
        let other = far.clone();
        netns::enter(&near, move || {
            let links = Links::here()?;
            links.add_veth("one", "two", &other)?;
            assert_eq!(links.add_veth("one", "three", &other).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            links.add_address("one", Ipv4Addr::new(10, 99, 0, 0), 31)?;
            links.up("one")?;
            links.add_route(Ipv4Addr::new(10, 98, 0, 7), 32, Ipv4Addr::new(10, 99, 0, 1))?;
            links.add_neighbour("one", Ipv4Addr::new(10, 99, 0, 1), [2, 0, 0, 0, 0, 7])?;
            let known = std::fs::read_to_string("/proc/thread-self/net/arp")?;
            assert!(known.contains("02:00:00:00:00:07"), "{known}");
            assert_eq!(links.up("none").unwrap_err().kind(), io::ErrorKind::NotFound);
            assert_eq!(list("on")?, ["one"]);
            Ok(())
        })
        .unwrap();
        assert_eq!(netns::enter(&far, || list("t")).unwrap(), ["two"]);
        netns::enter(&near, || Links::here()?.delete("one").and_then(|()| Links::here()?.delete("one"))).unwrap();
        assert!(netns::enter(&far, || list("t")).unwrap().is_empty());
        netns::remove(&near).unwrap();
        netns::remove(&far).unwrap();
    }
}
