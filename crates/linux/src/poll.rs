//! Waiting for descriptors, where nothing asynchronous runs (poll(2)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::time::Timespec;

/// Condition to wait for.
#[derive(Debug)]
pub struct Ready<'a> {
    descriptor: BorrowedFd<'a>,
    flags: PollFlags,
}

impl<'a> Ready<'a> {
    /// Waits until there is something to read, or never will be.
    pub fn readable(descriptor: &'a impl AsFd) -> Self {
        Self {
            descriptor: descriptor.as_fd(),
            flags: PollFlags::IN,
        }
    }

    /// Waits until the other side has closed the descriptor.
    pub fn gone(descriptor: &'a impl AsFd) -> Self {
        Self {
            descriptor: descriptor.as_fd(),
            flags: PollFlags::empty(),
        }
    }
}

/// Waits until a condition holds, or until `limit` has passed (`None`: for ever), and returns which
/// ones hold.
///
/// # Errors
/// The kernel's error.
pub fn poll<const N: usize>(
    ready: [Ready<'_>; N],
    limit: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut fds = ready
        .each_ref()
        .map(|ready| PollFd::from_borrowed_fd(ready.descriptor, ready.flags));
    let limit = limit
        .map(Timespec::try_from)
        .transpose()
        .map_err(io::Error::other)?;
    match rustix::event::poll(&mut fds, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(fds.map(|fd| !fd.revents().is_empty())),
        Err(error) => Err(error.into()),
    }
}

/// Makes reads from the descriptor return at once.
///
/// # Errors
/// The kernel's error.
pub fn never_block(descriptor: &impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(descriptor)?;
    Ok(rustix::fs::fcntl_setfl(
        descriptor,
        flags | OFlags::NONBLOCK,
    )?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_is_ready_is_told_apart() {
        let (one, mut two) = UnixStream::pair().unwrap();
        let wait = |limit| poll([Ready::gone(&one), Ready::readable(&one)], limit).unwrap();
        assert_eq!(wait(Some(Duration::from_millis(1))), [false, false]);
        two.write_all(b"x").unwrap();
        assert_eq!(wait(None), [false, true]);
        drop(two);
        assert_eq!(wait(None), [true, true]);
        let (mut one, _two) = UnixStream::pair().unwrap();
        never_block(&one).unwrap();
        assert_eq!(
            one.read(&mut [0]).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }
}
