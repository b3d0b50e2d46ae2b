//! Background commands: they belong to the sandbox and not to a connection, and their output can be
//! read again from any offset.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::exec::{ProcessSignal, TerminalSize};
use crate::supervised::Supervision;

/// Body of `POST /v1/sandboxes/{id}/commands`. The command is run directly, not by a shell. Bytes
/// that are not UTF-8 are written as in an exec.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartCommand {
    /// Name or path of the program.
    #[schema(example = "npm")]
    pub cmd: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["run", "build"]))]
    pub args: Vec<String>,
    /// Name of the command, unique among those that run; it begins with a letter. Without one it
    /// has its id alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "build")]
    pub name: Option<String>,
    /// Added to the environment of the sandbox.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    /// Working directory. Where absent, that of the image's configuration, else the user's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User in the guest; the template's default user where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Seconds until the process group gets SIGKILL, without SIGTERM before it. Without it the
    /// command may run for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86400)]
    pub timeout_sec: Option<u32>,
    /// Keeps standard input open for `stdin`; otherwise the command reads end of file at once.
    #[serde(default)]
    pub stdin: bool,
    /// Runs the command on a terminal of this size, with one output stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
    /// Counts as use of the sandbox for as long as the command runs: it is not paused for idleness.
    #[serde(default)]
    pub keep_alive: bool,
}

/// State of a background command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CommandState {
    Running,
    /// The start command, which has ended and waits for its next run.
    Restarting,
    Exited,
}

/// Output that is kept, at most the last 32 MiB. Stdout and stderr share one line of offsets, in
/// bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommandOutput {
    /// Offset of the first byte that is kept.
    pub start: u64,
    /// Offset behind the last byte: number of bytes written so far.
    pub end: u64,
    /// Number of bytes that are not kept any more.
    pub dropped: u64,
}

/// A background command, running or ended. Ended ones are kept for an hour, and 32 of them at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Command {
    #[schema(example = "cmd-3f9a1c02")]
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// 0 for a start command that does not run at the moment.
    pub pid: u32,
    pub cmd: String,
    /// The first arguments, as far as they fit in 4 KiB.
    pub args: Vec<String>,
    /// Not all arguments are in `args`.
    #[serde(default)]
    pub args_truncated: bool,
    pub state: CommandState,
    /// 128 + signal where a signal ended it. Absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Number of the signal that ended it (signal(7)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u32>,
    /// Its `timeout_sec` passed, and it was killed.
    #[serde(default)]
    pub timed_out: bool,
    /// It runs on a terminal.
    pub terminal: bool,
    pub keep_alive: bool,
    /// By the clock of the sandbox.
    pub started_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    pub output: CommandOutput,
    /// Of the start command: its restarts. It has one id and one output over all of its runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervision: Option<Supervision>,
}

/// Answer to `GET /v1/sandboxes/{id}/commands`, oldest first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CommandList {
    pub commands: Vec<Command>,
}

/// Body of `POST /v1/sandboxes/{id}/commands/{command}/signal`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandSignal {
    pub signal: ProcessSignal,
}

/// Stream of output that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    Stdout,
    Stderr,
}

/// Text frames to the client on `GET /v1/sandboxes/{id}/commands/{command}/attach`. The first one is
/// `attached`, the last one `exit` or `error`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AttachServerMessage {
    Attached {
        command: Box<Command>,
    },
    Stdout {
        data: String,
        /// Offset at which to attach again after this frame.
        next_offset: u64,
    },
    Stderr {
        data: String,
        next_offset: u64,
    },
    /// Output that is gone: this reader was too slow, or came too late.
    Dropped {
        bytes: u64,
        next_offset: u64,
    },
    Exit {
        exit_code: i32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<u32>,
    },
    Error {
        code: String,
        data: String,
    },
}

/// Answer to an exec with `background`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BackgroundExec {
    pub sandbox_id: String,
    pub cmd: String,
    pub pid: u32,
    /// The `tag` of the request; the id of the command where it has none.
    pub tag: String,
}

/// A background command that runs.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Process {
    pub pid: u32,
    pub tag: String,
    pub cmd: String,
    pub args: Vec<String>,
}

/// Answer to `GET /v1/sandboxes/{id}/processes`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProcessList {
    pub processes: Vec<Process>,
}
