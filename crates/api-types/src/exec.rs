//! Running a program in a sandbox: in one answer, or as a stream over a WebSocket.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /v1/sandboxes/{id}/exec`. The program is run directly, not by a shell. In command,
/// arguments, variables and working directory a byte that is not UTF-8 is written as U+10FFFD, `x`
/// and two hexadecimal digits.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Name or path of the program.
    #[schema(example = "python3")]
    pub cmd: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Seconds until the process group gets SIGTERM, and SIGKILL 10 seconds later; the answer is
    /// 504 then. Default 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86400)]
    pub timeout_sec: Option<u32>,
    /// Added to the environment of the sandbox.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    /// Working directory. Where absent, that of the image's configuration, else the user's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User in the guest; the template's default user where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Starts a background command and returns 202 at once; see `POST commands`, which can do more.
    /// Without `timeout_sec` it may then run for ever.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub background: bool,
    /// Name of the background command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// How the bytes of a stream stand in a JSON string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub enum Encoding {
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "base64")]
    Base64,
}

/// Answer to an exec. A non-zero exit code is an answer, not an error.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ExecResult {
    pub sandbox_id: String,
    pub cmd: String,
    pub stdout: String,
    pub stderr: String,
    /// 128 + signal where a signal ended the process.
    pub exit_code: i32,
    pub duration_ms: u64,
    /// Of both streams: `base64` when either is not valid UTF-8.
    pub encoding: Encoding,
    /// The program wrote more than 16 MiB: what came after that is left out, the exit code is its
    /// own.
    #[serde(default)]
    pub truncated: bool,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TerminalSize {
    #[schema(minimum = 1, maximum = 65535)]
    pub cols: u32,
    #[schema(minimum = 1, maximum = 65535)]
    pub rows: u32,
}

/// Signal for a running program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum ProcessSignal {
    #[serde(rename = "SIGHUP")]
    Hangup,
    #[serde(rename = "SIGINT")]
    Interrupt,
    #[serde(rename = "SIGQUIT")]
    Quit,
    #[serde(rename = "SIGKILL")]
    Kill,
    #[serde(rename = "SIGUSR1")]
    User1,
    #[serde(rename = "SIGUSR2")]
    User2,
    #[serde(rename = "SIGTERM")]
    Terminate,
}

impl ProcessSignal {
    /// Every signal that can be sent.
    pub const ALL: [Self; 7] = [
        Self::Hangup,
        Self::Interrupt,
        Self::Quit,
        Self::Kill,
        Self::User1,
        Self::User2,
        Self::Terminate,
    ];

    /// Returns the number that the signal has on Linux (signal(7)).
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::Quit => 3,
            Self::Kill => 9,
            Self::User1 => 10,
            Self::User2 => 12,
            Self::Terminate => 15,
        }
    }

    /// Returns the signal of that number; `None` for a signal that cannot be sent.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|signal| signal.number() == number)
    }
}

/// Body of `POST /v1/sandboxes/{id}/exec/signal`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// Process that `start` of an exec stream named. The signal goes to its whole process group.
    pub pid: u32,
    pub signal: ProcessSignal,
}

/// Text frames from the client on `GET /v1/sandboxes/{id}/exec/stream`. The first one is `start`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecClientMessage {
    Start {
        cmd: String,
        #[serde(default)]
        args: Vec<String>,
        /// Seconds until the process group gets SIGTERM, and SIGKILL 10 seconds later; the last
        /// frame is `error` with code `timeout` then. Without it the process may run for ever.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_sec: Option<u32>,
        #[serde(default)]
        envs: BTreeMap<String, String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cwd: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// Whether `stdin` frames will follow; otherwise the process reads end of file at once.
        #[serde(default)]
        stdin: bool,
        /// Runs the process on a terminal of this size; its output comes as `stdout`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        terminal: Option<TerminalSize>,
        /// Of `stdout` and `stderr` frames. With `utf-8`, bytes that are not UTF-8 are replaced.
        #[serde(default)]
        encoding: Encoding,
    },
    Stdin {
        data: String,
        #[serde(default)]
        encoding: Encoding,
    },
    /// End of file on standard input.
    StdinClose,
    Resize {
        size: TerminalSize,
    },
    /// Sends a signal to the process group. Frames are read in order: behind `stdin` frames that
    /// the program does not read it waits; `POST exec/signal` does not.
    Signal {
        signal: ProcessSignal,
    },
    /// Kills the process group; `exit` follows.
    Stop,
}

/// Text frames to the client. The last one is `exit` or `error`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecServerMessage {
    Start {
        pid: u32,
    },
    Stdout {
        data: String,
    },
    Stderr {
        data: String,
    },
    Exit {
        exit_code: i32,
    },
    Error {
        code: String,
        data: String,
        /// 127 where there is no such program, 126 where it cannot be executed; absent from all
        /// other errors.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
    },
}
