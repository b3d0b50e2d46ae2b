//! The start command of a sandbox, and its restarts.

use std::collections::BTreeMap;

use model::RestartPolicy;
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
    /// Added to the environment of the sandbox. Left out of answers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    /// Working directory; the user's home where absent.
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

impl From<SupervisedCommand> for model::SupervisedCommand {
    fn from(command: SupervisedCommand) -> Self {
        Self {
            cmd: command.cmd,
            args: command.args,
            envs: command.envs,
            cwd: command.cwd,
            user: command.user,
            restart: RestartPolicy {
                condition: command.restart,
                max_retries: command.max_retries,
            },
        }
    }
}

impl From<model::SupervisedCommand> for SupervisedCommand {
    /// Converts it for an answer: environments can hold secrets, and are left out.
    fn from(command: model::SupervisedCommand) -> Self {
        Self {
            cmd: command.cmd,
            args: command.args,
            envs: BTreeMap::new(),
            cwd: command.cwd,
            user: command.user,
            restart: command.restart.condition,
            max_retries: command.restart.max_retries,
        }
    }
}
