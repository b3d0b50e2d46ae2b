//! Sends a batch of changes and reads the kernel's answers.
//!
//! The kernel has processed the whole batch when the write returns, and its answers are in the
//! socket by then: one for each change, or the errors that made it undo everything. The library
//! that encodes the changes has a socket, too, but no way to give it a buffer of more than 208 KiB.

use std::io;
use std::ops::Range;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};

/// Bytes of a message's header, of which the first four are its length, two the kind, and four from
/// the eighth on its number (netlink(7)).
const HEADER: usize = 16;
const ERROR: u16 = 2;
/// Longest write for the default buffer of a socket (net.core.wmem_default).
const FITS: usize = 128 << 10;
/// Room for the answer to a change, bytes: its 36, and the kernel's own record of it, less than 1 KiB.
const ANSWER_ROOM: usize = 2 << 10;
/// Bytes of answers that are read at a time.
const ANSWERS: usize = 32 << 10;

/// Opens a socket in the network namespace of the calling thread.
pub(super) fn open_socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Sends a batch over a socket that was not used yet; `numbers` are those of its changes.
///
/// # Errors
/// The first that the kernel refused.
pub(super) fn send(socket: Socket, batch: &[u8], numbers: Range<u32>) -> io::Result<()> {
    make_room(&socket, batch.len(), numbers.len())?;
    socket.send(batch, 0)?;
    let mut missing = numbers.len();
    let mut buffer = vec![0; ANSWERS];
    while missing > 0 {
        // No further answers come: a missing one is an error as well (`WouldBlock`).
        let length = socket.recv(&mut buffer.as_mut_slice(), 0)?;
        for (number, code) in answers(&buffer[..length]) {
            if code != 0 {
                return Err(refused(number.saturating_sub(numbers.start) + 1, code));
            }
            missing -= usize::from(numbers.contains(&number));
        }
    }
    Ok(())
}

/// Enlarges the buffers, whatever the host's limits (net.core.wmem_* and rmem_*): the send buffer to
/// twice the bytes, since the kernel counts its own overhead, too, and the receive buffer to all
/// answers. An answer without room is lost (`ENOBUFS`), and a batch that was applied would look as
/// if it had failed.
fn make_room(socket: &Socket, bytes: usize, changes: usize) -> io::Result<()> {
    if bytes > FITS {
        setsockopt(socket, SndBufForce, &(2 * bytes))?;
    }
    // Errors have the refused change in them.
    setsockopt(socket, RcvBufForce, &(bytes + changes * ANSWER_ROOM))?;
    Ok(())
}

/// Returns the numbers of the messages that are answered, each with 0 or an error's negative code.
fn answers(mut bytes: &[u8]) -> Vec<(u32, i32)> {
    let mut found = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() {
        let [l0, l1, l2, l3, k0, k1, _, _, n0, n1, n2, n3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        if let (ERROR, Some(code)) = (u16::from_ne_bytes([k0, k1]), rest.first_chunk::<4>()) {
            found.push((
                u32::from_ne_bytes([n0, n1, n2, n3]),
                i32::from_ne_bytes(*code),
            ));
        }
        bytes = bytes
            .get(length.next_multiple_of(4).max(HEADER)..)
            .unwrap_or_default();
    }
    found
}

fn refused(number: u32, code: i32) -> io::Error {
    let error = io::Error::from_raw_os_error(code.saturating_neg());
    io::Error::new(
        error.kind(),
        format!("the kernel refused the nftables rules: change {number}: {error}"),
    )
}
