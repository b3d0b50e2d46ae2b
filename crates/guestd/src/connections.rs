//! Resets TCP connections whose other ends are out of reach: after a restore the network around the
//! guest is new.
//!
//! By `SOCK_DESTROY` (sock_diag(7), `linux/sock_diag.h`, `linux/inet_diag.h`), as `ss --kill` does:
//! programs see ECONNABORTED at once, in place of minutes of retransmissions. The kernel needs
//! `CONFIG_INET_DIAG_DESTROY` and, where it is built as a module, `tcp_diag` in the initramfs.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc::{IPPROTO_TCP, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};
use nix::sys::socket::{connect, recv, send, socket};

/// `linux/sock_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

/// Bits of `net/tcp_states.h`: established, SYN sent and received, both FIN waits, close wait, last
/// ACK, closing. Without those that listen, and without those that only wait for their time to end.
const STATES: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Bytes of `struct inet_diag_sockid`, and where it is in `struct inet_diag_msg`.
const ID: usize = 48;
const ID_AT: usize = 4;

/// Longest answer that the kernel gives at once.
const ANSWER: usize = 32 << 10;

/// The two ends of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

impl Ends {
    /// Returns true if it does not leave the machine.
    fn is_inside(self) -> bool {
        self.remote.ip().is_loopback() || self.local.ip() == self.remote.ip()
    }
}

/// A socket as the kernel names it.
struct Found {
    family: u8,
    id: [u8; ID],
    ends: Ends,
}

/// Resets every TCP connection that leaves the machine, other than `kept`; answers with how many.
///
/// # Errors
/// ENOENT where the kernel lacks `tcp_diag`, EOPNOTSUPP where it cannot reset; EPERM without
/// CAP_NET_ADMIN.
pub fn reset_all(kept: Option<Ends>) -> io::Result<usize> {
    let mut count = 0;
    for family in [nix::libc::AF_INET, nix::libc::AF_INET6] {
        let netlink = open()?;
        // All are read before the first is reset: the list would change under the reader.
        for found in list(&netlink, family as u8)? {
            if !found.ends.is_inside() && Some(found.ends) != kept {
                count += usize::from(reset(&netlink, &found)?);
            }
        }
    }
    Ok(count)
}

fn open() -> io::Result<OwnedFd> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    connect(netlink.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(netlink)
}

/// Encodes a request with `struct inet_diag_req_v2`.
fn request(kind: u16, flags: i32, family: u8, id: &[u8; ID]) -> Vec<u8> {
    let length = (HEADER + 8 + ID) as u32;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(((flags | NLM_F_REQUEST) as u16).to_ne_bytes());
    // Sequence number and sender: each request is answered before the next.
    message.extend([0; 8]);
    message.extend([family, IPPROTO_TCP as u8, 0, 0]);
    message.extend(STATES.to_ne_bytes());
    message.extend(id);
    message
}

fn list(netlink: &OwnedFd, family: u8) -> io::Result<Vec<Found>> {
    let asked = request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, &[0; ID]);
    send(netlink.as_raw_fd(), &asked, MsgFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; ANSWER];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for (kind, body) in netlink_messages(&buffer[..length]) {
            match i32::from(kind) {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return Err(refusal(body)),
                _ => found.extend(read(body)),
            }
        }
    }
}

/// Returns true if it was still there to be reset.
fn reset(netlink: &OwnedFd, found: &Found) -> io::Result<bool> {
    let asked = request(SOCK_DESTROY, NLM_F_ACK, found.family, &found.id);
    send(netlink.as_raw_fd(), &asked, MsgFlags::empty())?;
    let mut buffer = vec![0; ANSWER];
    let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let code = netlink_messages(&buffer[..length])
        .next()
        .map_or(0, |(_, body)| error_code(body));
    match Errno::from_raw(-code) {
        _ if code == 0 => Ok(true),
        Errno::ENOENT => Ok(false),
        error => Err(error.into()),
    }
}

/// Iterates over the netlink messages in `bytes`, as kind and body.
pub(crate) fn netlink_messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Returns the number in `struct nlmsgerr`: 0, or a negative errno.
pub(crate) fn error_code(body: &[u8]) -> i32 {
    body.first_chunk()
        .map_or(0, |code| i32::from_ne_bytes(*code))
}

fn refusal(body: &[u8]) -> io::Error {
    io::Error::from_raw_os_error(-error_code(body))
}

/// Reads `struct inet_diag_msg`.
fn read(body: &[u8]) -> Option<Found> {
    let family = *body.first()?;
    let id: [u8; ID] = *body.get(ID_AT..)?.first_chunk()?;
    let port = |at: usize| Some(u16::from_be_bytes(*id.get(at..)?.first_chunk()?));
    let address = |at: usize| -> Option<IpAddr> {
        if i32::from(family) == nix::libc::AF_INET {
            Some(IpAddr::from(*id.get(at..)?.first_chunk::<4>()?))
        } else {
            // An IPv6 socket can have an IPv4 peer; what is loopback is then told by the IPv4
            // address.
            Some(Ipv6Addr::from(*id.get(at..)?.first_chunk::<16>()?).to_canonical())
        }
    };
    let local = SocketAddr::new(address(4)?, port(0)?);
    let remote = SocketAddr::new(address(20)?, port(2)?);
    Some(Found {
        family,
        id,
        ends: Ends { local, remote },
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};

    use nix::sched::{CloneFlags, unshare};
    use nix::sys::socket::{SockaddrIn, bind};

    use super::*;
    use crate::syscall::Interfaces;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

    /// Runs `act` in a network namespace with two addresses besides loopback; it ends with its
    /// thread.
    fn apart(act: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: this needs root");
            let interfaces = Interfaces::open().expect("a socket");
            interfaces.bring_up("lo").expect("loopback");
            for (name, address) in [("lo:1", ADDRESS), ("lo:2", OTHER)] {
                interfaces
                    .set_address(name, address, 24)
                    .expect("an address");
            }
            act();
        });
        thread.join().expect("the test holds");
    }

    /// A connection between two addresses of this machine. Different ones make it look as if it
    /// left the machine.
    fn connection(from: Ipv4Addr, to: Ipv4Addr) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((to, 0)).expect("listens");
        let SocketAddr::V4(address) = listener.local_addr().expect("an address") else {
            panic!("IPv4 was asked for")
        };
        let client = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .expect("a socket");
        bind(
            client.as_raw_fd(),
            &SockaddrIn::from(SocketAddrV4::new(from, 0)),
        )
        .expect("binds");
        connect(client.as_raw_fd(), &SockaddrIn::from(address)).expect("connects");
        (client.into(), listener.accept().expect("is accepted").0)
    }

    fn ends(stream: &TcpStream) -> Ends {
        Ends {
            local: stream.local_addr().expect("an end"),
            remote: stream.peer_addr().expect("an end"),
        }
    }

    fn is_reset(mut stream: &TcpStream) -> bool {
        stream.set_nonblocking(true).expect("can be set");
        !matches!(stream.read(&mut [0; 1]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    #[test]
    fn only_connections_leaving_machine_are_reset() {
        apart(|| {
            let leaving = connection(OTHER, ADDRESS);
            let to_oneself = connection(ADDRESS, ADDRESS);
            let on_loopback = connection(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
            let kept = connection(OTHER, ADDRESS);
            // Both ends are on this machine, so the first that goes takes the other along.
            assert_eq!(reset_all(Some(ends(&kept.0))).expect("can be reset"), 2);
            let error = (&kept.0)
                .read(&mut [0; 1])
                .expect_err("its other end was reset");
            assert_eq!(
                error.kind(),
                io::ErrorKind::ConnectionReset,
                "by its peer, and not aborted here"
            );
            assert!(is_reset(&leaving.0) && is_reset(&leaving.1));
            for stream in [&to_oneself.0, &to_oneself.1, &on_loopback.0, &on_loopback.1] {
                assert!(!is_reset(stream), "{stream:?}");
            }
            assert_eq!(reset_all(None).expect("can be reset"), 0, "none is left");
        });
    }

    #[test]
    fn truncated_answer_is_read_within_bounds() {
        assert_eq!(netlink_messages(&[0; 3]).count(), 0);
        let long = [200u32.to_ne_bytes(), [0; 4], [0; 4], [0; 4]].concat();
        assert_eq!(netlink_messages(&long).count(), 0);
        assert!(read(&[2; 30]).is_none());
    }
}
