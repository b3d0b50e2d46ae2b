//! The life of a sandbox on this host, as a pure function from phase and event to the next phase.
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
//!                                  roll back
//!   any ──remove──→ Removing ──released──→ Gone
//! ```
//!
//! | phase | on disk | owns | if the agent dies here, the next one |
//! |---|---|---|---|
//! | Creating | ledger, maybe half a disk | slot, maybe a VM | removes everything (nobody was promised anything) |
//! | Running | ledger, disk; a saved state there is old and is removed | slot, VM | adopts the VM, or ends the sandbox if the VM is no more |
//! | Pausing | ledger, disk, maybe the saved state, which counts only if the VM is gone | slot, VM | lets it run on; without a VM it is paused if the state is whole |
//! | Suspending | ledger, disk, saved state, maybe a checkpoint that is to take their place | maybe slot and VM | goes on suspending |
//! | Paused | ledger, disk, saved state | nothing | keeps it |
//! | Resuming | ledger, disk, saved state | slot, maybe a VM | ends the VM; it stays paused |
//! | Releasing | ledger with the reason, maybe a disk | maybe slot and VM | goes on releasing |
//! | Ended | ledger, log | nothing | keeps it until it is removed |
//! | Removing | ledger, maybe a disk | maybe slot and VM | goes on removing |
//! | Gone | nothing | nothing | – |
//!
//! The actor ([`super::actor`]) writes the next phase into the ledger before it acts on it.

use model::SandboxState;
use serde::{Deserialize, Serialize};
use vmm::Exit;

/// How a sandbox ended, in words for the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Failed, or just over.
    pub failed: bool,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    Creating,
    Running,
    Pausing,
    /// Its state is safe; the VM goes.
    Suspending {
        /// Why it is not running, if there is more to say than that it was paused.
        #[serde(default)]
        why: String,
        /// A checkpoint is ready to take the place of memory and disk.
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
    /// Never written: there is no ledger any more.
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The guest agent has confirmed that it is ready.
    Ready,
    /// The sandbox could not be made.
    Failed(String),
    /// The VM is no more.
    Exited(Exit),
    /// There was no activity for as many seconds as the sandbox may be idle, and it is to end then.
    Idle(u32),
    /// Somebody, or its idleness, wants it paused.
    Pause,
    /// Memory and disk are safe.
    Saved,
    /// They could not be saved; the VM runs.
    NotSaved,
    Resume,
    /// The guest did not come back; its saved state is as it was.
    NotResumed(String),
    /// A checkpoint is to take the place of memory and disk.
    RollBack,
    /// VM, network and disk are given back.
    Released,
    /// Somebody wants the sandbox not to exist.
    Remove,
    /// The agent has just started and read this phase from the ledger.
    Restarted,
}

impl Phase {
    /// The phase after `event`. An event that means nothing in this phase changes nothing.
    #[must_use]
    pub fn after(self, event: Event) -> Self {
        match (self, event) {
            (Self::Gone, _) => Self::Gone,
            (Self::Removing, Event::Released) => Self::Gone,
            (Self::Removing, _) | (_, Event::Remove) | (Self::Creating, Event::Restarted) => {
                Self::Removing
            }
            (Self::Creating | Self::Resuming, Event::Ready) | (Self::Pausing, Event::NotSaved) => {
                Self::Running
            }
            (Self::Creating, Event::Failed(reason)) => Self::Releasing {
                end: End {
                    failed: true,
                    reason,
                },
            },
            (Self::Creating | Self::Running | Self::Pausing, Event::Exited(exit)) => {
                Self::Releasing { end: exit.into() }
            }
            (Self::Running, Event::Idle(seconds)) => Self::Releasing { end: idle(seconds) },
            (Self::Releasing { end }, Event::Released) => Self::Ended { end },
            (Self::Running, Event::Pause) => Self::Pausing,
            (Self::Pausing, Event::Saved) => suspending(String::new()),
            (Self::Running | Self::Paused { .. }, Event::RollBack) => Self::Suspending {
                why: String::new(),
                rollback: true,
            },
            (Self::Suspending { why, .. }, Event::Released) => Self::Paused { why },
            (Self::Paused { .. }, Event::Resume) => Self::Resuming,
            (Self::Resuming, Event::NotResumed(why) | Event::Failed(why)) => {
                suspending(not_back(&why))
            }
            (Self::Resuming, Event::Exited(exit)) => suspending(not_back(&End::from(exit).reason)),
            (Self::Resuming, Event::Restarted) => {
                suspending(not_back("the host agent ended meanwhile"))
            }
            (phase, _) => phase,
        }
    }

    /// What users see.
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

    /// Why it is stopped or in error, or paused without having been asked to.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Releasing { end } | Self::Ended { end } => &end.reason,
            Self::Removing => "it is being removed",
            Self::Suspending { why, .. } | Self::Paused { why } => why,
            Self::Creating | Self::Running | Self::Pausing | Self::Resuming | Self::Gone => "",
        }
    }

    /// Whether there may be a VM, a network or a disk device.
    #[must_use]
    pub fn may_hold_resources(&self) -> bool {
        !matches!(self, Self::Ended { .. } | Self::Gone | Self::Paused { .. })
    }

    /// Whether it has come to an end that nothing follows but its removal.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Ended { .. } | Self::Gone)
    }

    /// Whether its VM runs or only stands still for a moment.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Running | Self::Pausing)
    }
}

fn suspending(why: String) -> Phase {
    Phase::Suspending {
        why,
        rollback: false,
    }
}

fn not_back(reason: &str) -> String {
    format!("it could not be resumed: {reason}")
}

fn idle(seconds: u32) -> End {
    End {
        failed: false,
        reason: format!("no activity for {seconds} s (its timeout_sec)"),
    }
}

impl From<Exit> for End {
    fn from(exit: Exit) -> Self {
        let (failed, reason) = match exit {
            Exit::Shutdown => (false, "the guest powered itself off".to_owned()),
            Exit::Reset => (
                false,
                "the guest rebooted itself, which ends a sandbox".to_owned(),
            ),
            Exit::Panic(message) => (true, format!("the guest's kernel panicked: {message}")),
            Exit::Vmm(message) => (true, format!("the virtual machine ended: {message}")),
        };
        Self { failed, reason }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Ready),
            Just(Event::Failed("no room".to_owned())),
            Just(Event::Exited(Exit::Shutdown)),
            Just(Event::Exited(Exit::Reset)),
            Just(Event::Exited(Exit::Panic(
                "Attempted to kill init!".to_owned()
            ))),
            Just(Event::Exited(Exit::Vmm("signal 9".to_owned()))),
            Just(Event::Idle(300)),
            Just(Event::Pause),
            Just(Event::Saved),
            Just(Event::NotSaved),
            Just(Event::Resume),
            Just(Event::NotResumed("the disk was full".to_owned())),
            Just(Event::RollBack),
            Just(Event::Released),
            Just(Event::Restarted),
        ]
    }

    fn reach(events: &[Event]) -> Phase {
        events.iter().cloned().fold(Phase::Creating, Phase::after)
    }

    proptest! {
        /// Wherever it is, remove and then released end it.
        #[test]
        fn every_sandbox_can_be_removed(events in prop::collection::vec(event(), 0..12)) {
            prop_assert_eq!(reach(&events).after(Event::Remove).after(Event::Released), Phase::Gone);
        }

        /// Once removal is asked, nothing but its end follows: a late guest cannot bring it back.
        #[test]
        fn removal_outranks_everything(
            before in prop::collection::vec(event(), 0..8),
            after in prop::collection::vec(event(), 0..8),
        ) {
            let phase = after.into_iter().fold(reach(&before).after(Event::Remove), Phase::after);
            prop_assert!(matches!(phase, Phase::Removing | Phase::Gone));
        }

        /// Users only ever see moves that the public state machine allows, and a reason for every
        /// end.
        #[test]
        fn public_moves_are_legal(events in prop::collection::vec(event(), 0..12)) {
            let mut phase = Phase::Creating;
            for event in events {
                let next = phase.clone().after(event);
                if !matches!(next, Phase::Removing | Phase::Gone) {
                    prop_assert!(phase.state().can_become(next.state()), "{phase:?} to {next:?}");
                    prop_assert!(!next.state().is_terminal() || !next.reason().is_empty());
                }
                phase = next;
            }
        }

        /// Resources are given back before a sandbox counts as ended.
        #[test]
        fn nothing_ends_unreleased(events in prop::collection::vec(event(), 1..12)) {
            let (last, before) = events.split_last().unwrap();
            let (was, is) = (reach(before), reach(&events));
            if was.may_hold_resources() && !is.may_hold_resources() {
                prop_assert_eq!(last, &Event::Released);
            }
        }

        /// A restart never loses a promise: what ran, was paused or had ended still does.
        #[test]
        fn restarts_keep_what_was_promised(events in prop::collection::vec(event(), 0..12)) {
            let phase = reach(&events);
            if phase != Phase::Creating {
                prop_assert_eq!(phase.clone().after(Event::Restarted).state(), phase.state());
            }
        }

        /// A sandbox whose state was saved is never lost by an attempt to resume it.
        #[test]
        fn only_a_guest_that_is_back_leaves_the_saved_state(
            before in prop::collection::vec(event(), 0..12),
            after in prop::collection::vec(event(), 0..12),
        ) {
            let mut phase = reach(&before);
            for event in after {
                let was_saved = phase.state() == SandboxState::Paused;
                let leaves = event == Event::Ready;
                phase = phase.after(event);
                prop_assert!(!was_saved || leaves || phase.state() == SandboxState::Paused, "{phase:?}");
            }
        }
    }
}
