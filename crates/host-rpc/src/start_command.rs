//! The start command of a sandbox, and its restarts, as messages.

use model::{RestartCondition, RestartPolicy, SupervisedCommand};

/// Converts a start command to its message.
#[must_use]
pub fn to_message(command: SupervisedCommand) -> crate::SupervisedCommand {
    let SupervisedCommand {
        cmd,
        args,
        envs,
        cwd,
        user,
        restart,
    } = command;
    crate::SupervisedCommand {
        cmd,
        args,
        envs: envs.into_iter().collect(),
        cwd,
        user,
        restart: policy_to_message(restart).into(),
        ..crate::SupervisedCommand::default()
    }
}

/// Converts a message to a start command, unchecked.
#[must_use]
pub fn from_message(message: &crate::SupervisedCommand) -> SupervisedCommand {
    let message = message.clone();
    let restart = message.restart.as_option();
    SupervisedCommand {
        restart: restart.map(policy_from_message).unwrap_or_default(),
        cmd: message.cmd,
        args: message.args,
        envs: message.envs.into_iter().collect(),
        cwd: message.cwd,
        user: message.user,
    }
}

/// Converts a policy for restarts to its message.
#[must_use]
pub fn policy_to_message(policy: RestartPolicy) -> crate::RestartPolicy {
    let condition = match policy.condition {
        RestartCondition::Never => crate::RestartCondition::RESTART_CONDITION_NEVER,
        RestartCondition::OnFailure => crate::RestartCondition::RESTART_CONDITION_ON_FAILURE,
        RestartCondition::Always => crate::RestartCondition::RESTART_CONDITION_ALWAYS,
    };
    crate::RestartPolicy {
        condition: condition.into(),
        max_retries: policy.max_retries,
        ..crate::RestartPolicy::default()
    }
}

/// Converts a message to a policy for restarts.
#[must_use]
pub fn policy_from_message(message: &crate::RestartPolicy) -> RestartPolicy {
    let condition = match message.condition.as_known() {
        Some(crate::RestartCondition::RESTART_CONDITION_ON_FAILURE) => RestartCondition::OnFailure,
        Some(crate::RestartCondition::RESTART_CONDITION_ALWAYS) => RestartCondition::Always,
        Some(
            crate::RestartCondition::RESTART_CONDITION_NEVER
            | crate::RestartCondition::RESTART_CONDITION_UNSPECIFIED,
        )
        | None => RestartCondition::Never,
    };
    RestartPolicy {
        condition,
        max_retries: message.max_retries,
    }
}
