//! Commands to a sandbox's actor. It carries out one at a time, in the order in which they came, so
//! that two pauses, or a pause and a fork, can never overlap. Removal is no command: it interrupts
//! all others.

use std::path::PathBuf;
use std::time::Duration;

use model::{AutoCheckpoint, IdleSettings, NetworkSpec};
use runtime::trace::{self, RequestContext};
use tokio::sync::{mpsc, oneshot};

use super::error::SandboxError;
use super::state::End;

/// Most commands in the queue. Senders of more wait.
const QUEUE: usize = 16;

#[derive(Debug)]
pub(crate) enum Command {
    Pause,
    Resume,
    /// Writes a snapshot into the directory, which is created; the sandbox goes on as it was.
    Snapshot {
        dir: PathBuf,
        parts: SnapshotParts,
    },
    /// Replaces the present state by the checkpoint in the directory, and pauses the sandbox there.
    Rollback {
        checkpoint: PathBuf,
    },
    /// Ends it.
    Stop(End),
    /// Replaces its settings about use and idleness.
    SetIdle(IdleSettings),
    /// Replaces the rules for where it may connect to.
    SetNetwork(NetworkSpec),
    /// Lets a command with this timeout keep the sandbox in use; zero: without an end.
    AllowKeepAlive(Duration),
    /// Replaces the policy for automatic checkpoints.
    SetAutoCheckpoint(Option<AutoCheckpoint>),
}

/// Parts of a snapshot that a command asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SnapshotParts {
    MemoryAndDisk,
    Disk,
    /// The disk, which the guest trims before: for a template, where unused blocks would be copied.
    TrimmedDisk,
}

/// A command, and the sender of its outcome to its caller.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) command: Command,
    /// Context of the call that sends it.
    pub(super) trace: Option<RequestContext>,
    reply: oneshot::Sender<Result<(), SandboxError>>,
}

pub(crate) fn channel() -> (mpsc::Sender<Request>, mpsc::Receiver<Request>) {
    mpsc::channel(QUEUE)
}

impl Request {
    /// Returns a request, and the receiver of its outcome.
    pub(super) fn new(command: Command) -> (Self, oneshot::Receiver<Result<(), SandboxError>>) {
        let (reply, outcome) = oneshot::channel();
        let request = Self {
            command,
            trace: trace::current(),
            reply,
        };
        (request, outcome)
    }

    /// Sends the outcome. The caller may be gone: the command is carried out all the same.
    pub(crate) fn complete(self, outcome: Result<(), SandboxError>) {
        let _ = self.reply.send(outcome);
    }
}
