//! The sockets of one sandbox's resolver and proxy, and those through which the kernel reports
//! refused packets.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use linux::nflog::{Destination, Nflog};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::EgressPolicy;
use crate::network::connections::LIMIT_LOG_GROUP;
use crate::network::policy::{DNS_PORT, LOG_GROUP, PROXY_PORT};
use crate::network::{GATEWAY_IP, GATEWAY_IP6, Ipv6Mode};

const BACKLOG: i32 = 256;

pub(super) struct Sockets {
    /// Sockets on the gateway's IPv4 address, and on its IPv6 address if there is one.
    pub(super) servers: Vec<Servers>,
    /// Reports of packets that the rules refuse. `None` if the kernel cannot log; it refuses them
    /// all the same.
    pub(super) log: Option<Nflog>,
    /// Reports of packets beyond the limit of connections.
    pub(super) limit_log: Option<Nflog>,
}

/// Sockets of resolver and proxy on one address.
pub(super) struct Servers {
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
    pub(super) proxy: TcpListener,
}

/// Opens the sockets in the namespace of the calling thread.
pub(super) fn open(ipv6: Ipv6Mode) -> io::Result<Sockets> {
    let mut servers = vec![serve_on(GATEWAY_IP.into())?];
    if ipv6.is_on() {
        match serve_on(GATEWAY_IP6.into()) {
            Ok(more) => servers.push(more),
            // The network was made by an agent for which it was off.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            Err(error) => return Err(error),
        }
    }
    let [log, limit_log] = [LOG_GROUP, LIMIT_LOG_GROUP].map(|group| {
        let log = Nflog::open(group);
        log.inspect_err(
            |error| tracing::warn!(%error, "what is denied is not told in the sandbox's log"),
        )
        .ok()
    });
    Ok(Sockets {
        servers,
        log,
        limit_log,
    })
}

fn serve_on(address: IpAddr) -> io::Result<Servers> {
    let udp = UdpSocket::bind((address, DNS_PORT))?;
    udp.set_nonblocking(true)?;
    let listen = |port| listen(SocketAddr::new(address, port));
    Ok(Servers {
        udp,
        tcp: listen(DNS_PORT)?,
        proxy: listen(PROXY_PORT)?,
    })
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(at),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    // The next agent serves where this one's connections are still ending.
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

pub(super) fn from_std(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::from_std(listener)
}

/// Logs the packets that the kernel reports as refused, until the future is dropped.
pub(super) async fn tell_refused(
    policy: Arc<EgressPolicy>,
    log: AsyncFd<Nflog>,
    what: impl Fn(&Destination) -> String,
) {
    while let Ok(mut ready) = log.readable().await {
        // An error other than WouldBlock means that the kernel dropped reports (ENOBUFS): go on.
        if let Ok(Ok(refused)) = ready.try_io(|log| log.get_ref().read()) {
            refused
                .iter()
                .for_each(|destination| policy.events.log_denied(&what(destination)));
        }
    }
}
