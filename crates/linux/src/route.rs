//! Routes and connections over IPv4 of the calling thread's network namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use netlink_bindings::rt_route::{Request, Rtmsg};
use netlink_socket2::NetlinkSocket;
use nix::sys::socket::{getsockopt, sockopt};

const AF_INET: u8 = 2;

/// Route to an IPv4 network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route4 {
    pub destination: Ipv4Addr,
    pub prefix: u8,
    /// Link of the route; `None` for a route to several links, or to none.
    pub link: Option<String>,
}

/// Returns the IPv4 routes of all tables, including those that only rules lead to, as VPNs have
/// them, and those to addresses of this host itself.
///
/// # Errors
/// The kernel's error.
pub fn list_routes4() -> io::Result<Vec<Route4>> {
    let mut header = Rtmsg::new();
    header.rtm_family = AF_INET;
    let request = Request::new().op_getroute_dump(&header);
    let mut socket = NetlinkSocket::new();
    let mut answers = socket.request(&request)?;
    let mut found = Vec::new();
    while let Some(answer) = answers.recv() {
        let (header, route) = answer.map_err(|error| {
            io::Error::new(
                error.as_io_error().kind(),
                format!("cannot read routes: {error}"),
            )
        })?;
        // The default route has no destination.
        let destination = match route.get_dst() {
            Ok(IpAddr::V4(destination)) => destination,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        let name = route
            .get_oif()
            .ok()
            .and_then(|index| nix::net::if_::if_indextoname(index).ok());
        let link = name.and_then(|name| name.into_string().ok());
        found.push(Route4 {
            destination,
            prefix: header.rtm_dst_len,
            link,
        });
    }
    Ok(found)
}

/// Returns the path MTU to that IPv4 address, bytes, as far as the kernel knows it: that of the
/// route's link, or of the route itself. Nothing is sent.
///
/// # Errors
/// When there is no route.
pub fn mtu_to(address: IpAddr) -> io::Result<u32> {
    /// Port of the protocol "discard": a socket must be connected to some port.
    const ANY_PORT: u16 = 9;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((address, ANY_PORT))?;
    let mtu = getsockopt(&socket, sockopt::IpMtu)?;
    u32::try_from(mtu).map_err(io::Error::other)
}

/// Returns the remote addresses of established TCP connections over IPv4.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn tcp_peers() -> io::Result<Vec<Ipv4Addr>> {
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
    let mut peers: Vec<Ipv4Addr> = table
        .lines()
        .filter_map(peer)
        .filter(|peer| !peer.is_unspecified())
        .collect();
    peers.sort_unstable();
    peers.dedup();
    Ok(peers)
}

/// Parses one line: number, local address, remote address, in hexadecimal digits in this machine's
/// byte order, and the state (proc_net_tcp(5)).
fn peer(line: &str) -> Option<Ipv4Addr> {
    const ESTABLISHED: &str = "01";
    let mut parts = line.split_ascii_whitespace().skip(2);
    let (address, _) = parts.next()?.split_once(':')?;
    if parts.next()? != ESTABLISHED {
        return None;
    }
    let bits = u32::from_str_radix(address, 16).ok()?;
    Some(Ipv4Addr::from(bits.to_ne_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{link, netns};

    #[test]
    fn mtu_is_that_of_the_route() {
        let name = format!("wtest-mtu-{}", std::process::id());
        netns::create(&name).unwrap();
        let found = netns::enter(&name, || {
            let links = link::Links::in_this_netns()?;
            let target = Ipv4Addr::new(10, 99, 0, 7);
            let missing = mtu_to(target.into()).map_err(|error| error.kind());
            links.set_up("lo")?;
            links.add_address("lo", Ipv4Addr::new(10, 99, 0, 1), 24)?;
            links.set_mtu("lo", 1420)?;
            Ok((missing, mtu_to(target.into())?, links.mtu("lo")?))
        });
        netns::remove(&name).unwrap();
        let (missing, to, of_link) = found.unwrap();
        assert_eq!(missing, Err(io::ErrorKind::NetworkUnreachable));
        assert_eq!((to, of_link), (1420, 1420));
    }

    #[test]
    fn routes_and_peers_are_found() {
        let name = format!("wtest-route-{}", std::process::id());
        netns::create(&name).unwrap();
        let found = netns::enter(&name, || {
            let links = link::Links::in_this_netns()?;
            links.set_up("lo")?;
            links.add_address("lo", Ipv4Addr::new(10, 99, 0, 1), 24)?;
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            let _one = std::net::TcpStream::connect(listener.local_addr()?)?;
            Ok((list_routes4()?, tcp_peers()?))
        });
        netns::remove(&name).unwrap();
        let (routes, peers) = found.unwrap();
        let link = Some("lo".to_owned());
        let wanted = Route4 {
            destination: Ipv4Addr::new(10, 99, 0, 0),
            prefix: 24,
            link,
        };
        assert!(routes.contains(&wanted), "{routes:?}");
        assert_eq!(peers, [Ipv4Addr::LOCALHOST]);
    }
}
