//! Arguments of the tools. Their doc comments are what a model reads.

use std::collections::BTreeMap;

use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;

/// Arguments of `create_sandbox`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// Template; list_templates shows them. Default: minimal.
    pub template: Option<String>,
    /// Name, which stands for the id.
    pub name: Option<String>,
    /// Virtual processors. Default 1.
    pub vcpus: Option<u32>,
    /// MiB of memory. Default 512.
    pub memory_mb: Option<u32>,
    /// MiB of disk. Default: the size of the template.
    pub disk_mb: Option<u32>,
    /// Environment of every command.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Seconds without use until it is paused; the next use resumes it. Default 300.
    pub idle_timeout_sec: Option<u32>,
    /// Keep it beyond this session. Default false.
    #[serde(default)]
    pub keep: bool,
}

/// Names a sandbox.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sandbox {
    /// Id or name of the sandbox; may be left out while there is only one.
    pub sandbox: Option<String>,
}

/// Arguments of `attach_sandbox`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// Id or name of a sandbox that exists already.
    pub sandbox: String,
}

/// Arguments of `run_command`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Command line for /bin/sh, for example `cd /srv && npm test`.
    pub command: String,
    /// Id or name of the sandbox; may be left out while there is only one.
    pub sandbox: Option<String>,
    /// Text for standard input. Without it the command reads end of file.
    pub stdin: Option<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// User in the sandbox.
    pub user: Option<String>,
    /// Added to the environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Seconds until it is killed. Default 120. Use start_command for what runs longer.
    pub timeout_sec: Option<u32>,
}

/// Arguments of `start_command`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Command line for /bin/sh, for example `npm run dev`.
    pub command: String,
    /// Id or name of the sandbox; may be left out while there is only one.
    pub sandbox: Option<String>,
    /// Name of the command, for example `server`.
    pub name: Option<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// User in the sandbox.
    pub user: Option<String>,
    /// Added to the environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// Arguments of `read_output`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadOutput {
    /// Id or name of a command that start_command started.
    pub command: String,
    /// Id or name of the sandbox; may be left out while there is only one.
    pub sandbox: Option<String>,
    /// `next_offset` of the answer before; without it the end of the output is shown.
    pub offset: Option<u64>,
    /// Seconds to wait for output or for the end of the command. Default 0, at most 60.
    pub wait_sec: Option<u32>,
}

/// Arguments of `stop_command`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Id or name of a command that start_command started.
    pub command: String,
    /// Id or name of the sandbox; may be left out while there is only one.
    pub sandbox: Option<String>,
    /// Kill it at once instead of asking it to end. Default false.
    #[serde(default)]
    pub force: bool,
}

/// Arguments of `read_file`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadFile {
    /// Path of a text file.
    pub path: String,
    /// Id or name of the sandbox; may be left out while there is only one.
    pub sandbox: Option<String>,
    /// First line to read, from 1. Default 1.
    pub line: Option<u64>,
    /// Most lines to read. Default 1000.
    pub lines: Option<u64>,
    /// User in the sandbox.
    pub user: Option<String>,
}

/// Arguments of `write_file`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteFile {
    /// Path; missing directories are made, and a file that is there is replaced.
    pub path: String,
    /// The whole content.
    pub content: String,
    /// Id or name of the sandbox; may be left out while there is only one.
    pub sandbox: Option<String>,
    /// Permission bits in octal digits, for example 755.
    pub mode: Option<String>,
    /// User in the sandbox, who will own it.
    pub user: Option<String>,
}

/// Arguments of `edit_file`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EditFile {
    /// Path of a text file.
    pub path: String,
    /// Text that is in the file exactly once, with its white space.
    pub old_text: String,
    /// Text to put there.
    pub new_text: String,
    /// Replace it everywhere it is. Default false.
    #[serde(default)]
    pub replace_all: bool,
    /// Id or name of the sandbox; may be left out while there is only one.
    pub sandbox: Option<String>,
    /// User in the sandbox.
    pub user: Option<String>,
}

/// Arguments of `list_files`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListFiles {
    /// Directory.
    pub path: String,
    /// Levels to go down. Default 1.
    pub depth: Option<u32>,
    /// `next_cursor` of the answer before.
    pub cursor: Option<String>,
    /// Id or name of the sandbox; may be left out while there is only one.
    pub sandbox: Option<String>,
    /// User in the sandbox.
    pub user: Option<String>,
}

/// Arguments of `search_files`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchFiles {
    /// Directory below which to search.
    pub path: String,
    /// Regular expression that a line has. Without it files are found by name alone.
    pub content: Option<String>,
    /// Glob of names, for example *.py; with a slash, of paths below `path`.
    pub name: Option<String>,
    /// Most matches. Default 100, at most 1000.
    pub limit: Option<u32>,
    /// Do not tell upper from lower case. Default false.
    #[serde(default)]
    pub ignore_case: bool,
    /// Id or name of the sandbox; may be left out while there is only one.
    pub sandbox: Option<String>,
    /// User in the sandbox.
    pub user: Option<String>,
}

/// Arguments of `expose_port`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExposePort {
    /// Port on which a server listens in the sandbox, on any of its addresses.
    pub port: u16,
    /// Id or name of the sandbox; may be left out while there is only one.
    pub sandbox: Option<String>,
    /// Seconds until the link opens nothing any more. Default 3600.
    pub expires_in_sec: Option<u32>,
}

/// Arguments of `create_checkpoint`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCheckpoint {
    /// Name of the checkpoint. Without one it gets one.
    pub name: Option<String>,
    /// Id or name of the sandbox; may be left out while there is only one.
    pub sandbox: Option<String>,
}

/// Arguments of `roll_back`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RollBack {
    /// Name of the checkpoint to go back to.
    pub checkpoint: String,
    /// Id or name of the sandbox; may be left out while there is only one.
    pub sandbox: Option<String>,
}

/// Arguments of `fork_sandbox`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// Number of copies. Default 1.
    pub count: Option<u32>,
    /// Id or name of the sandbox; may be left out while there is only one.
    pub sandbox: Option<String>,
    /// Keep the copies beyond this session. Default false.
    #[serde(default)]
    pub keep: bool,
}

/// Arguments of `create_template`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTemplate {
    /// Name of the template: lower-case letters, digits, dots, dashes.
    pub name: String,
    /// Id or name of the sandbox; may be left out while there is only one.
    pub sandbox: Option<String>,
    /// Save the memory too, so that new sandboxes go on where this one is. Default true.
    pub memory: Option<bool>,
}
