//! Background commands as a guest describes them, in the form of the control plane's protocol and
//! within bounds.

use guest_rpc::command as guest;
use host_rpc as rpc;

/// Most commands of one list; a guest of ours keeps fewer.
const MAX_COMMANDS: usize = 256;
/// Most characters of each text that the guest says about a command, and most arguments.
const MAX_TEXT: usize = 4096;
const MAX_ARGS: usize = 4096;

/// Converts a guest's list of commands.
pub fn checked_list(commands: Vec<guest::Command>) -> Vec<rpc::Command> {
    let commands = commands.into_iter().take(MAX_COMMANDS);
    commands.map(checked).collect()
}

/// Converts what a guest says of a command.
pub fn checked(command: guest::Command) -> rpc::Command {
    let cut = |text: String| -> String { text.chars().take(MAX_TEXT).collect() };
    let args_truncated = command.args_truncated || command.args.len() > MAX_ARGS;
    rpc::Command {
        id: cut(command.id),
        name: command.name.map(cut),
        pid: command.pid,
        cmd: cut(command.cmd),
        args: command.args.into_iter().take(MAX_ARGS).map(cut).collect(),
        args_truncated,
        terminal: command.terminal,
        keep_alive: command.keep_alive,
        started_ms: command.started_ms,
        ended_ms: command.ended_ms,
        exit_code: command.exit_code,
        signal: command.signal,
        timed_out: command.timed_out,
        output_start: command.output_start.min(command.output_end),
        output_end: command.output_end,
        supervision: command.supervision.into_option().map(supervision).into(),
        ..Default::default()
    }
}

fn supervision(supervision: guest::Supervision) -> rpc::Supervision {
    let policy = supervision.policy.as_option();
    let condition = policy.and_then(|policy| policy.condition.as_known());
    let condition = match condition.unwrap_or_default() {
        guest::RestartCondition::RESTART_CONDITION_ON_FAILURE => {
            rpc::RestartCondition::RESTART_CONDITION_ON_FAILURE
        }
        guest::RestartCondition::RESTART_CONDITION_ALWAYS => {
            rpc::RestartCondition::RESTART_CONDITION_ALWAYS
        }
        guest::RestartCondition::RESTART_CONDITION_NEVER
        | guest::RestartCondition::RESTART_CONDITION_UNSPECIFIED => {
            rpc::RestartCondition::RESTART_CONDITION_NEVER
        }
    };
    let policy = rpc::RestartPolicy {
        condition: condition.into(),
        max_retries: policy.and_then(|policy| policy.max_retries),
        ..Default::default()
    };
    rpc::Supervision {
        policy: policy.into(),
        restarts: supervision.restarts,
        last_exit_code: supervision.last_exit_code,
        next_start_ms: supervision.next_start_ms,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_guest_are_bounded() {
        let hostile = guest::Command {
            id: "x".repeat(10_000),
            args: vec![String::new(); 10_000],
            output_start: 9,
            output_end: 5,
            ..Default::default()
        };
        let command = checked(hostile);
        assert_eq!((command.id.len(), command.args.len()), (MAX_TEXT, MAX_ARGS));
        assert!(command.args_truncated);
        assert_eq!((command.output_start, command.output_end), (5, 5));
    }
}
