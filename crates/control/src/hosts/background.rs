//! Calls about background commands.

use std::sync::Arc;
use std::time::Duration;

use host_rpc as rpc;
use host_rpc::__buffa::oneof::attach_command_response::Event;
use host_rpc::__buffa::oneof::start_command_response;
use host_rpc::__buffa::view::AttachCommandResponseView;
use model::{ErrorCode, RestartPolicy, SandboxId};

use super::calls::{GUEST_TIMEOUT, Messages, next_part, query, streaming, unary};
use super::{Command, CommandInput, Host};
use crate::error::{Error, Result};

/// A background command to start.
#[derive(Debug, Clone, Default)]
pub struct BackgroundCommand {
    pub command: Command,
    pub name: Option<String>,
    pub keep_alive: bool,
}

/// A background command, running or ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandInfo {
    pub id: String,
    pub name: Option<String>,
    pub pid: u32,
    pub cmd: String,
    pub args: Vec<String>,
    pub args_truncated: bool,
    pub terminal: bool,
    pub keep_alive: bool,
    /// Milliseconds since 1970.
    pub started_at: i64,
    pub ended_at: Option<i64>,
    /// `None` while it runs.
    pub exit_code: Option<i32>,
    pub signal: Option<u32>,
    pub timed_out: bool,
    /// Offsets of the first byte that is kept, and of the end.
    pub output_start: u64,
    pub output_end: u64,
    /// Restarts of the start command.
    pub supervision: Option<Supervision>,
}

/// Restarts of a start command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Supervision {
    pub policy: RestartPolicy,
    pub restarts: u64,
    pub last_exit_code: Option<i32>,
    /// Milliseconds since 1970; `None` where it does not wait for a start.
    pub next_start_at: Option<i64>,
}

/// Result of a start.
#[derive(Debug)]
pub enum Started {
    Command(CommandInfo),
    /// It could not be started; the exit code is that of a shell.
    Failed {
        exit_code: i32,
        error: Option<String>,
    },
}

/// Output of a background command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachEvent {
    Attached(CommandInfo),
    Output {
        /// Offset of the first byte.
        offset: u64,
        is_stderr: bool,
        data: Vec<u8>,
    },
    Dropped {
        bytes: u64,
        /// Offset at which output goes on.
        offset: u64,
    },
    Ended(CommandInfo),
}

/// Part of a command's output to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttachOptions {
    pub offset: u64,
    /// To the end of the command; otherwise to the present end of the output.
    pub follow: bool,
    /// Without `follow`: time to wait for output where there is none.
    pub wait: Duration,
}

pub type AttachStream = Messages<AttachCommandResponseView<'static>>;

next_part!(AttachCommandResponseView, AttachCommandResponse, event: Event);

impl AttachStream {
    /// Returns the next event; `None` at the end. Cancel-safe.
    ///
    /// # Errors
    /// The host's, or that the connection broke.
    pub async fn next(&mut self) -> Result<Option<AttachEvent>> {
        while let Some(event) = self.next_part().await? {
            let event = match event {
                Event::Keepalive(_) => continue,
                Event::Attached(command) => AttachEvent::Attached((*command).into()),
                Event::Ended(command) => AttachEvent::Ended((*command).into()),
                Event::Output(output) => AttachEvent::Output {
                    offset: output.offset,
                    is_stderr: output.stderr,
                    data: output.data,
                },
                Event::Dropped(dropped) => AttachEvent::Dropped {
                    bytes: dropped.bytes,
                    offset: dropped.offset,
                },
            };
            return Ok(Some(event));
        }
        Ok(None)
    }
}

impl From<rpc::Command> for CommandInfo {
    fn from(command: rpc::Command) -> Self {
        Self {
            id: command.id,
            name: command.name,
            pid: command.pid,
            cmd: command.cmd,
            args: command.args,
            args_truncated: command.args_truncated,
            terminal: command.terminal,
            keep_alive: command.keep_alive,
            started_at: command.started_ms,
            ended_at: command.ended_ms,
            exit_code: command.exit_code,
            signal: command.signal,
            timed_out: command.timed_out,
            output_start: command.output_start,
            output_end: command.output_end,
            supervision: command.supervision.as_option().map(Supervision::from),
        }
    }
}

impl From<&rpc::Supervision> for Supervision {
    fn from(supervision: &rpc::Supervision) -> Self {
        let policy = supervision.policy.as_option();
        Self {
            policy: policy
                .map(rpc::start_command::policy_from_message)
                .unwrap_or_default(),
            restarts: supervision.restarts,
            last_exit_code: supervision.last_exit_code,
            next_start_at: supervision.next_start_ms,
        }
    }
}

fn unexplained() -> Error {
    let text = "the host agent did not say which command it means";
    Error::new(ErrorCode::AgentError, text)
}

impl Host {
    /// Starts a background command.
    ///
    /// # Errors
    /// `Conflict` if one of that name runs; `InvalidState` if too many do; the host's.
    pub async fn start_command(
        &self,
        id: &SandboxId,
        background: BackgroundCommand,
    ) -> Result<Started> {
        let BackgroundCommand {
            command,
            name,
            keep_alive,
        } = background;
        let request = rpc::StartCommandRequest {
            sandbox_id: id.to_string(),
            cmd: command.cmd,
            args: command.args,
            envs: command.envs.into_iter().collect(),
            cwd: command.cwd,
            user: command.user,
            // 0 means none.
            timeout_ms: u64::from(command.timeout_sec.unwrap_or_default()) * 1000,
            stdin: command.stdin,
            terminal: command.terminal.map(rpc::TerminalSize::from).into(),
            name,
            keep_alive,
            ..Default::default()
        };
        let started = unary!(
            self,
            commands.start_command_with_options(request),
            GUEST_TIMEOUT
        )?;
        match started.result {
            Some(start_command_response::Result::Command(command)) => {
                Ok(Started::Command((*command).into()))
            }
            Some(start_command_response::Result::NotStarted(end)) => Ok(Started::Failed {
                exit_code: end.exit_code,
                error: end.error,
            }),
            None => Err(unexplained()),
        }
    }

    /// Lists the background commands that run or are kept.
    ///
    /// # Errors
    /// The host's.
    pub async fn list_commands(&self, id: &SandboxId) -> Result<Vec<CommandInfo>> {
        let request = rpc::ListCommandsRequest {
            sandbox_id: id.to_string(),
            ..Default::default()
        };
        let listed = query!(
            self,
            commands.list_commands_with_options(request),
            GUEST_TIMEOUT
        )?;
        Ok(listed.commands.into_iter().map(CommandInfo::from).collect())
    }

    /// Finds a background command by id, name or pid.
    ///
    /// # Errors
    /// `NotFound`; the host's.
    pub async fn get_command(&self, id: &SandboxId, command: &str) -> Result<CommandInfo> {
        let request = rpc::GetCommandRequest {
            sandbox_id: id.to_string(),
            command: command.to_owned(),
            ..Default::default()
        };
        let found = query!(
            self,
            commands.get_command_with_options(request),
            GUEST_TIMEOUT
        )?;
        let command = found.command.into_option();
        command.map(CommandInfo::from).ok_or_else(unexplained)
    }

    /// Sends input to a background command, without a time limit.
    ///
    /// # Errors
    /// `NotFound` when it has ended; the host's.
    pub async fn send_command_input(
        &self,
        id: &SandboxId,
        command: &str,
        input: CommandInput,
    ) -> Result<()> {
        let mut request = rpc::SendCommandInputRequest {
            sandbox_id: id.to_string(),
            command: command.to_owned(),
            ..Default::default()
        };
        match input {
            CommandInput::Data(data) => request.data = data,
            CommandInput::EndOfFile => request.close = true,
            CommandInput::Resize(size) => request.resize = rpc::TerminalSize::from(size).into(),
        }
        let sent = self.client()?.commands().send_command_input(request).await;
        sent.map(drop).map_err(|error| self.failed(&error))
    }

    /// Sends a signal to the process group of a background command.
    ///
    /// # Errors
    /// `NotFound` when it has ended; the host's.
    pub async fn signal_command(&self, id: &SandboxId, command: &str, signal: u32) -> Result<()> {
        let request = rpc::SignalCommandRequest {
            sandbox_id: id.to_string(),
            command: command.to_owned(),
            signal,
            ..Default::default()
        };
        unary!(
            self,
            commands.signal_command_with_options(request),
            GUEST_TIMEOUT
        )
        .map(drop)
    }

    /// Streams the output of a background command.
    ///
    /// # Errors
    /// `NotFound`; an offset behind the end; the host's.
    pub async fn attach_command(
        self: &Arc<Self>,
        id: &SandboxId,
        command: &str,
        options: AttachOptions,
    ) -> Result<AttachStream> {
        let request = rpc::AttachCommandRequest {
            sandbox_id: id.to_string(),
            command: command.to_owned(),
            offset: options.offset,
            follow: options.follow,
            wait_ms: u32::try_from(options.wait.as_millis()).unwrap_or(u32::MAX),
            ..Default::default()
        };
        Ok(streaming!(self, commands.attach_command(request)))
    }
}
