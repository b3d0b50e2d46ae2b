//! Calls that run programs in guests.

use std::collections::BTreeMap;
use std::sync::Arc;

use host_rpc as rpc;
use host_rpc::__buffa::oneof::exec_response::Event;
use host_rpc::__buffa::view::ExecResponseView;
use model::SandboxId;

use super::Host;
use super::calls::{GUEST_TIMEOUT, Messages, next_part, streaming, unary};
use crate::error::Result;

/// A program to run.
#[derive(Debug, Clone, Default)]
pub struct Command {
    pub cmd: String,
    pub args: Vec<String>,
    pub envs: BTreeMap<String, String>,
    pub cwd: Option<String>,
    pub user: Option<String>,
    /// Seconds; without it the program may run for ever.
    pub timeout_sec: Option<u32>,
    pub stdin: bool,
    /// Size of its terminal, if it gets one.
    pub terminal: Option<TerminalSize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    pub cols: u32,
    pub rows: u32,
}

/// Event of a program's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    Started {
        pid: u32,
    },
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Ended {
        /// 128 + signal where a signal ended it.
        exit_code: i32,
        error: Option<String>,
    },
}

/// Input for a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandInput {
    Data(Vec<u8>),
    EndOfFile,
    Resize(TerminalSize),
}

pub type ExecStream = Messages<ExecResponseView<'static>>;

next_part!(ExecResponseView, ExecResponse, event: Event);

impl ExecStream {
    /// Returns the next event; `None` at the end. Cancel-safe.
    ///
    /// # Errors
    /// The host's, or that the connection broke.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>> {
        while let Some(event) = self.next_part().await? {
            let event = match event {
                Event::Keepalive(_) => continue,
                Event::Start(start) => ExecEvent::Started { pid: start.pid },
                Event::Stdout(bytes) => ExecEvent::Stdout(bytes),
                Event::Stderr(bytes) => ExecEvent::Stderr(bytes),
                Event::End(end) => ExecEvent::Ended {
                    exit_code: end.exit_code,
                    error: end.error,
                },
            };
            return Ok(Some(event));
        }
        Ok(None)
    }
}

impl From<TerminalSize> for rpc::TerminalSize {
    fn from(TerminalSize { cols, rows }: TerminalSize) -> Self {
        Self {
            cols,
            rows,
            ..Default::default()
        }
    }
}

impl Host {
    /// Runs a program, which the host ends after `deadline_sec`.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn exec(
        self: &Arc<Self>,
        id: &SandboxId,
        command: Command,
        deadline_sec: Option<u32>,
    ) -> Result<ExecStream> {
        let request = rpc::ExecRequest {
            sandbox_id: id.to_string(),
            cmd: command.cmd,
            args: command.args,
            envs: command.envs.into_iter().collect(),
            cwd: command.cwd,
            user: command.user,
            // 0 means none.
            timeout_ms: deadline_sec.unwrap_or_default().saturating_mul(1000),
            stdin: command.stdin,
            terminal: command.terminal.map(rpc::TerminalSize::from).into(),
            ..Default::default()
        };
        Ok(streaming!(self, commands.exec(request), failed))
    }

    /// Sends a signal to the process group of a program.
    ///
    /// # Errors
    /// `NotFound` when it has ended; the host's.
    pub async fn send_signal(&self, id: &SandboxId, pid: u32, signal: u32) -> Result<()> {
        let request = rpc::SendSignalRequest {
            sandbox_id: id.to_string(),
            pid,
            signal,
            ..Default::default()
        };
        unary!(
            self,
            commands.send_signal_with_options(request),
            GUEST_TIMEOUT
        )
        .map(drop)
    }

    /// Sends input to a program, without a time limit: a program may leave its input alone for as
    /// long as it likes.
    ///
    /// # Errors
    /// `NotFound` when it has ended; the host's.
    pub async fn send_input(&self, id: &SandboxId, pid: u32, input: CommandInput) -> Result<()> {
        let mut request = rpc::SendInputRequest {
            sandbox_id: id.to_string(),
            pid,
            ..Default::default()
        };
        match input {
            CommandInput::Data(data) => request.data = data,
            CommandInput::EndOfFile => request.close = true,
            CommandInput::Resize(size) => request.resize = rpc::TerminalSize::from(size).into(),
        }
        let sent = self.client()?.commands().send_input(request).await;
        sent.map(drop).map_err(|error| self.failed(&error))
    }
}
