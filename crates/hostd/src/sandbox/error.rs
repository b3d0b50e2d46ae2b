//! Errors of calls about a sandbox.

use std::time::Duration;

use model::{SandboxId, SandboxState};
use registry::RegistryError;

use super::state::Phase;
use super::step_error::StepError;
use crate::disk_diff::DiffError;
use crate::images::import::ImportError;
use crate::operation::{OperationError, OperationKind};
use crate::snapshot::template::OtherSizes;
use crate::{disk, images};

/// Error of a call that was refused or has failed. [`SandboxError::code`] is its code in the API.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(transparent)]
    Template(#[from] images::Error),
    #[error(transparent)]
    Disk(disk::Error),
    #[error(
        "this host runs {0} sandboxes, which is its limit (AGENT_MAX_SANDBOXES); delete some, or raise it"
    )]
    Full(usize),
    #[error(
        "this host is being drained and takes no new sandboxes; the operator ends that with wrenn-agent undrain"
    )]
    Draining,
    #[error("there is no sandbox {0} on this host")]
    Unknown(SandboxId),
    #[error("the sandbox is paused; resume it first")]
    Paused,
    /// Stalled on disk pressure: its processors stand still until there is room.
    #[error("{0}")]
    Stalled(String),
    /// Its guest agent did not answer a ping.
    #[error("the guest agent did not answer within {} s; the sandbox is busy or broken", .0.as_secs())]
    Silent(Duration),
    /// Its guest failed to resume lately; the next attempt is refused until later.
    #[error("{0}")]
    ResumeBackoff(String),
    #[error("there is a {what} {name:?} already; choose another name{hint}")]
    NameTaken {
        what: &'static str,
        name: String,
        hint: &'static str,
    },
    #[error(
        "the sandbox has {count} {what}, and this host keeps {most} of each sandbox at most ({setting}); remove some, \
         or raise the limit and restart the host agent"
    )]
    TooMany {
        what: &'static str,
        count: usize,
        most: usize,
        setting: &'static str,
    },
    #[error("there is no checkpoint {name:?} of this sandbox; there are: {}", known.join(", "))]
    NoCheckpoint { name: String, known: Vec<String> },
    #[error(
        "the history of the sandbox has {steps} automatic checkpoints, so {asked} cannot be undone; \
         `wrenn undo SANDBOX --list` lists them, and a policy (auto_checkpoint) makes them"
    )]
    NoHistory { asked: u32, steps: usize },
    #[error(
        "the sandbox has no checkpoint to compare with; `wrenn checkpoint SANDBOX` makes one, and \
         `wrenn auto-checkpoint` does so from now on"
    )]
    NothingBefore,
    #[error(transparent)]
    Diff(#[from] DiffError),
    #[error("snapshot {name} is in use by {}; delete those first", users.join(", "))]
    TemplateInUse { name: String, users: Vec<String> },
    /// An image of the administrator, which no call removes.
    #[error(
        "{0} is a base image that the administrator has put there; remove its file from the images directory of the host"
    )]
    NotImported(String),
    #[error("image {name} is in use by {}; delete those first", users.join(", "))]
    ImageInUse { name: String, users: Vec<String> },
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    OtherSizes(#[from] OtherSizes),
    #[error("the sandbox is {state}{}", if reason.is_empty() { String::new() } else { format!(": {reason}") })]
    NotRunning { state: SandboxState, reason: String },
    #[error(transparent)]
    Failed(#[from] OperationError),
    #[error("a task of the host agent failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Codes of errors in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    NotFound,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    FailedPrecondition,
    AlreadyExists,
    Aborted,
    DeadlineExceeded,
    PermissionDenied,
    Internal,
}

impl SandboxError {
    /// Returns the error of a command to a sandbox that does not run.
    #[must_use]
    pub fn from_phase(phase: &Phase) -> Self {
        Self::NotRunning {
            state: phase.state(),
            reason: phase.reason().to_owned(),
        }
    }

    /// Returns the code in the API.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Template(images::Error::Unknown { .. })
            | Self::Unknown(_)
            | Self::NoCheckpoint { .. }
            | Self::Diff(DiffError::NoSuchPath(_))
            | Self::NoHistory { .. } => ErrorCode::NotFound,
            Self::Disk(disk::Error::TooSmall { .. }) | Self::OtherSizes(_) => {
                ErrorCode::InvalidArgument
            }
            Self::Import(ImportError::Refused(_)) => ErrorCode::InvalidArgument,
            Self::Import(ImportError::Registry(error)) => registry_code(error),
            Self::Stalled(_)
            | Self::TooMany { .. }
            | Self::Import(ImportError::NoRoom | ImportError::TooMany(_)) => {
                ErrorCode::ResourceExhausted
            }
            Self::Failed(error) if error.kind() == OperationKind::Space => {
                ErrorCode::ResourceExhausted
            }
            Self::Full(_)
            | Self::Draining
            | Self::Diff(DiffError::TooMany | DiffError::TooManyOfTeam) => ErrorCode::Unavailable,
            Self::Diff(DiffError::NoTurn(_) | DiffError::TimeOver) => ErrorCode::DeadlineExceeded,
            Self::NotRunning { .. }
            | Self::ResumeBackoff(_)
            | Self::Paused
            | Self::Template(images::Error::Config(_))
            | Self::NothingBefore
            | Self::Diff(DiffError::Resumed) => ErrorCode::FailedPrecondition,
            Self::NameTaken { .. } => ErrorCode::AlreadyExists,
            Self::TemplateInUse { .. }
            | Self::ImageInUse { .. }
            | Self::Diff(DiffError::AlreadyRuns) => ErrorCode::Aborted,
            Self::NotImported(_) => ErrorCode::PermissionDenied,
            Self::Template(images::Error::Io { .. })
            | Self::Disk(_)
            | Self::Failed(_)
            | Self::Diff(_)
            | Self::Silent(_)
            | Self::Import(ImportError::Host(_))
            | Self::Task(_) => ErrorCode::Internal,
        }
    }
}

impl From<StepError> for SandboxError {
    fn from(error: StepError) -> Self {
        Self::Failed(error.into())
    }
}

fn registry_code(error: &RegistryError) -> ErrorCode {
    match error {
        RegistryError::NotFound(_) => ErrorCode::NotFound,
        RegistryError::Forbidden(_) => ErrorCode::PermissionDenied,
        // Those of the request are no credentials of ours.
        RegistryError::Refused(_) | RegistryError::Denied(_) => ErrorCode::InvalidArgument,
        RegistryError::Unreachable(_) | RegistryError::Host(_) => ErrorCode::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn full_disk_is_exhausted_resource() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = SandboxError::from(OperationKind::Vm.error(full));
        assert_eq!(error.code(), ErrorCode::ResourceExhausted);
        let other = io::Error::from(io::ErrorKind::TimedOut);
        let error = SandboxError::from(OperationKind::Vm.error(other));
        assert_eq!(error.code(), ErrorCode::Internal);
    }
}
