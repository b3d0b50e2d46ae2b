//! What a client asks of a channel for a program (RFC 4254, section 6): terminal and environment
//! first, then the program itself.

use std::collections::BTreeMap;

use bytes::Bytes;
use client::types::{ProcessSignal, TerminalSize};
use client::{ExecStart, bytes::to_text};

use crate::error::Result;
use crate::wire::Fields;

/// Most variables that a client sets.
const MAX_VARIABLES: usize = 256;

/// Size of a terminal where the client names none.
const DEFAULT_SIZE: TerminalSize = TerminalSize { cols: 80, rows: 24 };

/// The user's shell, as the guest agent says it, and a command in it. The shell of the image starts
/// it, since only the guest knows the variable.
const SHELL: &str = "/bin/sh";
const LOGIN: &str = "exec \"${SHELL:-/bin/sh}\" -l";
const COMMAND: &str = "exec \"${SHELL:-/bin/sh}\" -c \"$1\"";

/// The guest agent's own file, as a process sees it between fork and exec.
pub const AGENT: &str = "/proc/self/exe";

/// Addresses of a connection that comes over a pipe, as OpenSSH's server gives them.
const ADDRESSES: [(&str, &str); 2] = [
    ("SSH_CLIENT", "UNKNOWN 65535 65535"),
    ("SSH_CONNECTION", "UNKNOWN 65535 UNKNOWN 65535"),
];

/// Request of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Terminal {
        kind: String,
        size: TerminalSize,
    },
    Variable {
        name: Bytes,
        value: Bytes,
    },
    Shell,
    Exec(Bytes),
    Subsystem(String),
    Resize(TerminalSize),
    /// `None`: a signal that the API cannot send.
    Signal(Option<ProcessSignal>),
    /// With its name.
    Unknown(String),
}

impl Request {
    /// Reads the fields behind the name of a request.
    pub fn read(name: &str, fields: &mut Fields) -> Result<Self> {
        Ok(match name {
            "pty-req" => Self::Terminal {
                kind: fields.text()?,
                size: read_size(fields)?,
            },
            "env" => Self::Variable {
                name: fields.bytes()?,
                value: fields.bytes()?,
            },
            "shell" => Self::Shell,
            "exec" => Self::Exec(fields.bytes()?),
            "subsystem" => Self::Subsystem(fields.text()?),
            "window-change" => Self::Resize(read_size(fields)?),
            "signal" => Self::Signal(signal(&fields.text()?)),
            other => Self::Unknown(other.to_owned()),
        })
    }
}

fn read_size(fields: &mut Fields) -> Result<TerminalSize> {
    let fit = |value: u32, default| match value {
        0 => default,
        value => value.min(u32::from(u16::MAX)),
    };
    Ok(TerminalSize {
        cols: fit(fields.u32()?, DEFAULT_SIZE.cols),
        rows: fit(fields.u32()?, DEFAULT_SIZE.rows),
    })
}

/// Returns the signal of a name without `SIG`.
fn signal(name: &str) -> Option<ProcessSignal> {
    Some(match name {
        "HUP" => ProcessSignal::Hangup,
        "INT" => ProcessSignal::Interrupt,
        "QUIT" => ProcessSignal::Quit,
        "KILL" => ProcessSignal::Kill,
        "USR1" => ProcessSignal::User1,
        "USR2" => ProcessSignal::User2,
        "TERM" => ProcessSignal::Terminate,
        _ => return None,
    })
}

/// Terminal and environment of a program that is to come.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    terminal: Option<(String, TerminalSize)>,
    variables: BTreeMap<String, String>,
}

impl Setup {
    pub fn set_terminal(&mut self, kind: String, size: TerminalSize) {
        self.terminal = Some((kind, size));
    }

    /// Sets a variable; false if it cannot be one, or there are too many.
    pub fn set_variable(&mut self, name: &[u8], value: &[u8]) -> bool {
        let is_name = !name.is_empty() && !name.contains(&b'=') && !name.contains(&0);
        if !is_name || value.contains(&0) || self.variables.len() >= MAX_VARIABLES {
            return false;
        }
        self.variables.insert(to_text(name), to_text(value));
        true
    }

    /// Returns the program for the user's shell, or for a command in it.
    pub fn shell(self, user: Option<String>, command: Option<&[u8]>) -> ExecStart {
        let words = match command {
            None => vec!["-c".to_owned(), LOGIN.to_owned()],
            Some(command) => vec![
                "-c".to_owned(),
                COMMAND.to_owned(),
                // Its name for itself, in its messages.
                SHELL.to_owned(),
                to_text(command),
            ],
        };
        let mut envs = self.variables;
        envs.extend(ADDRESSES.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let terminal = self.terminal.map(|(kind, size)| {
            envs.insert("TERM".to_owned(), kind);
            size
        });
        ExecStart {
            cmd: SHELL.to_owned(),
            args: words,
            envs,
            user,
            stdin: true,
            terminal,
            ..ExecStart::default()
        }
    }
}

/// Returns the program that is a tool of the guest agent.
pub fn agent_tool(user: Option<String>, words: &[&str]) -> ExecStart {
    ExecStart {
        cmd: AGENT.to_owned(),
        args: words.iter().map(|word| (*word).to_owned()).collect(),
        user,
        stdin: true,
        ..ExecStart::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Message;

    #[test]
    fn requests_are_read_by_name() {
        let read = |name, message: Message| {
            Request::read(name, &mut Fields::new(message.into_vec().into())).unwrap()
        };
        let message = || Message::default();
        let terminal = message()
            .text("xterm")
            .u32(100)
            .u32(0)
            .u32(1)
            .u32(1)
            .bytes(b"\0");
        let size = TerminalSize {
            cols: 100,
            rows: 24,
        };
        let kind = "xterm".to_owned();
        assert_eq!(read("pty-req", terminal), Request::Terminal { kind, size });
        let command = Bytes::from_static(b"echo \xff");
        assert_eq!(
            read("exec", message().bytes(&command)),
            Request::Exec(command)
        );
        let killed = Request::Signal(Some(ProcessSignal::Kill));
        assert_eq!(read("signal", message().text("KILL")), killed);
        assert_eq!(
            read("signal", message().text("WINCH")),
            Request::Signal(None)
        );
        let other = "x11-req";
        assert_eq!(read(other, message()), Request::Unknown(other.to_owned()));
        let cut = Fields::new(Bytes::from_static(b"\0\0\0\x09abc"));
        assert!(Request::read("exec", &mut cut.clone()).is_err());
    }

    #[test]
    fn commands_run_in_shell_of_user() {
        let mut setup = Setup::default();
        assert!(setup.set_variable(b"LANG", b"C.UTF-8"));
        assert!(!setup.set_variable(b"A=B", b"x"));
        assert!(!setup.set_variable(b"A", b"x\0"));
        setup.set_terminal("vt100".to_owned(), DEFAULT_SIZE);
        let start = setup.shell(Some("root".to_owned()), Some(b"echo a"));
        assert_eq!(start.args[1..], [COMMAND, SHELL, "echo a"]);
        assert_eq!(start.envs["TERM"], "vt100");
        assert_eq!(start.envs["LANG"], "C.UTF-8");
        assert_eq!(start.terminal, Some(DEFAULT_SIZE));
        let login = Setup::default().shell(None, None);
        assert_eq!((login.args[1].as_str(), login.terminal), (LOGIN, None));
    }
}
