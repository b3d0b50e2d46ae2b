//! Where this process reaches its own API: for `/mcp`, whose tools call it as any client does.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;

use tokio::net::TcpListener;

/// Address of the listener, once there is one.
#[derive(Debug, Default)]
pub struct OwnAddress(OnceLock<SocketAddr>);

impl OwnAddress {
    /// Notes where `listener` is reached from this machine.
    ///
    /// # Errors
    /// The listener has no address.
    pub fn set_listener(&self, listener: &TcpListener) -> io::Result<()> {
        let _ = self.0.set(reachable(listener.local_addr()?));
        Ok(())
    }

    /// Returns the URL, as in `http://127.0.0.1:8000`.
    #[must_use]
    pub fn base_url(&self) -> Option<String> {
        self.0.get().map(|address| format!("http://{address}"))
    }
}

/// Replaces the address that stands for all of this machine's.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_reached_by_loopback() {
        let reached = |address: &str| reachable(address.parse().unwrap()).to_string();
        assert_eq!(reached("0.0.0.0:8000"), "127.0.0.1:8000");
        assert_eq!(reached("[::]:8000"), "[::1]:8000");
        assert_eq!(reached("192.0.2.1:80"), "192.0.2.1:80");
    }
}
