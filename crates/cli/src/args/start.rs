//! Flags of the start command of a sandbox.

use std::ffi::OsString;

use clap::Args;
use client::types::RestartCondition;

/// The start command of a new sandbox, and its restart policy.
#[derive(Debug, Clone, Default, Args)]
pub struct StartArgs {
    /// When to start the command again after its end: no, on-failure[:N] (at most N times in a row)
    /// or always [default: no]
    #[arg(long, value_name = "POLICY", requires = "command", value_parser = Restart::parse)]
    pub restart: Option<Restart>,

    /// Working directory of the command [default: that of the image, else the user's home]
    #[arg(short, long, value_name = "DIR", requires = "command")]
    pub workdir: Option<OsString>,

    /// User in the sandbox who runs the command [default: the template's]
    #[arg(short, long, requires = "command")]
    pub user: Option<String>,

    /// Command to run in it from its start on, and its arguments: a background command of the name
    /// `start`
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// When a command is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restart {
    pub condition: RestartCondition,
    pub max_retries: Option<u32>,
}

impl Restart {
    /// Parses `no`, `on-failure`, `on-failure:N` or `always`, as docker does.
    fn parse(text: &str) -> Result<Self, String> {
        let (condition, max_retries) = match text.split_once(':') {
            Some((condition, count)) => (condition, Some(count)),
            None => (text, None),
        };
        let wrong = || "it is no, on-failure, on-failure:N or always".to_owned();
        let max_retries = max_retries.map(str::parse).transpose();
        let max_retries: Option<u32> = max_retries.map_err(|_| wrong())?;
        let condition = match (condition, max_retries) {
            ("no" | "never", None) => RestartCondition::Never,
            ("on-failure", _) => RestartCondition::OnFailure,
            ("always", None) => RestartCondition::Always,
            _ => return Err(wrong()),
        };
        Ok(Self {
            condition,
            max_retries,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_written_as_dockers() {
        let parsed = |text: &str| Restart::parse(text).map(|it| (it.condition, it.max_retries));
        assert_eq!(parsed("no"), Ok((RestartCondition::Never, None)));
        assert_eq!(parsed("always"), Ok((RestartCondition::Always, None)));
        assert_eq!(
            parsed("on-failure"),
            Ok((RestartCondition::OnFailure, None))
        );
        assert_eq!(
            parsed("on-failure:5"),
            Ok((RestartCondition::OnFailure, Some(5)))
        );
        for text in [
            "",
            "sometimes",
            "always:3",
            "no:1",
            "on-failure:",
            "on-failure:-1",
        ] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }
}
