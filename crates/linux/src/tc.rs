//! Limits of how much a link sends, in the network namespace of the calling thread: a token bucket
//! (tc-tbf(8)).

use std::io;

use netlink_bindings::tc::{Request, TcRatespec, TcTbfQopt, Tcmsg};
use netlink_socket2::NetlinkSocket;
use nix::libc::{EINVAL, ENOENT};

/// Place of a link's only queue, and our handle of it (linux/pkt_sched.h).
const ROOT: u32 = u32::MAX;
const HANDLE: u32 = 1 << 16;
const LINKLAYER_ETHERNET: u8 = 1;
/// Burst after an idle time: 20 ms of the rate, but never less than the largest packet that a guest
/// or the kernel hands over in one piece.
const BURST_PER_SECOND: u64 = 50;
const LEAST_BURST: u64 = 128 << 10;
/// Length of the queue: 100 ms of the rate. A longer one would only add latency.
const WAITING_PER_SECOND: u64 = 10;

/// Limits how much the link sends, in bits per second, 8 or more. The limit goes with the link.
///
/// # Errors
/// `NotFound` when there is no such link, or when the kernel has no token buckets (`sch_tbf`).
pub fn limit_bandwidth(link: &str, bits_per_second: u64) -> io::Result<()> {
    let rate = bits_per_second / 8;
    let small = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    let burst = (rate / BURST_PER_SECOND).max(LEAST_BURST);
    let bucket = TcTbfQopt {
        rate: TcRatespec {
            linklayer: LINKLAYER_ETHERNET,
            rate: small(rate),
            ..TcRatespec::default()
        },
        limit: small(burst + rate / WAITING_PER_SECOND),
        ..TcTbfQopt::default()
    };
    let header = queue_of(link)?;
    let mut request = Request::new()
        .set_create()
        .set_replace()
        .op_newqdisc_do(&header);
    let options = request
        .encode()
        .nested_options_tbf()
        .push_parms(bucket)
        .push_burst(small(burst));
    drop(if rate > u64::from(u32::MAX) {
        options.push_rate64(rate)
    } else {
        options
    });
    let answer = NetlinkSocket::new().request(&request)?.recv_ack();
    answer.map_err(|error| {
        io::Error::new(
            error.as_io_error().kind(),
            format!("cannot limit {link}: {error}"),
        )
    })
}

/// Removes the limit. A link without one is no error.
///
/// # Errors
/// `NotFound` when there is no such link.
pub fn unlimit(link: &str) -> io::Result<()> {
    let header = queue_of(link)?;
    let request = Request::new().op_delqdisc_do(&header);
    match NetlinkSocket::new().request(&request)?.recv_ack() {
        // Errors of the kernel for a queue that is not ours.
        Err(error) if matches!(error.as_io_error().raw_os_error(), Some(ENOENT | EINVAL)) => Ok(()),
        Err(error) => Err(io::Error::new(
            error.as_io_error().kind(),
            format!("cannot unlimit {link}: {error}"),
        )),
        Ok(()) => Ok(()),
    }
}

fn queue_of(link: &str) -> io::Result<Tcmsg> {
    let index = nix::net::if_::if_nametoindex(link)?;
    let ifindex = index.try_into().map_err(io::Error::other)?;
    Ok(Tcmsg {
        ifindex,
        handle: HANDLE,
        parent: ROOT,
        ..Tcmsg::default()
    })
}
