//! The life of a sandbox on this host, as a pure function from phase and event to the next phase
//! ([`Phase::transition`]).
//!
//! ```text
//!   Creating ──ready──→ Running ──exit, idle──→ Releasing ──released──→ Ended
//!      │                 │   ↑ ↑                   ↑
//!      └─────────────────┼───┼─┼──── failed ───────┘
//!           pause, idle  │   │ └──────ready─────────────────┐
//!                        ↓   │ not saved                    │
//!                      Pausing ──saved──→ Suspending ─────→ Paused ──resume──→ Resuming
//!                                          ↑  ↑    released                     │
//!                       Running, Paused ───┘  └────────── not resumed ──────────┘
//!                                  rollback
//!   Running, Paused ──stop──→ Releasing
//!   any ──remove──→ Removing ──released──→ Gone
//! ```
//!
//! | phase | on disk | owns | if the agent dies here, the next one |
//! |---|---|---|---|
//! | Creating | ledger, maybe half a disk | slot, maybe a VM | removes everything: no caller has a response yet |
//! | Running | ledger, disk; a saved state there is old and is removed | slot, VM | adopts the VM, or ends the sandbox if the VM is no more |
//! | Pausing | ledger, disk, maybe the saved state, which counts only if the VM is gone | slot, VM | lets it run on; without a VM it is paused if the state is whole |
//! | Suspending | ledger, disk, saved state, maybe a checkpoint that is to replace them | maybe slot and VM | goes on suspending |
//! | Paused | ledger, disk, saved state | nothing | keeps it |
//! | Resuming | ledger, disk, saved state | slot, maybe a VM | ends the VM; it stays paused |
//! | Releasing | ledger with the reason, maybe a disk | maybe slot and VM | goes on releasing |
//! | Ended | ledger, log | nothing | keeps it until it is removed |
//! | Removing | ledger, maybe a disk | maybe slot and VM | goes on removing |
//! | Gone | nothing | nothing | – |
//!
//! The actor ([`super::actor`]) writes the next phase into the ledger before it acts on it. What
//! happens where it cannot be written is part of the transition ([`IfUnwritten`]).

use model::{SandboxState, StopReason};
use serde::{Deserialize, Serialize};
use stdx::error::chain;
use vmm::Exit;

use crate::network::Slot;
use crate::operation::{OperationError, OperationKind};

/// End of a sandbox, with a reason for the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// If true, users see the state `error`, else `stopped`.
    pub failed: bool,
    pub reason: String,
    /// The same reason, of the closed list; `None` in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<StopReason>,
    /// True if it was never created, because its guest cannot do what the request asks for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
}

/// Phase of a sandbox's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    Creating,
    Running,
    Pausing,
    /// Its state is saved; VM, network and disk device are being released.
    Suspending {
        /// Reason for which it is not running, if it was not paused by a command.
        #[serde(default)]
        why: String,
        /// A checkpoint is ready to replace memory and disk.
        #[serde(default)]
        rollback: bool,
    },
    Paused {
        #[serde(default)]
        why: String,
    },
    Resuming,
    Releasing {
        end: End,
    },
    Ended {
        end: End,
    },
    Removing,
    /// Never written: the record is removed.
    Gone,
}

/// Event of a sandbox, with all that the next phase needs.
#[derive(Debug, Clone)]
pub enum Event {
    /// The guest agent has confirmed that it is ready.
    Ready,
    /// The sandbox could not be created, or not be resumed; a saved state is as it was.
    Failed(OperationError),
    /// The VM has ended.
    Exited(Exit),
    /// The sandbox was idle for its timeout, in seconds, and is to end.
    Idle { seconds: u32 },
    /// The disk is lost, with the reason.
    DiskLost(String),
    /// A command ends it.
    Stop(End),
    /// A command, or idleness, pauses it.
    Pause,
    /// Memory and disk are saved.
    Saved,
    /// They could not be saved, or are needed; the VM runs.
    NotSaved(OperationError),
    /// A command resumes it, in the network of this slot.
    Resume { slot: Slot },
    /// A checkpoint is ready to replace memory and disk.
    Rollback,
    /// VM, network and disk are released.
    Released,
    /// A command removes it.
    Remove,
    /// The agent has just started and read this phase from the ledger.
    Restarted,
}

/// Result of an event: the next phase and slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    pub phase: Phase,
    pub slot: Option<Slot>,
    pub if_unwritten: IfUnwritten,
}

/// Handling of a record of the next phase that cannot be written, such that nothing is promised,
/// and nothing discarded, that a restart would not find in the former record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfUnwritten {
    /// The next phase begins all the same: a restart goes from the old record to the same end.
    Proceed,
    /// The next phase does not begin.
    Stay,
    /// The create or resume has failed ([`Event::Failed`]).
    Fail,
}

impl Phase {
    /// Returns what `event` changes. An event that means nothing in this phase changes nothing.
    #[must_use]
    pub fn transition(&self, slot: Option<Slot>, event: &Event) -> Transition {
        let phase = self.clone().after(event.clone());
        let slot = match event {
            _ if phase == *self => slot,
            Event::Released => None,
            Event::Resume { slot } => Some(*slot),
            _ => slot,
        };
        let if_unwritten = match (self, &phase) {
            (Self::Creating | Self::Resuming, Self::Running) => IfUnwritten::Fail,
            (Self::Running, Self::Pausing)
            | (Self::Paused { .. }, Self::Releasing { .. })
            | (Self::Paused { .. }, Self::Resuming)
            | (_, Self::Suspending { rollback: true, .. }) => IfUnwritten::Stay,
            _ => IfUnwritten::Proceed,
        };
        Transition {
            phase,
            slot,
            if_unwritten,
        }
    }

    /// Returns the phase after `event`.
    #[must_use]
    pub fn after(self, event: Event) -> Self {
        match (self, event) {
            (Self::Gone, _) => Self::Gone,
            (Self::Removing, Event::Released) => Self::Gone,
            (Self::Removing, _) | (_, Event::Remove) | (Self::Creating, Event::Restarted) => {
                Self::Removing
            }
            (Self::Creating | Self::Resuming, Event::Ready)
            | (Self::Pausing, Event::NotSaved(_)) => Self::Running,
            (Self::Creating, Event::Failed(error)) => Self::Releasing {
                end: End {
                    failed: true,
                    reason: chain(&error),
                    cause: Some(StopReason::StartFailed),
                    refused: error.kind() == OperationKind::Spec,
                },
            },
            (Self::Creating | Self::Running | Self::Pausing, Event::Exited(exit)) => {
                Self::Releasing { end: exit.into() }
            }
            (Self::Running, Event::Idle { seconds }) => Self::Releasing {
                end: End {
                    failed: false,
                    reason: format!("no activity for {seconds} s (its timeout_sec)"),
                    cause: Some(StopReason::IdleTimeout),
                    refused: false,
                },
            },
            (Self::Running, Event::DiskLost(reason)) => Self::Releasing {
                end: End {
                    cause: Some(StopReason::OutOfDisk),
                    ..End::from(Exit::Vmm(reason))
                },
            },
            (Self::Running | Self::Paused { .. }, Event::Stop(end)) => Self::Releasing { end },
            (Self::Releasing { end }, Event::Released) => Self::Ended { end },
            (Self::Running, Event::Pause) => Self::Pausing,
            (Self::Pausing, Event::Saved) => Self::Suspending {
                why: String::new(),
                rollback: false,
            },
            (Self::Running | Self::Paused { .. }, Event::Rollback) => Self::Suspending {
                why: String::new(),
                rollback: true,
            },
            (Self::Suspending { why, .. }, Event::Released) => Self::Paused { why },
            (Self::Paused { .. }, Event::Resume { .. }) => Self::Resuming,
            (Self::Resuming, Event::Failed(error)) => resume_failed(&chain(&error)),
            (Self::Resuming, Event::Exited(exit)) => resume_failed(&End::from(exit).reason),
            (Self::Resuming, Event::Restarted) => resume_failed("the host agent ended meanwhile"),
            (phase, _) => phase,
        }
    }

    /// Returns the state that users see.
    #[must_use]
    pub fn state(&self) -> SandboxState {
        match self {
            Self::Creating => SandboxState::Pending,
            Self::Running | Self::Pausing => SandboxState::Running,
            Self::Suspending { .. } | Self::Paused { .. } | Self::Resuming => SandboxState::Paused,
            Self::Releasing { end } | Self::Ended { end } if end.failed => SandboxState::Error,
            Self::Releasing { .. } | Self::Ended { .. } | Self::Removing | Self::Gone => {
                SandboxState::Stopped
            }
        }
    }

    /// Returns why it is stopped, in error, or paused without a command; empty otherwise.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Releasing { end } | Self::Ended { end } => &end.reason,
            Self::Removing => "it is being removed",
            Self::Suspending { why, .. } | Self::Paused { why } => why,
            Self::Creating | Self::Running | Self::Pausing | Self::Resuming | Self::Gone => "",
        }
    }

    /// Returns the cause for which it has ended or is being removed.
    #[must_use]
    pub fn stop_reason(&self) -> Option<StopReason> {
        match self {
            Self::Releasing { end } | Self::Ended { end } => end.cause,
            Self::Removing | Self::Gone => Some(StopReason::UserRequest),
            _ => None,
        }
    }

    /// Returns true if it was never created, because the request asks for what its guest cannot do.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Releasing { end } | Self::Ended { end } => end.refused,
            _ => false,
        }
    }

    /// Returns true if there may be a VM, a network or a disk device.
    #[must_use]
    pub fn may_hold_resources(&self) -> bool {
        !matches!(self, Self::Ended { .. } | Self::Gone | Self::Paused { .. })
    }

    /// Returns true if only its removal can follow.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Ended { .. } | Self::Gone)
    }

    /// Returns true if its VM runs, or is only stopped for a snapshot.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Running | Self::Pausing)
    }
}

fn resume_failed(reason: &str) -> Phase {
    Phase::Suspending {
        why: format!("it could not be resumed: {reason}"),
        rollback: false,
    }
}

impl From<Exit> for End {
    fn from(exit: Exit) -> Self {
        let cause = match exit {
            Exit::Shutdown => StopReason::GuestShutdown,
            Exit::Reset => StopReason::GuestReboot,
            Exit::Panic(_) => StopReason::GuestCrashed,
            Exit::Vmm(_) => StopReason::VmmExited,
        };
        let (failed, reason) = match exit {
            Exit::Shutdown => (false, "the guest powered itself off".to_owned()),
            Exit::Reset => (
                false,
                "the guest rebooted itself, which ends a sandbox".to_owned(),
            ),
            Exit::Panic(message) => (true, format!("the guest's kernel panicked: {message}")),
            Exit::Vmm(message) => (true, format!("the virtual machine ended: {message}")),
        };
        Self {
            failed,
            reason,
            cause: Some(cause),
            refused: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        let error = || OperationKind::Disk.error(std::io::Error::other("no room"));
        prop_oneof![
            Just(Event::Ready),
            Just(Event::Failed(error())),
            Just(Event::Exited(Exit::Shutdown)),
            Just(Event::Exited(Exit::Reset)),
            Just(Event::Exited(Exit::Panic(
                "Attempted to kill init!".to_owned()
            ))),
            Just(Event::Exited(Exit::Vmm("signal 9".to_owned()))),
            Just(Event::Idle { seconds: 300 }),
            Just(Event::DiskLost("full".to_owned())),
            Just(Event::Stop(End {
                failed: false,
                reason: "its end has come".to_owned(),
                cause: Some(StopReason::EndTime),
                refused: false,
            })),
            Just(Event::Pause),
            Just(Event::Saved),
            Just(Event::NotSaved(error())),
            Just(Event::Resume {
                slot: Slot::new(7).unwrap()
            }),
            Just(Event::Rollback),
            Just(Event::Released),
            Just(Event::Restarted),
        ]
    }

    fn events(most: usize) -> impl Strategy<Value = Vec<Event>> {
        prop::collection::vec(event(), 0..most)
    }

    fn reach(events: &[Event]) -> Phase {
        events.iter().cloned().fold(Phase::Creating, Phase::after)
    }

    proptest! {
        /// Wherever it is, remove and then released end it.
        #[test]
        fn every_sandbox_can_be_removed(events in events(12)) {
            let removed = reach(&events).after(Event::Remove);
            prop_assert_eq!(removed.after(Event::Released), Phase::Gone);
        }

        /// Once removal is asked, nothing but its end follows: a late guest cannot bring it back.
        #[test]
        fn removal_outranks_everything(before in events(8), after in events(8)) {
            let removed = reach(&before).after(Event::Remove);
            let phase = after.into_iter().fold(removed, Phase::after);
            prop_assert!(matches!(phase, Phase::Removing | Phase::Gone));
        }

        /// Users only ever see transitions that the public state machine allows, and a reason for
        /// every end.
        #[test]
        fn public_transitions_are_allowed(events in events(12)) {
            let mut phase = Phase::Creating;
            for event in events {
                let next = phase.clone().after(event);
                if !matches!(next, Phase::Removing | Phase::Gone) {
                    prop_assert!(phase.state().can_become(next.state()), "{phase:?} to {next:?}");
                    prop_assert!(!next.state().is_terminal() || !next.reason().is_empty());
                    prop_assert_eq!(next.state().is_terminal(), next.stop_reason().is_some());
                }
                phase = next;
            }
        }

        /// Resources are released before a sandbox counts as ended.
        #[test]
        fn nothing_ends_unreleased(before in events(11), last in event()) {
            let phase = reach(&before);
            let next = phase.clone().after(last.clone());
            if phase.may_hold_resources() && !next.may_hold_resources() {
                prop_assert!(matches!(last, Event::Released), "{last:?}");
            }
        }

        /// A restart never loses a promise: what ran, was paused or had ended still does.
        #[test]
        fn restart_keeps_what_was_promised(events in events(12)) {
            let phase = reach(&events);
            if phase != Phase::Creating {
                prop_assert_eq!(phase.clone().after(Event::Restarted).state(), phase.state());
            }
        }

        /// A sandbox whose state was saved is never lost by an attempt to resume it, but by a command
        /// that ends it.
        #[test]
        fn only_ready_guest_leaves_saved_state(before in events(12), after in events(12)) {
            let mut phase = reach(&before);
            for event in after {
                let was_saved = phase.state() == SandboxState::Paused;
                let leaves = matches!(event, Event::Ready | Event::Stop(_));
                phase = phase.after(event);
                prop_assert!(!was_saved || leaves || phase.state() == SandboxState::Paused, "{phase:?}");
            }
        }

        /// If a record cannot be written, only phases begin that the former record leads to: no
        /// sandbox is reported as running, and no saved state is given up.
        #[test]
        fn unwritten_record_promises_nothing(before in events(12), last in event()) {
            let phase = reach(&before);
            let transition = phase.transition(None, &last);
            let lost = OperationKind::Ledger.error(std::io::Error::other("it cannot be written"));
            let unwritten = match transition.if_unwritten {
                IfUnwritten::Proceed => transition.phase,
                IfUnwritten::Stay => phase.clone(),
                IfUnwritten::Fail => phase.clone().after(Event::Failed(lost)),
            };
            let is_up = unwritten.is_up();
            prop_assert!(!is_up || phase.is_up(), "{phase:?} to {unwritten:?}");
            if phase.state() == SandboxState::Paused {
                prop_assert_eq!(unwritten.state(), SandboxState::Paused);
            }
        }

        /// A slot comes with a resume and goes when all is released.
        #[test]
        fn slot_follows_phase(before in events(12), last in event()) {
            let phase = reach(&before);
            let own = Slot::new(1);
            let transition = phase.transition(own, &last);
            let expected = match &last {
                _ if transition.phase == phase => own,
                Event::Released => None,
                Event::Resume { slot } => Some(*slot),
                _ => own,
            };
            prop_assert_eq!(transition.slot, expected);
        }
    }
}
