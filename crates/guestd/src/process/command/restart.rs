//! State of restarts: when an ended command is started again. Pure: the caller measures time.
//!
//! ```text
//! running ── end that the policy restarts ──► waiting (back-off) ──► running
//!    └────── any other end, or stopped ──────────┴─────────────────► ended
//! ```
//!
//! The back-off has the shape of that of Kubernetes (KEP-4603): 1 s, doubled by each restart up to
//! 60 s, and from the beginning once a run has lasted for 10 minutes.

use std::time::Duration;

use guest_rpc::command as rpc;
use rpc::RestartCondition;

use crate::reaper::Exit;

/// Wait before the first restart.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait.
pub const MAX_WAIT: Duration = Duration::from_secs(60);
/// Time of running after which restarts count from the beginning.
pub const STABLE: Duration = Duration::from_secs(600);
/// Part of a wait that the jitter takes away at most, so that forks do not start all at once.
const JITTER: f64 = 0.25;

/// Policy for restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub condition: RestartCondition,
    /// Maximum number of restarts in a row.
    pub max_retries: Option<u32>,
}

impl Policy {
    /// Converts the policy of a request; a condition that is not known is never.
    pub fn from_message(message: &rpc::RestartPolicy) -> Self {
        let condition = message.condition.as_known();
        Self {
            condition: condition.unwrap_or(RestartCondition::RESTART_CONDITION_NEVER),
            max_retries: message.max_retries,
        }
    }

    fn to_message(self) -> rpc::RestartPolicy {
        rpc::RestartPolicy {
            condition: self.condition.into(),
            max_retries: self.max_retries,
            ..Default::default()
        }
    }

    fn restarts_after(self, exit: Exit) -> bool {
        match self.condition {
            RestartCondition::RESTART_CONDITION_ALWAYS => true,
            RestartCondition::RESTART_CONDITION_ON_FAILURE => exit != Exit::Code(0),
            RestartCondition::RESTART_CONDITION_UNSPECIFIED
            | RestartCondition::RESTART_CONDITION_NEVER => false,
        }
    }
}

/// What follows the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterRun {
    Restart { wait: Duration },
    End,
}

/// Restarts of one command.
#[derive(Debug, Clone, Copy)]
pub struct Restarts {
    pub policy: Policy,
    /// Number of all restarts.
    pub count: u64,
    /// Number of restarts since the beginning, or since a run that was stable.
    in_a_row: u32,
    /// Exit of the last run that ended.
    pub last_exit: Option<Exit>,
    is_stopped: bool,
}

impl Restarts {
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            count: 0,
            in_a_row: 0,
            last_exit: None,
            is_stopped: false,
        }
    }

    /// Makes the present run the last one.
    pub const fn stop(&mut self) {
        self.is_stopped = true;
    }

    pub const fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Records the end of a run that lasted for a time. `jitter` is a random number from 0 to 1.
    pub fn end_run(&mut self, exit: Exit, lasted: Duration, jitter: f64) -> AfterRun {
        self.last_exit = Some(exit);
        if lasted >= STABLE {
            self.in_a_row = 0;
        }
        let is_exhausted = self
            .policy
            .max_retries
            .is_some_and(|max| self.in_a_row >= max);
        if self.is_stopped || is_exhausted || !self.policy.restarts_after(exit) {
            return AfterRun::End;
        }
        let factor = 1_u32.checked_shl(self.in_a_row).unwrap_or(u32::MAX);
        let wait = FIRST_WAIT.saturating_mul(factor).min(MAX_WAIT);
        self.in_a_row = self.in_a_row.saturating_add(1);
        AfterRun::Restart {
            wait: wait.mul_f64(1.0 - JITTER * jitter.clamp(0.0, 1.0)),
        }
    }

    /// Records that the next run begins. Returns false if there is none: it was stopped.
    pub fn begin_run(&mut self) -> bool {
        if !self.is_stopped && self.last_exit.is_some() {
            self.count += 1;
        }
        !self.is_stopped
    }

    /// Returns the state as it is shown, with the time until the next start.
    pub fn to_message(self, next_start_ms: Option<i64>) -> rpc::Supervision {
        rpc::Supervision {
            policy: self.policy.to_message().into(),
            restarts: self.count,
            last_exit_code: self.last_exit.map(exit_code),
            next_start_ms,
            ..Default::default()
        }
    }
}

/// Returns the exit code of a shell.
pub const fn exit_code(exit: Exit) -> i32 {
    match exit {
        Exit::Code(code) => code,
        Exit::Signal(number, _) => 128 + number,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_policy() -> impl Strategy<Value = Policy> {
        let condition = prop_oneof![
            Just(RestartCondition::RESTART_CONDITION_NEVER),
            Just(RestartCondition::RESTART_CONDITION_ON_FAILURE),
            Just(RestartCondition::RESTART_CONDITION_ALWAYS),
        ];
        (condition, proptest::option::of(0_u32..9)).prop_map(|(condition, max_retries)| Policy {
            condition,
            max_retries,
        })
    }

    fn any_exit() -> impl Strategy<Value = Exit> {
        prop_oneof![
            Just(Exit::Code(0)),
            (1..256).prop_map(Exit::Code),
            (1..32).prop_map(|number| Exit::Signal(number, false)),
        ]
    }

    /// Exit, seconds of running, jitter.
    fn any_runs() -> impl Strategy<Value = Vec<(Exit, u64, f64)>> {
        let seconds = prop_oneof![4 => 0_u64..30, 1 => 590_u64..700];
        proptest::collection::vec((any_exit(), seconds, 0.0..=1.0), 1..80)
    }

    proptest! {
        #[test]
        fn restarts_follow_policy(policy in any_policy(), runs in any_runs()) {
            let mut restarts = Restarts::new(policy);
            // Restarts in a row, and the wait without jitter, as a model counts them.
            let mut in_a_row = 0;
            let mut expected = FIRST_WAIT;
            for (index, (exit, seconds, jitter)) in runs.into_iter().enumerate() {
                prop_assert!(restarts.begin_run());
                prop_assert_eq!(restarts.count, index as u64);
                let lasted = Duration::from_secs(seconds);
                if lasted >= STABLE {
                    (in_a_row, expected) = (0, FIRST_WAIT);
                }
                let is_wanted = match policy.condition {
                    RestartCondition::RESTART_CONDITION_ALWAYS => true,
                    RestartCondition::RESTART_CONDITION_ON_FAILURE => exit != Exit::Code(0),
                    _ => false,
                };
                let may = policy.max_retries.is_none_or(|max| in_a_row < max);
                let next = restarts.end_run(exit, lasted, jitter);
                prop_assert_eq!(restarts.last_exit, Some(exit));
                match next {
                    AfterRun::End => {
                        prop_assert!(!(is_wanted && may));
                        break;
                    }
                    AfterRun::Restart { wait } => {
                        prop_assert!(is_wanted && may);
                        prop_assert!(wait <= expected && wait >= expected.mul_f64(1.0 - JITTER));
                    }
                }
                in_a_row += 1;
                expected = (expected * 2).min(MAX_WAIT);
            }
        }

        #[test]
        fn stopped_command_never_restarts(policy in any_policy(), exit in any_exit()) {
            let mut restarts = Restarts::new(policy);
            prop_assert!(restarts.begin_run());
            restarts.stop();
            prop_assert_eq!(restarts.end_run(exit, Duration::ZERO, 0.5), AfterRun::End);
            prop_assert!(!restarts.begin_run());
            prop_assert_eq!(restarts.count, 0);
        }
    }

    #[test]
    fn waits_double_up_to_minute() {
        let mut restarts = Restarts::new(Policy {
            condition: RestartCondition::RESTART_CONDITION_ALWAYS,
            max_retries: None,
        });
        let mut waits = Vec::new();
        for _ in 0..40 {
            match restarts.end_run(Exit::Code(0), Duration::ZERO, 0.0) {
                AfterRun::Restart { wait } => waits.push(wait.as_secs()),
                AfterRun::End => unreachable!("always"),
            }
        }
        assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(waits[39], 60);
    }
}
