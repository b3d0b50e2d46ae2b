//! Causes of failed steps that are no errors of a library.

use model::SandboxId;

use crate::operation::{OperationError, OperationKind};

/// Step of a sandbox that cannot be done, as users see it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error("the sandbox has no network slot")]
    NoSlot,
    #[error("the sandbox has no disk")]
    NoDisk,
    #[error("the sandbox is of a version that cannot be paused")]
    NeverPaused,
    #[error("the virtual machine is gone")]
    NoVm,
    /// A pause for idleness met a call that began at that moment.
    #[error("it is in use again")]
    InUse,
    #[error("the host agent ended meanwhile")]
    AgentEnded,
    #[error("{0}")]
    NotResumed(String),
    #[error("child {id} did not start, so none was made: {reason}")]
    ChildNotStarted { id: SandboxId, reason: String },
    #[error(
        "its memory was saved by {saved_by}, and this host agent uses {engine}; start the agent with the former \
         (AGENT_VMM, AGENT_ACCEL)"
    )]
    OtherEngine { saved_by: String, engine: String },
    #[error("the checkpoint cannot be read back")]
    UnreadableCheckpoint,
    #[error("the guest agent did not answer within {seconds} s")]
    SilentGuest { seconds: u64 },
    #[error("the guest agent did not take its set-up within {seconds} s")]
    SlowSetup { seconds: u64 },
    /// The guest did not take the start command.
    #[error("the start command cannot run: {reason}")]
    NoStartCommand { reason: String, is_refused: bool },
    /// Stalled on disk pressure: the reason.
    #[error("{0}")]
    Stalled(String),
}

impl StepError {
    fn kind(&self) -> OperationKind {
        match self {
            Self::NoSlot => OperationKind::Network,
            Self::NoDisk | Self::NeverPaused => OperationKind::Disk,
            Self::NoVm
            | Self::InUse
            | Self::AgentEnded
            | Self::NotResumed(_)
            | Self::ChildNotStarted { .. } => OperationKind::Vm,
            Self::OtherEngine { .. } | Self::UnreadableCheckpoint => OperationKind::Snapshot,
            Self::NoStartCommand {
                is_refused: true, ..
            } => OperationKind::Spec,
            Self::SilentGuest { .. } | Self::SlowSetup { .. } | Self::NoStartCommand { .. } => {
                OperationKind::Guest
            }
            Self::Stalled(_) => OperationKind::Space,
        }
    }
}

impl From<StepError> for OperationError {
    fn from(error: StepError) -> Self {
        error.kind().error(error)
    }
}
