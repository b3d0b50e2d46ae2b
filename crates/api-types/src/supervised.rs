//! The start command of a sandbox, and its restarts.

use std::collections::BTreeMap;

use model::{InvalidValue, RestartPolicy};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use model::RestartCondition;

/// Command that runs from the start of the sandbox on, and after each boot of its disk. It is run
/// directly, not by a shell. Of its bytes `cmd`, `args` and `envs` have at most 64 KiB together. It
/// is a background command named `start`; one that cannot be started has the reason as its output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SupervisedCommand {
    /// Name or path of the program.
    #[schema(example = "python3")]
    pub cmd: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["-m", "http.server"]))]
    pub args: Vec<String>,
    /// Of lists: not all arguments are in `args`, which has the first of them there, up to 4 KiB.
    /// Refused in requests.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub args_truncated: bool,
    /// Added to the environment of the sandbox. Left out of answers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    /// Working directory. Where absent, that of the image's configuration, else the user's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User in the guest; the template's default user where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// After which end it is started again: 1 s later, and twice as long each time, up to 60 s,
    /// until a run has lasted for 10 minutes. Default `never`.
    #[serde(default)]
    pub restart: RestartCondition,
    /// Most restarts in a row, with `on_failure`. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
}

/// Restarts of the start command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Supervision {
    pub restart: RestartCondition,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// How often it was started again.
    pub restarts: u64,
    /// Of the last run that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit_code: Option<i32>,
    /// When it is started again, by the clock of the sandbox. A sandbox that is paused waits on after
    /// its resume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_start_at: Option<String>,
}

/// Bytes of arguments of a start command in lists, as of background commands.
const MAX_LISTED_ARGS: usize = 4 << 10;

impl SupervisedCommand {
    /// Cuts the arguments for a list.
    pub fn truncate_args(&mut self) {
        let mut bytes = 0;
        let fits = |arg: &&String| {
            bytes += arg.len() + 1;
            bytes <= MAX_LISTED_ARGS
        };
        let fitting = self.args.iter().take_while(fits).count();
        self.args_truncated = fitting < self.args.len();
        self.args.truncate(fitting);
        if self.cmd.len() > MAX_LISTED_ARGS {
            self.cmd = self.cmd.chars().take(MAX_LISTED_ARGS / 4).collect();
            self.args_truncated = true;
        }
    }
}

impl TryFrom<SupervisedCommand> for model::SupervisedCommand {
    type Error = InvalidValue;

    fn try_from(command: SupervisedCommand) -> Result<Self, InvalidValue> {
        if command.args_truncated {
            let problem = "has args_truncated: it is from a list, without all of its arguments; get the sandbox alone";
            return Err(InvalidValue::new("start_command", problem));
        }
        Ok(Self {
            cmd: command.cmd,
            args: command.args,
            envs: command.envs,
            cwd: command.cwd,
            user: command.user,
            restart: RestartPolicy {
                condition: command.restart,
                max_retries: command.max_retries,
            },
        })
    }
}

impl From<model::SupervisedCommand> for SupervisedCommand {
    /// Converts it for an answer: environments can hold secrets, and are left out.
    fn from(command: model::SupervisedCommand) -> Self {
        Self {
            cmd: command.cmd,
            args: command.args,
            args_truncated: false,
            envs: BTreeMap::new(),
            cwd: command.cwd,
            user: command.user,
            restart: command.restart.condition,
            max_retries: command.restart.max_retries,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_command_has_first_args() {
        let mut command = SupervisedCommand {
            cmd: "serve".to_owned(),
            args: vec!["a".to_owned(), "b".repeat(MAX_LISTED_ARGS), "c".to_owned()],
            ..SupervisedCommand::default()
        };
        command.truncate_args();
        assert_eq!(
            (command.args.as_slice(), command.args_truncated),
            (&["a".to_owned()][..], true)
        );
        assert!(model::SupervisedCommand::try_from(command.clone()).is_err());
        command.args_truncated = false;
        command.truncate_args();
        assert!(!command.args_truncated);
    }
}
