//! Packets that nftables rules logged to a group (`log group N`), in the network namespace of the
//! thread that opened it.
//!
//! The kernel keeps a bounded queue for the socket, and drops packets beyond it.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nflog::{
    ConfigCmd, ConfigMode, PacketNla, ULogMessage, config_request,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use tokio::io::unix::AsyncFd;

/// Bytes of one read, which returns several messages at once.
const BUFFER: usize = 32 * 1024;
/// Numbers of protocols (IANA's registry), and of the headers that may be between that of IPv6 and
/// them (RFC 8200, section 4): hop-by-hop options, routing, fragment, destination options.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const EXTENSIONS: [u8; 4] = [0, 43, 44, 60];
const FRAGMENT: u8 = 44;
/// Bytes of the header of IPv6.
const HEADER6: usize = 40;

/// Listener of one group.
pub struct Nflog(Socket);

impl std::fmt::Debug for Nflog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Nflog").field(&self.0.as_raw_fd()).finish()
    }
}

/// Destination of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// Protocol number in IP.
    pub protocol: u8,
    pub address: IpAddr,
    /// Destination port, for TCP and UDP.
    pub port: Option<u16>,
}

impl Nflog {
    /// Opens a non-blocking socket.
    ///
    /// # Errors
    /// When the kernel cannot log to user space, or another process has the group.
    pub fn open(group: u16) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        let nlas = vec![ConfigCmd::Bind.into(), ConfigMode::PACKET_MAX.into()];
        let request = config_request(NetfilterProtoFamily::IPv4, group, nlas);
        let mut bytes = vec![0; request.header.length as usize];
        request.serialize(&mut bytes);
        socket.send(&bytes, 0)?;
        let mut answer = vec![0; BUFFER];
        let length = socket.recv(&mut answer.as_mut_slice(), 0)?;
        let answer = NetlinkMessage::<NetfilterMessage>::deserialize(&answer[..length])
            .map_err(io::Error::other)?;
        match answer.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
            _ => socket.set_non_blocking(true).map(|()| Self(socket)),
        }
    }

    /// Registers the socket with the runtime, so that a task can wait until something was logged.
    ///
    /// # Errors
    /// When there is no runtime that watches descriptors.
    pub fn into_async(self) -> io::Result<AsyncFd<Self>> {
        #[allow(
            unsafe_code,
            reason = "only its owner knows that a descriptor stays open"
        )]
        // SAFETY: the descriptor is that of the socket, which no other value owns, and which stays
        // open until it is dropped.
        let registered = unsafe { AsyncFd::register(self) };
        Ok(registered?)
    }

    /// Returns the destinations of the packets that were logged since the last call.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; `ENOBUFS` when the kernel had to drop some.
    pub fn read(&self) -> io::Result<Vec<Destination>> {
        let mut buffer = vec![0; BUFFER];
        let length = self.0.recv(&mut buffer.as_mut_slice(), 0)?;
        Ok(destinations(&buffer[..length]))
    }
}

impl AsRawFd for Nflog {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn destinations(mut bytes: &[u8]) -> Vec<Destination> {
    let mut found = Vec::new();
    while let Ok(message) = NetlinkMessage::<NetfilterMessage>::deserialize(bytes) {
        // Messages begin at multiples of four bytes.
        let length = (message.header.length as usize).next_multiple_of(4);
        if let NetlinkPayload::InnerMessage(NetfilterMessage {
            inner: NetfilterMessageInner::ULog(ULogMessage::Packet(nlas)),
            ..
        }) = message.payload
        {
            found.extend(nlas.iter().filter_map(|nla| match nla {
                PacketNla::Payload(packet) => destination(packet),
                _ => None,
            }));
        }
        match bytes.get(length..) {
            Some(rest) if length > 0 && !rest.is_empty() => bytes = rest,
            _ => break,
        }
    }
    found
}

/// Parses the beginning of a packet, which may be arbitrary bytes.
fn destination(packet: &[u8]) -> Option<Destination> {
    let (protocol, address, at) = match *packet.first()? >> 4 {
        4 => ipv4(packet)?,
        6 => ipv6(packet)?,
        _ => return None,
    };
    let ports = packet
        .get(at + 2..at + 4)
        .filter(|_| matches!(protocol, TCP | UDP));
    let port = ports
        .and_then(|bytes| bytes.try_into().ok())
        .map(u16::from_be_bytes);
    Some(Destination {
        protocol,
        address,
        port,
    })
}

/// Returns protocol, destination, and the offset of the protocol's own header (RFC 791).
fn ipv4(packet: &[u8]) -> Option<(u8, IpAddr, usize)> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    (header >= 20).then_some((*packet.get(9)?, address.into(), header))
}

/// Does the same as [`ipv4`] for IPv6. Where the logged part ends within the headers, there is no
/// port.
fn ipv6(packet: &[u8]) -> Option<(u8, IpAddr, usize)> {
    let address: [u8; 16] = packet.get(24..HEADER6)?.try_into().ok()?;
    let mut protocol = *packet.get(6)?;
    let mut at = HEADER6;
    while EXTENSIONS.contains(&protocol) {
        let Some(&[next, length]) = packet.get(at..at + 2) else {
            break;
        };
        // The length field of a fragment header is reserved.
        let length = if protocol == FRAGMENT {
            0
        } else {
            usize::from(length)
        };
        (protocol, at) = (next, at + (length + 1) * 8);
    }
    Some((protocol, Ipv6Addr::from(address).into(), at))
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = match self.protocol {
            ICMP => "ICMP".to_owned(),
            ICMPV6 => "ICMPv6".to_owned(),
            TCP => "TCP".to_owned(),
            UDP => "UDP".to_owned(),
            other => format!("protocol {other}"),
        };
        match self.port {
            Some(port) => write!(f, "{protocol} to {}", SocketAddr::new(self.address, port)),
            None => write!(f, "{protocol} to {}", self.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::netns;
    use crate::nft::{self, Family, Hook, Rule};

    #[test]
    fn a_refused_packet_is_told() {
        let name = format!("wtest-nflog-{}", std::process::id());
        netns::create(&name).unwrap();
        let told = netns::enter(&name, || {
            crate::link::Links::in_this_netns()?.set_up("lo")?;
            let table = (Family::Inet, "t");
            nft::Transaction::new()
                .table(table)
                .chain(table, "output", Hook::filter(Hook::OUTPUT, 0))
                .rule(
                    table,
                    "output",
                    &Rule::new().dport(17, 4242).log(3, 64).drop(),
                )
                .commit()?;
            let log = Nflog::open(3)?;
            // Dropped at the output, which the sender is told.
            let _ = UdpSocket::bind("127.0.0.1:0")?.send_to(b"x", "127.0.0.1:4242");
            let _ = UdpSocket::bind("[::1]:0")?.send_to(b"x", "[::1]:4242");
            let deadline = Instant::now() + Duration::from_secs(5);
            let mut told = Vec::new();
            while told.len() < 2 && Instant::now() < deadline {
                match log.read() {
                    Ok(more) => told.extend(more),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(told)
        });
        netns::remove(&name).unwrap();
        let of = |address| Destination {
            protocol: UDP,
            address,
            port: Some(4242),
        };
        let expected = [
            of(Ipv4Addr::LOCALHOST.into()),
            of(Ipv6Addr::LOCALHOST.into()),
        ];
        assert_eq!(told.unwrap(), expected);
        assert_eq!(expected[0].to_string(), "UDP to 127.0.0.1:4242");
        assert_eq!(expected[1].to_string(), "UDP to [::1]:4242");
    }

    #[test]
    fn half_packets_are_no_destinations() {
        assert_eq!(destination(&[]), None);
        assert_eq!(destination(&[0x45; 19]), None);
        assert_eq!(destination(&[0x41; 60]), None);
        assert_eq!(destination(&[0x4f; 30]).unwrap().port, None);
        assert_eq!(destination(&[0x60; 39]), None);
        assert!(destinations(&[0xff; 64]).is_empty());
    }

    #[test]
    fn port_is_found_behind_ipv6_extensions() {
        let packet = |first: u8, rest: &[u8]| {
            let mut packet = [[0x60, 0, 0, 0, 0, 0, first, 64].as_slice(), &[0; 32]].concat();
            packet.extend(rest);
            destination(&packet).unwrap()
        };
        let options = [UDP, 0, 0, 0, 0, 0, 0, 0];
        let ports = [0, 9, 0x10, 0x92];
        assert_eq!(packet(UDP, &ports).port, Some(4242));
        assert_eq!(
            packet(60, &[options.as_slice(), &ports].concat()).port,
            Some(4242)
        );
        let cut = packet(60, &[UDP, 200, 0, 0]);
        assert_eq!((cut.protocol, cut.port), (UDP, None));
        assert_eq!(packet(0, &[]).protocol, 0);
        assert_eq!(packet(ICMPV6, &ports).to_string(), "ICMPv6 to ::");
    }
}
