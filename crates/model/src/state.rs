//! The states of a sandbox as users see them, and the order of reports about them.
//!
//! ```text
//!              ┌────────────→ error ←──────────────┐
//!              │                                   │
//!  (asked) → pending ──→ running ──→ stopped       │
//!                          │  ↑                    │
//!                          ↓  │                    │
//!                         paused ──────────────────┘
//! ```
//!
//! From every state a sandbox can be deleted; then it is no more, which is not a state. The control
//! plane owns the state until it has handed the sandbox to a host; from then on only the host agent
//! changes it.

use serde::{Deserialize, Serialize};

/// State of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = SandboxStatus))]
#[serde(rename_all = "snake_case")]
pub enum SandboxState {
    /// Promised, not yet usable.
    Pending,
    /// The guest agent has confirmed that it is ready.
    Running,
    /// Saved on disk, using no memory or CPU.
    Paused,
    /// Ended by itself or by timeout; the reason says which.
    Stopped,
    /// Failed; the reason says how.
    Error,
}

impl SandboxState {
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Running,
        Self::Paused,
        Self::Stopped,
        Self::Error,
    ];

    /// Returns true for states that a sandbox leaves only by being deleted.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Stopped | Self::Error)
    }

    /// Returns true if a report of `self` may be followed by a report of `next`. Reports can skip
    /// states in between.
    #[must_use]
    pub const fn can_become(self, next: Self) -> bool {
        match self {
            Self::Pending => true,
            Self::Running | Self::Paused => !matches!(next, Self::Pending),
            Self::Stopped => matches!(next, Self::Stopped),
            Self::Error => matches!(next, Self::Error),
        }
    }

    /// Returns the state as it stands in bodies and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Error => "error",
        }
    }
}

impl std::fmt::Display for SandboxState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for SandboxState {
    type Err = crate::InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| {
                crate::InvalidValue::new(
                    "status",
                    "must be pending, running, paused, stopped or error",
                )
            })
    }
}

/// Cause for which a sandbox stopped or failed. The text beside it says more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// A user deleted it.
    UserRequest,
    /// Nothing used it for its `timeout_sec`, and its `on_timeout` is `kill`.
    IdleTimeout,
    /// Its `ends_at` came.
    EndTime,
    /// Its guest powered itself off.
    GuestShutdown,
    /// Its guest rebooted itself.
    GuestReboot,
    /// The kernel of its guest panicked.
    GuestCrashed,
    /// Its virtual machine ended by itself.
    VmmExited,
    /// It could not be started.
    StartFailed,
    /// The disk of its host was full, and its disk is lost.
    OutOfDisk,
    /// Its host does not have it any more, or does not belong to the installation any more.
    HostLost,
}

impl StopReason {
    pub const ALL: [Self; 10] = [
        Self::UserRequest,
        Self::IdleTimeout,
        Self::EndTime,
        Self::GuestShutdown,
        Self::GuestReboot,
        Self::GuestCrashed,
        Self::VmmExited,
        Self::StartFailed,
        Self::OutOfDisk,
        Self::HostLost,
    ];

    /// Returns the cause as it stands in bodies and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UserRequest => "user_request",
            Self::IdleTimeout => "idle_timeout",
            Self::EndTime => "end_time",
            Self::GuestShutdown => "guest_shutdown",
            Self::GuestReboot => "guest_reboot",
            Self::GuestCrashed => "guest_crashed",
            Self::VmmExited => "vmm_exited",
            Self::StartFailed => "start_failed",
            Self::OutOfDisk => "out_of_disk",
            Self::HostLost => "host_lost",
        }
    }
}

impl std::str::FromStr for StopReason {
    type Err = crate::InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|reason| reason.as_str() == text).ok_or_else(|| {
            crate::InvalidValue::new("stop_reason", "is none that this version knows")
        })
    }
}

/// Number of changes of a sandbox. The owner of the state raises it with every change; a write or
/// report whose generation is not newer changes nothing, so late and doubled messages are harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// Generation of a row that no host has reported on yet.
    pub const FIRST: Self = Self(1);

    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_states_stay() {
        for from in SandboxState::ALL
            .into_iter()
            .filter(|state| state.is_terminal())
        {
            for to in SandboxState::ALL {
                assert_eq!(from.can_become(to), from == to);
            }
        }
    }

    #[test]
    fn nothing_returns_to_pending() {
        for from in [
            SandboxState::Running,
            SandboxState::Paused,
            SandboxState::Stopped,
            SandboxState::Error,
        ] {
            assert!(!from.can_become(SandboxState::Pending));
        }
    }

    #[test]
    fn spelling_round_trips() {
        for state in SandboxState::ALL {
            assert_eq!(state.as_str().parse::<SandboxState>().unwrap(), state);
        }
        for reason in StopReason::ALL {
            assert_eq!(reason.as_str().parse::<StopReason>().unwrap(), reason);
            let json = serde_json::to_string(&reason).unwrap();
            assert_eq!(json, format!("\"{}\"", reason.as_str()));
        }
    }
}
