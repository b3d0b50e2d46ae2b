//! Connections that the kernel tracks, in the network namespace of the calling thread, over ctnetlink.

use std::io;
use std::net::Ipv4Addr;

use netlink_bindings::conntrack::{Nfgenmsg, PROTONUM, Request};
use netlink_bindings::traits::{NetlinkRequest, Protocol};
use netlink_socket2::{NetlinkSocket, ReplyError};

const AF_INET: u8 = 2;
/// Parts of a tuple to compare (`CTA_FILTER_F_*` in the kernel's nf_conntrack_netlink.c).
const FILTER_SOURCE: u32 = 1;
const FILTER_DESTINATION: u32 = 1 << 1;
/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = (1 << 8) | 2;
/// `CTA_TUPLE_ORIG`, which holds others.
const TUPLE_ORIG: u16 = 1 | (1 << 15);

/// Forgets all connections that an address has begun, or that were begun with it. What of them still comes is new, and
/// the rules decide anew.
///
/// # Errors
/// What the kernel said. That there are none is fine.
pub fn forget(address: Ipv4Addr) -> io::Result<()> {
    let mut socket = NetlinkSocket::new();
    for part in [FILTER_SOURCE, FILTER_DESTINATION] {
        for tuple in tuples(&mut socket, address, part)? {
            delete(&mut socket, &tuple)?;
        }
    }
    Ok(())
}

/// How the connections began that have the address in that part of how they began.
fn tuples(socket: &mut NetlinkSocket, address: Ipv4Addr, part: u32) -> io::Result<Vec<Vec<u8>>> {
    let mut request = Request::new().op_get_dump(&header());
    let ip = request.encode().nested_tuple_orig().nested_tuple_ip();
    let ip = if part == FILTER_SOURCE { ip.push_ip_v4_src(address) } else { ip.push_ip_v4_dst(address) };
    ip.end_nested().end_nested().nested_filter().push_orig_flags(part);
    let mut answers = socket.request(&request)?;
    let mut found = Vec::new();
    while let Some(answer) = answers.recv() {
        let (_, connection) = answer.map_err(said)?;
        if let Ok(tuple) = connection.get_tuple_orig() {
            found.push(tuple.get_buf().to_vec());
        }
    }
    Ok(found)
}

fn delete(socket: &mut NetlinkSocket, tuple: &[u8]) -> io::Result<()> {
    let mut payload = header().as_slice().to_vec();
    let length = u16::try_from(tuple.len() + 4).map_err(io::Error::other)?;
    payload.extend(length.to_ne_bytes());
    payload.extend(TUPLE_ORIG.to_ne_bytes());
    payload.extend(tuple);
    match socket.request(&Delete(payload))?.recv_ack() {
        // It has ended meanwhile.
        Err(error) if error.as_io_error().kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(said),
    }
}

fn header() -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.nfgen_family = AF_INET;
    header
}

fn said(error: ReplyError) -> io::Error {
    io::Error::new(error.as_io_error().kind(), format!("connection tracking: {error}"))
}

/// The kernel's description of its messages, of which the library is made, lacks this one.
struct Delete(Vec<u8>);

impl NetlinkRequest for Delete {
    fn protocol(&self) -> Protocol {
        Protocol::Raw { protonum: PROTONUM, request_type: DELETE }
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
    use std::net::UdpSocket;

    use super::*;
    use crate::nft::{ESTABLISHED, Family, Hook, Rule, Table, Transaction};
    use crate::{link, netns};

    #[test]
    fn connections_of_one_address_are_forgotten_and_others_are_not() {
        let name = format!("wtest-ct-{}", std::process::id());
        netns::create(&name).unwrap();
        let done = netns::enter(&name, || {
            let links = link::Links::here()?;
            links.up("lo")?;
            // Tracking begins with the first rule that asks for it.
            let table: Table = (Family::Ip, "wtest");
            let rule = Rule::new().ct_state(ESTABLISHED).accept();
            let changes = Transaction::new().table(table).chain(table, "c", Hook::filter(Hook::INPUT, 0));
            changes.rule(table, "c", &rule).commit()?;
            let [one, two, other] = [[127, 0, 0, 2], [127, 0, 0, 3], [127, 0, 0, 4]].map(Ipv4Addr::from);
            let sockets: Vec<UdpSocket> =
                [one, two, other].into_iter().map(|at| UdpSocket::bind((at, 7))).collect::<Result<_, _>>()?;
            sockets[0].send_to(b"begun by it", (other, 7))?;
            sockets[1].send_to(b"begun with it", (one, 7))?;
            sockets[1].send_to(b"not its", (other, 7))?;
            let mut socket = NetlinkSocket::new();
            let mut count = |address, part| Ok::<_, io::Error>(tuples(&mut socket, address, part)?.len());
            assert_eq!((count(one, FILTER_SOURCE)?, count(one, FILTER_DESTINATION)?), (1, 1));
            forget(one)?;
            assert_eq!((count(one, FILTER_SOURCE)?, count(one, FILTER_DESTINATION)?), (0, 0));
            assert_eq!(count(two, FILTER_SOURCE)?, 1, "the one that is not its");
            forget(one)
        });
        netns::remove(&name).unwrap();
        done.unwrap();
    }
}
