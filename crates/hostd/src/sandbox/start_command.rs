//! The start command: its guest is told it after each boot and each restore, and runs it.
//!
//! It is in the record's spec. Being told the same one again is no news for a guest that has it in
//! its memory, so nothing is kept here about whether it was told: an agent that dies in between has
//! not made the sandbox ready, and the next start or resume tells it. A restored guest whose file
//! system is frozen takes it, too, and starts it once that is thawed.

use guest_rpc::command as rpc;
use guest_rpc::process::ProcessConfig;
use model::{RestartCondition, RestartPolicy, SupervisedCommand};

use super::handle::Handle;
use super::state::Phase;
use super::step_error::StepError;
use crate::operation::OperationError;

/// Most characters of a guest's reason.
const MAX_REASON: usize = 500;
const NO_REASON: &str = "the guest agent gave no reason";

/// Tells the guest the sandbox's start command, if it has one.
///
/// # Errors
/// Where a new sandbox's guest does not take it. One that is resumed runs on without it: its log
/// says so.
pub(super) async fn set_start_command(handle: &Handle) -> Result<(), OperationError> {
    let (command, is_new) = {
        let record = handle.record.borrow();
        let command = record.spec.start_command.clone();
        (command, record.phase == Phase::Creating)
    };
    let Some(command) = command else {
        return Ok(());
    };
    let Err(error) = handle.guest().supervise(to_message(command)).await else {
        return Ok(());
    };
    let reason = error.message.unwrap_or_else(|| NO_REASON.to_owned());
    let reason: String = reason.chars().take(MAX_REASON).collect();
    if is_new {
        return Err(StepError::NoStartCommand(reason).into());
    }
    let line = format!("the start command could not be given to the guest: {reason}");
    handle.log.add_event(&line);
    Ok(())
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
