//! Connections that the kernel tracks, in the network namespace of the calling thread, over
//! ctnetlink.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use netlink_bindings::conntrack::{IterableTupleAttrs, Nfgenmsg, PROTONUM, Request};
use netlink_bindings::traits::{NetlinkRequest, Protocol};
use netlink_socket2::{NetlinkSocket, ReplyError};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Parts of a tuple to compare (`CTA_FILTER_F_*` in the kernel's nf_conntrack_netlink.c).
const FILTER_SOURCE: u32 = 1;
const FILTER_DESTINATION: u32 = 1 << 1;
/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = (1 << 8) | 2;
/// `CTA_TUPLE_ORIG`, which holds others.
const TUPLE_ORIG: u16 = 1 | (1 << 15);

/// Removes all tracked connections that an address has begun, or that were begun to it. Their later
/// packets count as new connections, so that the rules are evaluated again.
///
/// # Errors
/// The kernel's error. An address without any is no error.
pub fn remove_connections(address: impl Into<IpAddr>) -> io::Result<()> {
    let address = address.into();
    let mut socket = NetlinkSocket::new();
    // What is not filtered by the kernel is read once.
    let both = [FILTER_SOURCE | FILTER_DESTINATION];
    let parts = if address.is_ipv4() {
        &[FILTER_SOURCE, FILTER_DESTINATION][..]
    } else {
        &both
    };
    for part in parts {
        for tuple in tuples(&mut socket, address, *part)? {
            delete(&mut socket, address, &tuple)?;
        }
    }
    Ok(())
}

/// Returns the destinations of all tracked connections.
///
/// # Errors
/// The kernel's error.
pub fn list_destinations() -> io::Result<HashSet<IpAddr>> {
    let mut socket = NetlinkSocket::new();
    let mut found = HashSet::new();
    // Of both families.
    let request = Request::new().op_get_dump(&Nfgenmsg::new());
    let mut answers = socket.request(&request)?;
    while let Some(answer) = answers.recv() {
        let (_, connection) = answer.map_err(said)?;
        let Ok(ip) = connection
            .get_tuple_orig()
            .and_then(|tuple| tuple.get_tuple_ip())
        else {
            continue;
        };
        found.extend(ip.get_ip_v4_dst().map(IpAddr::from));
        found.extend(ip.get_ip_v6_dst().map(IpAddr::from));
    }
    Ok(found)
}

/// Returns the original tuples of the connections that have the address in `part` of that tuple.
///
/// The kernel is asked for these alone, but over IPv6 for all: there it compares the wrong way
/// round, and would leave out just these (`ctnetlink_filter_match_tuple` in its
/// nf_conntrack_netlink.c, seen up to Linux 6.18).
fn tuples(socket: &mut NetlinkSocket, address: IpAddr, part: u32) -> io::Result<Vec<Vec<u8>>> {
    let mut request = Request::new().op_get_dump(&header(address));
    if let IpAddr::V4(address) = address {
        let ip = request.encode().nested_tuple_orig().nested_tuple_ip();
        let ip = if part == FILTER_SOURCE {
            ip.push_ip_v4_src(address)
        } else {
            ip.push_ip_v4_dst(address)
        };
        ip.end_nested()
            .end_nested()
            .nested_filter()
            .push_orig_flags(part);
    }
    let mut answers = socket.request(&request)?;
    let mut found = Vec::new();
    while let Some(answer) = answers.recv() {
        let (_, connection) = answer.map_err(said)?;
        let Ok(tuple) = connection.get_tuple_orig() else {
            continue;
        };
        let is_one = match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => has(&tuple, part, address),
        };
        if is_one {
            found.push(tuple.get_buf().to_vec());
        }
    }
    Ok(found)
}

fn has(tuple: &IterableTupleAttrs<'_>, part: u32, address: Ipv6Addr) -> bool {
    let Ok(ip) = tuple.get_tuple_ip() else {
        return false;
    };
    let is_source = part & FILTER_SOURCE != 0 && ip.get_ip_v6_src().ok() == Some(address);
    is_source || (part & FILTER_DESTINATION != 0 && ip.get_ip_v6_dst().ok() == Some(address))
}

fn delete(socket: &mut NetlinkSocket, address: IpAddr, tuple: &[u8]) -> io::Result<()> {
    let mut payload = header(address).as_slice().to_vec();
    let length = u16::try_from(tuple.len() + 4).map_err(io::Error::other)?;
    payload.extend(length.to_ne_bytes());
    payload.extend(TUPLE_ORIG.to_ne_bytes());
    payload.extend(tuple);
    match socket.request(&Delete(payload))?.recv_ack() {
        // The connection has ended since it was listed.
        Err(error) if error.as_io_error().kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(said),
    }
}

fn header(address: IpAddr) -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.nfgen_family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
    header
}

fn said(error: ReplyError) -> io::Error {
    io::Error::new(
        error.as_io_error().kind(),
        format!("connection tracking: {error}"),
    )
}

/// Request to delete one connection: netlink-bindings, which is generated from the kernel's
/// description of its messages, lacks it.
struct Delete(Vec<u8>);

impl NetlinkRequest for Delete {
    fn protocol(&self) -> Protocol {
        Protocol::Raw {
            protonum: PROTONUM,
            request_type: DELETE,
        }
    }

    fn flags(&self) -> u16 {
        0
    }

    fn payload(&self) -> &[u8] {
        &self.0
    }

    type ReplyType<'buf> = ();
    fn decode_reply(_: &[u8]) -> Self::ReplyType<'_> {}
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::nft::{ESTABLISHED, Family, Hook, Rule, Table, Transaction};
    use crate::{link, netns};

    /// Three addresses of a namespace of its own, whose connections are tracked.
    fn forgets_those_of_one(name: &str, addresses: [IpAddr; 3]) {
        let name = format!("wtest-ct-{name}-{}", std::process::id());
        netns::create(&name).unwrap();
        let done = netns::enter(&name, move || {
            let links = link::Links::in_this_netns()?;
            links.set_up("lo")?;
            let ours = addresses
                .into_iter()
                .filter(|address| !address.is_loopback());
            ours.into_iter()
                .try_for_each(|address| links.add_address("lo", address, 128))?;
            // Tracking begins with the first rule that asks for it.
            let table: Table = (Family::Inet, "wtest");
            let rule = Rule::new().ct_state(ESTABLISHED).accept();
            let changes =
                Transaction::new()
                    .table(table)
                    .chain(table, "c", Hook::filter(Hook::INPUT, 0));
            changes.rule(table, "c", &rule).commit()?;
            let [one, two, other] = addresses;
            let sockets: Vec<UdpSocket> = addresses
                .into_iter()
                .map(|at| UdpSocket::bind((at, 7)))
                .collect::<Result<_, _>>()?;
            let mut socket = NetlinkSocket::new();
            let mut count =
                |address, part| Ok::<_, io::Error>(tuples(&mut socket, address, part)?.len());
            let deadline = Instant::now() + Duration::from_secs(5);
            // The kernel knows the way to a new IPv6 address a moment after it has the address.
            while (
                count(one, FILTER_SOURCE)?,
                count(one, FILTER_DESTINATION)?,
                count(two, FILTER_SOURCE)?,
            ) != (1, 1, 2)
            {
                assert!(Instant::now() < deadline, "{one} has no connections");
                sockets[0].send_to(b"begun by it", (other, 7))?;
                sockets[1].send_to(b"begun with it", (one, 7))?;
                sockets[1].send_to(b"not its", (other, 7))?;
            }
            let all = list_destinations()?;
            assert!(
                all.contains(&one) && all.contains(&other) && !all.contains(&two),
                "{all:?}"
            );
            remove_connections(one)?;
            assert_eq!(
                (count(one, FILTER_SOURCE)?, count(one, FILTER_DESTINATION)?),
                (0, 0)
            );
            assert_eq!(count(two, FILTER_SOURCE)?, 1, "the one that is not its");
            remove_connections(one)
        });
        netns::remove(&name).unwrap();
        done.unwrap();
    }

    #[test]
    fn connections_of_other_addresses_stay() {
        forgets_those_of_one(
            "four",
            [2, 3, 4].map(|last| Ipv4Addr::new(127, 0, 0, last).into()),
        );
        forgets_those_of_one(
            "six",
            [2, 3, 4].map(|last| Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, last).into()),
        );
    }
}
