//! Reading and writing one end of a pipe, or our side of a terminal, without blocking a thread.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{read, write};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::syscall;

/// Non-blocking descriptor; see the module.
#[derive(Debug)]
pub struct Descriptor(AsyncFd<OwnedFd>);

impl Descriptor {
    /// Takes over a descriptor whose open file is not shared, and makes it non-blocking.
    ///
    /// # Errors
    /// Errors of `fcntl(2)` and `epoll_ctl(2)`.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self(syscall::register_fd(fd)?))
    }

    /// Reads the available bytes; 0 at the end. Cancel-safe: nothing is taken unless it is
    /// returned.
    ///
    /// # Errors
    /// Errors of `read(2)`, but a terminal whose other side closed (EIO) is an end.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self
            .0
            .async_io(Interest::READABLE, |fd| Ok(read(fd, buffer)?))
            .await;
        match result {
            Err(e) if e.raw_os_error() == Some(Errno::EIO as i32) => Ok(0),
            other => other,
        }
    }

    /// Writes all of `bytes`. If it is cancelled in between, a part is written.
    ///
    /// # Errors
    /// Errors of `write(2)`; EPIPE where the reader is gone.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self
                .0
                .async_io(Interest::WRITABLE, |fd| Ok(write(fd, bytes)?))
                .await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Returns the descriptor itself, for ioctls.
    pub fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
