//! The network of a guest, the same in every one: each has a network namespace of its own on the
//! host.

use std::net::Ipv4Addr;

use super::BootError;
use crate::syscall::Interfaces;

/// Address of every guest, and the host's side of its link.
const GUEST: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 21);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 22);
const PREFIX: u32 = 30;

const LOOPBACK: &str = "lo";
pub(crate) const ETHERNET: &str = "eth0";

/// Brings up loopback and `eth0`, with address and default route.
pub fn configure_links() -> Result<(), BootError> {
    let failed = |name| move |source| BootError::Network { name, source };
    let interfaces = Interfaces::open().map_err(failed(LOOPBACK))?;
    interfaces.bring_up(LOOPBACK).map_err(failed(LOOPBACK))?;
    let ethernet = || {
        interfaces.set_address(ETHERNET, GUEST, PREFIX)?;
        interfaces.bring_up(ETHERNET)?;
        interfaces.add_default_route(GATEWAY)
    };
    ethernet().map_err(failed(ETHERNET))?;
    Ok(())
}
