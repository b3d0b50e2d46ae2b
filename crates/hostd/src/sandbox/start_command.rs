//! The start command: its guest is told it after each boot and each restore, and runs it.
//!
//! It is in the record's spec. Being told the same one again is no news for a guest that has it in
//! its memory, so nothing is kept here about whether it was told:
//!
//! | when | who tells it | a guest that does not take it |
//! |---|---|---|
//! | create, fork | [`set_in_new_guest`] | the sandbox does not start |
//! | from then on, resumed or found by the next agent | [`keep_set`] | runs on; its log says so, and it is told again |
//!
//! All of the latter have it in their memory unless an agent died in between, so no resume waits for
//! this. One that has ended for good in the guest that a template was made of is started anew for a
//! create that asks for it, and stays ended in all other cases. A restored guest whose file system is frozen takes it, too, and starts it once that is
//! thawed.

use std::time::Duration;

use connectrpc::ErrorCode;
use guest_rpc::command as rpc;
use guest_rpc::process::ProcessConfig;
use model::{RestartCondition, RestartPolicy, SupervisedCommand};

use super::handle::Handle;
use super::state::Phase;
use super::step_error::StepError;

/// Most characters of a guest's reason.
const MAX_REASON: usize = 500;
const NO_REASON: &str = "the guest agent gave no reason";
/// Time for a new guest to take it: one that was just booted, beside many others.
const NEW_GUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The same for a guest that has it already.
const TIMEOUT: Duration = Duration::from_secs(5);
/// First pause between attempts, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Tells the guest of a new sandbox its start command, if it has one. With `restart_ended` one that
/// has ended for good is started anew.
///
/// # Errors
/// Where the guest does not take it.
pub(super) async fn set_in_new_guest(
    handle: &Handle,
    restart_ended: bool,
) -> Result<(), StepError> {
    if handle.record.borrow().phase != Phase::Creating {
        return Ok(());
    }
    try_set(handle, restart_ended, NEW_GUEST_TIMEOUT).await
}

/// Tells the guest of a running sandbox its start command, again and again until it takes it. Never
/// returns.
pub(super) async fn keep_set(handle: &Handle) {
    let mut pause = FIRST_PAUSE;
    let mut has_failed = false;
    while let Err(error) = try_set(handle, false, TIMEOUT).await {
        let is_refused = matches!(
            error,
            StepError::NoStartCommand {
                is_refused: true,
                ..
            }
        );
        if !has_failed {
            handle.log.add_event(&error.to_string());
        }
        if is_refused {
            // It would say the same again.
            return std::future::pending().await;
        }
        has_failed = true;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    if has_failed {
        handle.log.add_event("the guest has its start command");
    }
    std::future::pending().await
}

async fn try_set(handle: &Handle, restart_ended: bool, timeout: Duration) -> Result<(), StepError> {
    let command = handle.record.borrow().spec.start_command.clone();
    let Some(command) = command else {
        return Ok(());
    };
    let request = rpc::SuperviseRequest {
        restart_ended,
        ..to_message(command)
    };
    let set = handle.guest().supervise(request, timeout).await;
    set.map_err(|error| {
        let reason = error.message.unwrap_or_else(|| NO_REASON.to_owned());
        StepError::NoStartCommand {
            reason: reason.chars().take(MAX_REASON).collect(),
            is_refused: matches!(
                error.code,
                ErrorCode::FailedPrecondition | ErrorCode::InvalidArgument
            ),
        }
    })
}

fn to_message(command: SupervisedCommand) -> rpc::SuperviseRequest {
    let SupervisedCommand {
        cmd,
        args,
        envs,
        cwd,
        user,
        restart,
    } = command;
    let process = ProcessConfig {
        cmd,
        args,
        envs: envs.into_iter().collect(),
        cwd,
        ..Default::default()
    };
    rpc::SuperviseRequest {
        process: process.into(),
        user,
        restart: policy(restart).into(),
        ..Default::default()
    }
}

fn policy(policy: RestartPolicy) -> rpc::RestartPolicy {
    let condition = match policy.condition {
        RestartCondition::Never => rpc::RestartCondition::RESTART_CONDITION_NEVER,
        RestartCondition::OnFailure => rpc::RestartCondition::RESTART_CONDITION_ON_FAILURE,
        RestartCondition::Always => rpc::RestartCondition::RESTART_CONDITION_ALWAYS,
    };
    rpc::RestartPolicy {
        condition: condition.into(),
        max_retries: policy.max_retries,
        ..Default::default()
    }
}
