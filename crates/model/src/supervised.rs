//! The start command of a sandbox, which its guest runs again as a policy says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::InvalidValue;
use crate::exec_limits::ExecLimits;

/// Command that a sandbox runs from its start on. [`SupervisedCommand::check`] holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisedCommand {
    pub cmd: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Added to the environment of the sandbox.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    /// Where absent, that of the image's configuration, else the user's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The template's default user where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default)]
    pub restart: RestartPolicy,
}

/// When a command that has ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    pub condition: RestartCondition,
    /// Maximum number of restarts in a row; `None`: without a bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
}

/// End after which a command is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RestartCondition {
    #[default]
    Never,
    /// An exit code other than 0, or a signal.
    OnFailure,
    Always,
}

impl SupervisedCommand {
    /// Bytes of command, arguments and environment together: they are part of the record of a
    /// sandbox, which is kept in the database and on the host.
    pub const MAX_BYTES: usize = 64 * 1024;
    /// Linux' `PATH_MAX`.
    const MAX_CWD: usize = 4096;
    /// Bytes of a user's name, longer than any that Linux takes.
    const MAX_USER: usize = 256;

    /// Checks that a guest can run it.
    ///
    /// # Errors
    /// Names the field, and the bound.
    pub fn check(&self) -> Result<(), InvalidValue> {
        let invalid = |problem: String| Err(InvalidValue::new("start_command", problem));
        let timeout_sec = ExecLimits::DEFAULT_TIMEOUT_SEC;
        if let Err(error) = ExecLimits::check(&self.cmd, &self.args, &self.envs, timeout_sec) {
            return invalid(format!("has a wrong value: {error}"));
        }
        let strings = std::iter::once(&self.cmd).chain(&self.args);
        let strings = strings.chain(self.envs.iter().flat_map(|(name, value)| [name, value]));
        let bytes: usize = strings.map(|text| text.len() + 1).sum();
        if bytes > Self::MAX_BYTES {
            let most = Self::MAX_BYTES;
            return invalid(format!(
                "must have at most {most} bytes in cmd, args and envs together, not {bytes}: write a script into the template"
            ));
        }
        let is_wrong = |text: &Option<String>, most: usize| {
            let text = text.as_deref();
            text.is_some_and(|text| text.is_empty() || text.len() > most || text.contains('\0'))
        };
        if is_wrong(&self.cwd, Self::MAX_CWD) {
            let most = Self::MAX_CWD;
            return invalid(format!("must have a cwd of 1 to {most} bytes without NUL"));
        }
        // As of the user of a command.
        let is_no_name = |user: &String| user.contains([':', '\n', '/']);
        if is_wrong(&self.user, Self::MAX_USER) || self.user.as_ref().is_some_and(is_no_name) {
            let most = Self::MAX_USER;
            return invalid(format!(
                "must have a user of 1 to {most} bytes without ':', '/', NUL or newline"
            ));
        }
        let restart = self.restart;
        if restart.max_retries.is_some() && restart.condition != RestartCondition::OnFailure {
            return invalid("can have max_retries with restart on_failure alone".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_that_cannot_run_is_refused() {
        let fine = SupervisedCommand {
            cmd: "sleep".to_owned(),
            args: vec!["1".to_owned()],
            restart: RestartPolicy {
                condition: RestartCondition::OnFailure,
                max_retries: Some(3),
            },
            ..SupervisedCommand::default()
        };
        fine.check().unwrap();
        let always = RestartPolicy {
            condition: RestartCondition::Always,
            max_retries: Some(3),
        };
        let wrong = [
            SupervisedCommand {
                cmd: String::new(),
                ..fine.clone()
            },
            SupervisedCommand {
                args: vec!["x".repeat(SupervisedCommand::MAX_BYTES)],
                ..fine.clone()
            },
            SupervisedCommand {
                cwd: Some("\0".to_owned()),
                ..fine.clone()
            },
            SupervisedCommand {
                user: Some(String::new()),
                ..fine.clone()
            },
            SupervisedCommand {
                envs: BTreeMap::from([("A=B".to_owned(), String::new())]),
                ..fine.clone()
            },
            SupervisedCommand {
                restart: always,
                ..fine
            },
        ];
        for command in wrong {
            let error = command.check().unwrap_err();
            assert_eq!(error.field, "start_command", "{error}");
        }
    }
}
