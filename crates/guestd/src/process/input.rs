//! Input of a process: its standard input, or its terminal.
//!
//! Writes wait while the process does not read; they never go in between each other. At most
//! [`MAX_WRITERS`] wait, with 1 MiB each by the host's bound on requests.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use connectrpc::ConnectError;
use guest_rpc::process::__buffa::oneof::process_input::Input as Bytes;
use guest_rpc::process::ProcessInput;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::tcgetpgrp;
use tokio::sync::{Mutex, Semaphore};

use super::descriptor::Descriptor;
use super::terminal::Size;
use crate::syscall;

/// Writes to one process that wait at a time: more than any program of one user has, and little
/// enough memory for the smallest guest.
const MAX_WRITERS: usize = 16;

/// The input of one process.
#[derive(Debug)]
pub struct Input {
    target: Target,
    writers: Semaphore,
}

#[derive(Debug)]
enum Target {
    /// `None`: never had one, or closed.
    Pipe(Mutex<Option<Descriptor>>),
    Terminal {
        descriptor: Arc<Descriptor>,
        turn: Mutex<()>,
    },
}

/// Reason why input was refused.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("field input is missing: give stdin or pty")]
    Missing,
    #[error("the process has a terminal: send pty, not stdin")]
    HasTerminal,
    #[error("the process has no terminal: start it with pty")]
    NoTerminal,
    #[error("standard input is closed, or the process was started with stdin false")]
    Closed,
    #[error("the process no longer reads its input")]
    NotRead(#[source] io::Error),
    #[error("standard input of a terminal cannot be closed: send the byte 4 (Ctrl-D) instead")]
    CannotClose,
    #[error(
        "{MAX_WRITERS} writes wait for the process to read, which is as many as may: wait for one to end"
    )]
    TooMany,
    #[error("the process has ended")]
    Ended,
    #[error("the terminal refused the size")]
    Resize(#[source] io::Error),
}

impl From<InputError> for ConnectError {
    fn from(error: InputError) -> Self {
        match error {
            InputError::Missing => Self::invalid_argument(error.to_string()),
            InputError::Ended => Self::not_found(error.to_string()),
            _ => Self::failed_precondition(error.to_string()),
        }
    }
}

/// Sends SIGWINCH to the foreground process group of a terminal; nothing where there is none.
fn signal_foreground(terminal: BorrowedFd<'_>) -> io::Result<()> {
    let group = tcgetpgrp(terminal)?;
    match killpg(group, Signal::SIGWINCH) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Input {
    /// Creates input through a pipe; `None`: the program has no input.
    pub fn pipe(descriptor: Option<Descriptor>) -> Self {
        Self::new(Target::Pipe(Mutex::new(descriptor)))
    }

    /// Creates input through our side of a terminal.
    pub fn terminal(descriptor: Arc<Descriptor>) -> Self {
        Self::new(Target::Terminal {
            descriptor,
            turn: Mutex::default(),
        })
    }

    fn new(target: Target) -> Self {
        Self {
            target,
            writers: Semaphore::new(MAX_WRITERS),
        }
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// [`InputError`].
    pub async fn write(&self, input: &ProcessInput) -> Result<(), InputError> {
        let _writer = self
            .writers
            .try_acquire()
            .map_err(|_| InputError::TooMany)?;
        let bytes = input.input.as_ref().ok_or(InputError::Missing)?;
        match (&self.target, bytes) {
            (Target::Pipe(pipe), Bytes::Stdin(bytes)) => {
                let pipe = pipe.lock().await;
                pipe.as_ref()
                    .ok_or(InputError::Closed)?
                    .write_all(bytes)
                    .await
                    .map_err(InputError::NotRead)
            }
            (Target::Terminal { descriptor, turn }, Bytes::Pty(bytes)) => {
                let _turn = turn.lock().await;
                descriptor
                    .write_all(bytes)
                    .await
                    .map_err(InputError::NotRead)
            }
            (Target::Terminal { .. }, Bytes::Stdin(_)) => Err(InputError::HasTerminal),
            (Target::Pipe(_), Bytes::Pty(_)) => Err(InputError::NoTerminal),
        }
    }

    /// Closes standard input after what was written before; again is fine.
    ///
    /// # Errors
    /// [`InputError::CannotClose`].
    pub async fn close(&self) -> Result<(), InputError> {
        match &self.target {
            Target::Pipe(pipe) => {
                pipe.lock().await.take();
                Ok(())
            }
            Target::Terminal { .. } => Err(InputError::CannotClose),
        }
    }

    /// Sets the window size. The programs in front get SIGWINCH in any case, as from dtach(1): a
    /// viewer that attaches to a terminal of its own size has a full-screen program drawn again.
    ///
    /// # Errors
    /// [`InputError`].
    pub fn resize(&self, size: Size) -> Result<(), InputError> {
        match &self.target {
            Target::Pipe(_) => Err(InputError::NoTerminal),
            Target::Terminal { descriptor, .. } => {
                let fd = descriptor.fd();
                // The kernel signals changes only.
                if syscall::window_size(fd).is_ok_and(|now| now == (size.cols, size.rows)) {
                    return signal_foreground(fd).map_err(InputError::Resize);
                }
                syscall::set_window_size(fd, size.cols, size.rows).map_err(InputError::Resize)
            }
        }
    }
}
