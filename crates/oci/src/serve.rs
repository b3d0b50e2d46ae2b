//! The process that unpacks: its task, its messages, and what it does.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use linux::descriptors;
use linux::worker::{self, send_message};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::limits::{Budget, Limits};
use crate::unpack::{Plan, Unpacking};

/// First argument of a program that is to become an unpacker.
pub const ARGUMENT: &str = "unpack-image";
/// Byte that an unpacker waits for after its plan.
pub const GO: u8 = b'g';
/// Largest task, bytes.
const MAX_TASK: usize = 4096;

/// Task of an unpacker. The files come as descriptors: archive and spool with the task, the image
/// with [`GO`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub limits: Limits,
    /// In Go's words: `amd64`, `arm64`.
    pub architecture: String,
}

/// Message of an unpacker: four bytes of length, then JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    Planned(Box<Plan>),
    Done,
    Failed(Failure),
}

/// Reason why an image is not unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// The archive is no image, broken, or not for this host.
    #[error("{0}")]
    Invalid(String),
    /// The image is larger than what is allowed.
    #[error("{0}")]
    Limit(String),
    /// The host's disk is full.
    #[error("the host has no room for the image")]
    NoRoom,
    /// The host failed.
    #[error("{0}")]
    Host(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(text) => Self::Invalid(text),
            Error::Limit(text) => Self::Limit(text),
            Error::Io(error) if error.kind() == io::ErrorKind::StorageFull => Self::NoRoom,
            Error::Io(error) => Self::Host(error.to_string()),
        }
    }
}

/// Becomes an unpacker if the arguments say so, and then returns only when that has ended. To be
/// called first in `main`, while there is no other thread.
#[must_use]
pub fn serve_if_asked() -> Option<ExitCode> {
    worker::serve_if_asked(ARGUMENT, "an image cannot be unpacked", serve)
}

fn serve() -> io::Result<()> {
    let Some((mut control, task, files)) = worker::receive_task::<Task>(MAX_TASK)? else {
        return Ok(());
    };
    let [archive, spool] =
        <[File; 2]>::try_from(files).map_err(|_| io::Error::other("two files are needed"))?;
    let budget = Budget::new(task.limits).with_caller(control.try_clone()?);
    let message = match Unpacking::plan_image(archive, &spool, &task.architecture, budget) {
        Ok(unpacking) => {
            let plan = Message::Planned(Box::new(unpacking.plan.clone()));
            send_message(&mut control, &plan)?;
            let (answer, files) = descriptors::receive(&control, 1)?;
            // The agent hangs up if the archive is the image, or it has no room for it.
            let [image] = match <[OwnedFd; 1]>::try_from(files) {
                Ok(files) if answer == [GO] => files,
                _ => return Ok(()),
            };
            unpacking.fill_image(image.into()).map(|()| Message::Done)
        }
        Err(error) => Err(error),
    };
    let message = message.unwrap_or_else(|error| Message::Failed(error.into()));
    send_message(&mut control, &message)
}
