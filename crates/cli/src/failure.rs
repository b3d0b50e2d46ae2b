//! Texts and exit codes of failed commands.

use std::error::Error as StdError;
use std::fmt::{self, Write as _};

use crate::output;
use crate::quiet::Quiet;

/// Exit code of `run` and `exec` when wrenn itself failed (as `docker run` has it).
pub const WRENN_FAILED: u8 = 125;

/// Exit code of `run` and `exec` when the command took longer than it may (as timeout(1) has it).
const TIMED_OUT: u8 = 124;

/// Exit code of a program that SIGPIPE ends.
const PIPE_CLOSED: u8 = 128 + 13;

/// Characters of a message that are shown: it may be a guest's, and no reason of ours is that long.
const MAX_MESSAGE: usize = 4000;

/// A failure of this command line alone, not of the server.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct LocalError {
    pub code: &'static str,
    pub message: String,
}

/// Subject of a request, so that hints are about that. Put around an error as its context; the
/// innermost counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A sandbox, by its id.
    Sandbox,
    /// A new sandbox, of a template.
    NewSandbox,
    /// A command in a sandbox.
    Command,
    /// A background command of a sandbox, by its name.
    Background,
    /// Files in a sandbox.
    Files,
    /// A checkpoint of a sandbox.
    Checkpoint,
    /// A snapshot, by its name.
    Snapshot,
    /// An image, by its name.
    Image,
    /// A webhook, by its id.
    Webhook,
    /// The server itself.
    Server,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Creates an error about a request that makes no sense.
pub fn usage_error(message: impl Into<String>) -> anyhow::Error {
    LocalError {
        code: "usage",
        message: message.into(),
    }
    .into()
}

/// Prints the error and gives the exit code. `subject` is what the command is about where the error
/// says nothing else.
pub fn report_error(error: &anyhow::Error, json: bool, wrenn_failed: u8, subject: Subject) -> u8 {
    match error.downcast_ref::<Quiet>() {
        // Like a program that SIGPIPE ends, but `wrenn ls | head` is no failure.
        Some(Quiet::StdoutClosed) if wrenn_failed == WRENN_FAILED => return PIPE_CLOSED,
        Some(Quiet::StdoutClosed) => return 0,
        Some(Quiet::Signal(signal)) => {
            return u8::try_from(128 + signal.number()).unwrap_or(u8::MAX);
        }
        None => {}
    }
    let subject = error.downcast_ref::<Subject>().copied().unwrap_or(subject);
    let described = Described::from_error(error, subject);
    print(&described, json);
    described.exit_code.unwrap_or(wrenn_failed)
}

/// An error as a user reads it.
#[derive(Debug, PartialEq, Eq)]
struct Described {
    code: String,
    message: String,
    hint: Option<&'static str>,
    /// Exit code, where the failure has one of its own.
    exit_code: Option<u8>,
}

impl Described {
    fn from_error(error: &anyhow::Error, subject: Subject) -> Self {
        for cause in error.chain() {
            if let Some(error) = cause.downcast_ref::<client::Error>() {
                return Self::from_client(error, subject);
            }
        }
        let code = error
            .chain()
            .find_map(|cause| cause.downcast_ref::<LocalError>())
            .map_or("local_error", |e| e.code);
        let exit_code = (code == "usage").then_some(2);
        Self {
            code: code.to_owned(),
            message: format!("{error:#}"),
            hint: None,
            exit_code,
        }
    }

    fn from_client(error: &client::Error, subject: Subject) -> Self {
        let code = match error {
            client::Error::Api { code, .. } => code.as_str(),
            client::Error::NotStarted { .. } => "command_not_started",
            client::Error::Unreachable { .. } => "unreachable",
            client::Error::Broken(_) | client::Error::Truncated => "connection_broken",
            client::Error::InvalidUrl { .. } | client::Error::InvalidKey => "usage",
            _ => "protocol_error",
        };
        let exit_code = match (error, code) {
            (client::Error::NotStarted { exit_code, .. }, _) => u8::try_from(*exit_code).ok(),
            (_, "usage") => Some(2),
            (_, "timeout") if subject == Subject::Command => Some(TIMED_OUT),
            _ => None,
        };
        let mut message = error.to_string();
        if let Some(root) = root_cause(error) {
            let _ = write!(message, " ({root})");
        }
        let hint = match error {
            client::Error::NotStarted { .. } => not_started_hint(&message),
            _ => hint(code, subject),
        };
        Self {
            code: code.to_owned(),
            message,
            hint,
            exit_code,
        }
    }
}

/// Returns the last of the causes: the system's text, without the layers in between.
fn root_cause(error: &client::Error) -> Option<String> {
    let mut cause = error.source()?;
    while let Some(next) = cause.source() {
        cause = next;
    }
    Some(cause.to_string())
}

/// Returns a hint if the program's name is a whole command line, which only a shell would split.
fn not_started_hint(message: &str) -> Option<&'static str> {
    let name = message
        .strip_prefix("cannot start '")?
        .rsplit_once("': ")?
        .0;
    let is_line = name.contains([' ', ';', '|', '&', '<', '>', '$']);
    is_line.then_some("commands are run without a shell: write the words apart, or use sh -c '…'")
}

/// Returns a hint: the next step, by the server's code and the subject of the request.
fn hint(code: &str, subject: Subject) -> Option<&'static str> {
    Some(match (code, subject) {
        ("unauthorized" | "forbidden", Subject::Server) | ("unauthorized", _) => {
            "check the API key: --key-file, WRENN_API_KEY, or the credentials file in the directory of `wrenn up`"
        }
        ("not_found", Subject::NewSandbox) => {
            "`wrenn templates` lists what sandboxes are created from"
        }
        ("not_found", Subject::Sandbox | Subject::Command) => "`wrenn ls --all` lists sandboxes",
        ("not_found", Subject::Background) => {
            "`wrenn ps SANDBOX` lists its background commands, `wrenn ls --all` sandboxes"
        }
        ("conflict", Subject::Command) => {
            "choose another --name, or end what has it: `wrenn kill SANDBOX NAME`"
        }
        ("not_found", Subject::Checkpoint) => {
            "`wrenn checkpoints SANDBOX` lists checkpoints, `wrenn ls --all` sandboxes"
        }
        ("not_found", Subject::Webhook) => {
            "`wrenn webhook ls` lists webhooks, and `wrenn webhook deliveries WEBHOOK` deliveries"
        }
        ("invalid_state", Subject::Webhook) => "`wrenn webhook update WEBHOOK --enable` enables it",
        ("not_found", Subject::Image) => "`wrenn image ls` lists images",
        ("not_found", Subject::Snapshot) => {
            "`wrenn snapshots` lists snapshots, `wrenn ls --all` sandboxes"
        }
        (
            "invalid_state",
            Subject::Sandbox
            | Subject::Command
            | Subject::Background
            | Subject::Files
            | Subject::Checkpoint,
        ) => "`wrenn info SANDBOX` tells its state and why; `wrenn create` makes a new one",
        ("conflict", Subject::Checkpoint | Subject::Snapshot) => {
            "choose another name, or remove what has it"
        }
        ("resource_exhausted", Subject::NewSandbox | Subject::Sandbox) => {
            "`wrenn ls --all` lists sandboxes, `wrenn rm SANDBOX` removes one"
        }
        ("host_unavailable", _) => "`wrenn doctor` on the host tells what is missing there",
        ("agent_error", Subject::NewSandbox) => "the log of the server has the cause",
        ("agent_error", _) => {
            "`wrenn logs SANDBOX` has what the host did, `wrenn info SANDBOX` its state"
        }
        ("timeout", Subject::Command) => "give it longer with --timeout",
        ("insufficient_storage", Subject::Files | Subject::Command) => {
            "remove files from the sandbox"
        }
        ("insufficient_storage", _) => "remove files or sandboxes from the host",
        ("internal_error", _) => "the log of the server has the cause",
        _ => return None,
    })
}

fn print(error: &Described, json: bool) {
    let mut message: String = error.message.chars().take(MAX_MESSAGE).collect();
    if message.len() < error.message.len() {
        message.push_str(" (cut)");
    }
    if json {
        let message = match error.hint {
            Some(hint) => format!("{message}; {hint}"),
            None => message,
        };
        let body = serde_json::json!({"error": {"code": error.code, "message": message}});
        return output::print_note(&output::printable_json(&body.to_string()));
    }
    let label = console::style("error:").for_stderr().red().bold();
    output::print_note(&format!("{label} {}", output::printable(&message)));
    if let Some(hint) = error.hint {
        let label = console::style("hint:").for_stderr().cyan();
        output::print_note(&format!("{label} {hint}"));
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    fn refusal(code: &str) -> client::Error {
        client::Error::Api {
            status: 400,
            code: code.to_owned(),
            message: "no such thing".to_owned(),
        }
    }

    #[test]
    fn server_refusal_keeps_code_and_gets_hint() {
        let error = anyhow::Error::new(refusal("unauthorized")).context("listing");
        let described = Described::from_error(&error, Subject::Sandbox);
        assert_eq!(
            (described.code.as_str(), described.message.as_str()),
            ("unauthorized", "no such thing")
        );
        assert!(described.hint.unwrap().contains("key"));
    }

    #[test]
    fn errors_document_lists_own_codes() {
        let document = include_str!("../../../docs/errors.md");
        let listed: Vec<&str> = document
            .lines()
            .filter_map(|line| Some(line.strip_prefix("| *`")?.split_once("`*")?.0))
            .collect();
        let of_client = |error| Described::from_client(&error, Subject::Server).code;
        let not_started = client::Error::NotStarted {
            message: String::new(),
            exit_code: 127,
        };
        let own = [
            Described::from_error(&usage_error("wrong"), Subject::Server).code,
            Described::from_error(&anyhow::anyhow!("wrong"), Subject::Server).code,
            of_client(not_started),
            "unreachable".to_owned(),
            of_client(client::Error::Truncated),
            "protocol_error".to_owned(),
        ];
        assert_eq!(listed, own);
    }

    #[test]
    fn hint_belongs_to_what_was_asked_for() {
        let hint = |code, subject| hint(code, subject).unwrap_or_default();
        assert!(hint("not_found", Subject::NewSandbox).contains("wrenn templates"));
        assert!(!hint("not_found", Subject::NewSandbox).contains("checkpoint"));
        assert_eq!(hint("not_found", Subject::Files), "");
        assert_eq!(
            hint("timeout", Subject::Files),
            "",
            "`wrenn cp` has no --timeout"
        );
        let error: anyhow::Result<()> = Err(refusal("not_found")).context(Subject::Checkpoint);
        assert_eq!(
            error.unwrap_err().downcast_ref::<Subject>(),
            Some(&Subject::Checkpoint)
        );
    }

    #[test]
    fn program_that_does_not_start_has_exit_code_of_shell() {
        let not_started = |name: &str, exit_code| {
            let message = format!("cannot start '{name}': No such file or directory (os error 2)");
            Described::from_client(
                &client::Error::NotStarted { message, exit_code },
                Subject::Command,
            )
        };
        assert_eq!(
            (
                not_started("ls", 127).exit_code,
                not_started("ls", 127).hint
            ),
            (Some(127), None)
        );
        assert!(not_started("ls -l", 127).hint.unwrap().contains("shell"));
        assert_eq!(
            Described::from_client(&refusal("timeout"), Subject::Command).exit_code,
            Some(124)
        );
        assert_eq!(
            Described::from_client(&refusal("timeout"), Subject::Files).exit_code,
            None
        );
    }

    #[test]
    fn local_errors_show_their_chain_once() {
        let error = Err::<(), _>(std::io::Error::other("disk on fire"))
            .context("reading a.txt")
            .unwrap_err();
        let described = Described::from_error(&error, Subject::Files);
        assert_eq!(
            (described.code.as_str(), described.message.as_str()),
            ("local_error", "reading a.txt: disk on fire")
        );
    }
}
