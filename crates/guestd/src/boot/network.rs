//! The network of a guest, the same in every one: each has a network namespace of its own on the host.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::BootError;
use crate::syscall::Interfaces;

/// Address of every guest, and the host's side of its link.
const GUEST: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 21);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 22);
const PREFIX: u32 = 30;

const LOOPBACK: &str = "lo";
pub(crate) const ETHERNET: &str = "eth0";

/// Brings up loopback and `eth0`, with address and default route.
pub fn configure() -> Result<(), BootError> {
    let failed = |name| move |source| BootError::Network { name, source };
    let interfaces = Interfaces::open().map_err(failed(LOOPBACK))?;
    interfaces.bring_up(LOOPBACK).map_err(failed(LOOPBACK))?;
    let ethernet = || {
        interfaces.set_address(ETHERNET, GUEST, PREFIX)?;
        interfaces.bring_up(ETHERNET)?;
        interfaces.add_default_route(GATEWAY)
    };
    ethernet().map_err(failed(ETHERNET))?;
    allow_ping();
    Ok(())
}

/// Lets every user ping, as distributions do since systemd 243 (icmp(7), `ping_group_range`).
fn allow_ping() {
    if let Err(e) = fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647") {
        eprintln!("envd: only root can ping: {e}");
    }
}

/// Writes `/etc/resolv.conf` where it is missing, empty, or a link to something that is not there (as images
/// that expect systemd-resolved have it).
pub fn name_servers(servers: &[IpAddr]) {
    if let Err(e) = write_name_servers(Path::new("/etc/resolv.conf"), servers) {
        eprintln!("envd: /etc/resolv.conf cannot be written: {e}");
    }
}

fn write_name_servers(path: &Path, servers: &[IpAddr]) -> io::Result<()> {
    let says_something = fs::read_to_string(path)
        .is_ok_and(|text| text.lines().any(|line| line.split_whitespace().next() == Some("nameserver")));
    if says_something || servers.is_empty() {
        return Ok(());
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    servers.iter().try_for_each(|server| writeln!(file, "nameserver {server}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(prepare: impl FnOnce(&Path)) -> String {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("resolv.conf");
        prepare(&path);
        write_name_servers(&path, &["9.9.9.9".parse().expect("an address")]).expect("can be written");
        fs::read_to_string(&path).expect("is there")
    }

    #[test]
    fn writes_where_nothing_is_said() {
        assert_eq!(after(|_| ()), "nameserver 9.9.9.9\n");
        assert_eq!(after(|path| fs::write(path, "# nothing\n").expect("a file")), "nameserver 9.9.9.9\n");
        let dangling = |path: &Path| std::os::unix::fs::symlink("../run/no/such", path).expect("a link");
        assert_eq!(after(dangling), "nameserver 9.9.9.9\n");
    }

    #[test]
    fn leaves_what_is_said() {
        assert_eq!(after(|path| fs::write(path, "nameserver 1.2.3.4\n").expect("a file")), "nameserver 1.2.3.4\n");
    }
}
