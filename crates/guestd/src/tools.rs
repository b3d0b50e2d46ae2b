//! Programs of users that are this file under another first argument: `envd sftp-server` and
//! `envd relay …`. An SSH connection to a sandbox needs them, and no image has to bring them.
//!
//! They are started as any command, through `/proc/self/exe`, run as the command's user and keep
//! nothing. An agent of an earlier version refuses the argument and exits with 2.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

use crate::relay::{self, Relay};
use crate::sftp;

/// Tool with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tool {
    SftpServer,
    Relay(Relay),
}

/// Returns the tool that the arguments ask for; `None` where they are those of the agent.
pub fn requested_tool(args: impl Iterator<Item = OsString>) -> Option<Tool> {
    let words: Vec<String> = args.map(|word| guest_rpc_text(&word)).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["sftp-server"] => Some(Tool::SftpServer),
        ["relay", rest @ ..] => Relay::from_words(rest).map(Tool::Relay),
        _ => None,
    }
}

/// Returns an argument as text, in which bytes that are not UTF-8 are escaped.
fn guest_rpc_text(word: &OsString) -> String {
    use std::os::unix::ffi::OsStrExt;
    guest_rpc::bytes::to_text(word.as_bytes())
}

/// Runs a tool to its end.
pub fn run_tool(tool: &Tool) -> ExitCode {
    let done = match tool {
        Tool::SftpServer => run_sftp_server(),
        Tool::Relay(relay) => relay::run_relay(relay),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run_sftp_server() -> io::Result<()> {
    let input = std::fs::File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = std::fs::File::from(io::stdout().as_fd().try_clone_to_owned()?);
    sftp::serve_sftp(io::BufReader::with_capacity(64 * 1024, input), output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(words: &[&str]) -> Option<Tool> {
        requested_tool(words.iter().map(OsString::from))
    }

    #[test]
    fn arguments_of_agent_name_no_tool() {
        for words in [
            &[][..],
            &["--port", "0"],
            &["sftp-server", "x"],
            &["relay"],
            &["relay", "tcp", "localhost", "http"],
        ] {
            assert_eq!(tool(words), None, "{words:?}");
        }
        assert_eq!(tool(&["sftp-server"]), Some(Tool::SftpServer));
        let unix = Relay::Unix {
            path: "/run/x".into(),
        };
        assert_eq!(tool(&["relay", "unix", "/run/x"]), Some(Tool::Relay(unix)));
    }
}
