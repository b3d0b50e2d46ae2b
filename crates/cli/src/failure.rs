//! What a failed command tells the user, and with which exit code it ends.

use std::error::Error as StdError;
use std::fmt::Write as _;

use crate::output;

/// Exit code of `run` and `exec` when wrenn itself failed (as `docker run` has it).
pub const WRENN_FAILED: u8 = 125;

/// Ends the command without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Quiet {
    /// Nobody reads our output any more.
    #[error("standard output was closed")]
    StdoutClosed,
    /// The user or the system asked to end; the number of the signal.
    #[error("ended by signal {0}")]
    Signal(u8),
}

/// A failure of this command line alone, not of the server.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct LocalError {
    pub code: &'static str,
    pub message: String,
}

/// The user asked for something that makes no sense.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    LocalError { code: "usage", message: message.into() }.into()
}

/// Prints the error and gives the exit code.
pub fn report(error: &anyhow::Error, json: bool, wrenn_failed: u8) -> u8 {
    match error.downcast_ref::<Quiet>() {
        // Like a program that SIGPIPE ends, but `wrenn ls | head` is no failure.
        Some(Quiet::StdoutClosed) if wrenn_failed == WRENN_FAILED => return 141,
        Some(Quiet::StdoutClosed) => return 0,
        Some(Quiet::Signal(number)) => return 128 + number,
        None => {}
    }
    let described = Described::of(error);
    print(&described, json);
    if described.code == "usage" { 2 } else { wrenn_failed }
}

/// An error as a user reads it.
#[derive(Debug, PartialEq, Eq)]
struct Described {
    code: String,
    message: String,
    hint: Option<&'static str>,
}

impl Described {
    fn of(error: &anyhow::Error) -> Self {
        for cause in error.chain() {
            if let Some(error) = cause.downcast_ref::<client::Error>() {
                return Self::of_client(error);
            }
        }
        let code = error.chain().find_map(|cause| cause.downcast_ref::<LocalError>()).map_or("local_error", |e| e.code);
        Self { code: code.to_owned(), message: format!("{error:#}"), hint: None }
    }

    fn of_client(error: &client::Error) -> Self {
        let code = match error {
            client::Error::Api { code, .. } => code.as_str(),
            client::Error::Unreachable { .. } => "unreachable",
            client::Error::Broken(_) | client::Error::Truncated => "connection_broken",
            client::Error::InvalidUrl { .. } | client::Error::InvalidKey => "usage",
            _ => "protocol_error",
        };
        let mut message = error.to_string();
        if let Some(root) = root_cause(error) {
            let _ = write!(message, " ({root})");
        }
        Self { code: code.to_owned(), message, hint: hint(code) }
    }
}

/// The last of the causes: what the system said, without the layers in between.
fn root_cause(error: &client::Error) -> Option<String> {
    let mut cause = error.source()?;
    while let Some(next) = cause.source() {
        cause = next;
    }
    Some(cause.to_string())
}

/// What to do next, for the server's codes.
fn hint(code: &str) -> Option<&'static str> {
    Some(match code {
        "unauthorized" | "forbidden" => {
            "check the API key: --key, WRENN_API_KEY, or the credentials file in the directory of `wrenn up`"
        }
        "not_found" => {
            "`wrenn ls --all` lists sandboxes, `wrenn templates` what they are created from, `wrenn checkpoints SANDBOX` those"
        }
        "invalid_state" => "`wrenn info SANDBOX` tells its state and why; `wrenn create` makes a new one",
        "conflict" => "choose another name, remove what is in the way, or try again",
        "resource_exhausted" => "`wrenn ls --all` lists sandboxes, `wrenn rm SANDBOX` removes one",
        "host_unavailable" => "`wrenn doctor` on the host tells what is missing there",
        "agent_error" => "`wrenn logs SANDBOX` has what the host did, `wrenn info SANDBOX` its state",
        "timeout" => "give it longer with --timeout",
        "insufficient_storage" => "remove files from the sandbox, or sandboxes from the host",
        "internal_error" => "the log of the server has the cause",
        _ => return None,
    })
}

fn print(error: &Described, json: bool) {
    if json {
        let message = match error.hint {
            Some(hint) => format!("{}; {hint}", error.message),
            None => error.message.clone(),
        };
        let body = serde_json::json!({"error": {"code": error.code, "message": message}});
        return output::note(&body.to_string());
    }
    let label = console::style("error:").for_stderr().red().bold();
    output::note(&format!("{label} {}", output::printable(&error.message)));
    if let Some(hint) = error.hint {
        let label = console::style("hint:").for_stderr().cyan();
        output::note(&format!("{label} {hint}"));
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_refusal_of_the_server_keeps_its_code_and_gets_a_hint() {
        let refusal = client::Error::Api { status: 401, code: "unauthorized".into(), message: "no such key".into() };
        let described = Described::of(&anyhow::Error::new(refusal).context("listing"));
        assert_eq!((described.code.as_str(), described.message.as_str()), ("unauthorized", "no such key"));
        assert!(described.hint.unwrap().contains("key"));
    }

    #[test]
    fn local_errors_show_their_chain_once() {
        let error = Err::<(), _>(std::io::Error::other("disk on fire")).context("reading a.txt").unwrap_err();
        let described = Described::of(&error);
        assert_eq!(
            (described.code.as_str(), described.message.as_str()),
            ("local_error", "reading a.txt: disk on fire")
        );
    }
}
