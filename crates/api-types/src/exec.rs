//! Running a program in a sandbox: in one answer, or as a stream over a WebSocket.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /v1/sandboxes/{id}/exec`. The program is run directly, not by a shell.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Name or path of the program.
    #[schema(example = "python3")]
    pub cmd: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Seconds until the process group is killed and the answer is 504. Default 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86400)]
    pub timeout_sec: Option<u32>,
    /// Added to the environment of the sandbox.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    /// Working directory; the user's home where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User in the guest; the template's default user where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
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
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TerminalSize {
    #[schema(minimum = 1, maximum = 65535)]
    pub cols: u32,
    #[schema(minimum = 1, maximum = 65535)]
    pub rows: u32,
}

/// Text frames from the client on `GET /v1/sandboxes/{id}/exec/stream`. The first one is `start`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecClientMessage {
    Start {
        cmd: String,
        #[serde(default)]
        args: Vec<String>,
        /// Seconds; without it the process may run for ever.
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
    /// Kills the process group; `exit` follows.
    Stop,
}

/// Text frames to the client. The last one is `exit` or `error`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecServerMessage {
    Start { pid: u32 },
    Stdout { data: String },
    Stderr { data: String },
    Exit { exit_code: i32 },
    Error { code: String, data: String },
}
