//! Background commands. The sandbox has them and their output; nothing of them is kept here.

use std::time::Duration;

use model::{ErrorCode, Resource, SandboxId};
use serde_json::json;
use stdx::time::now_ms;

use super::App;
use super::exec::{Process, check_command, check_size, not_started};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{
    AttachEvent, AttachOptions, AttachStream, BackgroundCommand, CommandInfo, CommandInput,
    GUEST_TIMEOUT, Started,
};

/// Most bytes of output that one answer has; the next one goes on behind them.
pub const MAX_OUTPUT_BYTES: usize = 1024 * 1024;
/// Most bytes of input in one request.
pub const MAX_STDIN_BYTES: usize = 1024 * 1024;
/// Longest time to wait for output.
pub const MAX_WAIT: Duration = Duration::from_secs(60);
/// Time for a command to take input of one request.
const STDIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Output of a command from an offset on.
#[derive(Debug, Default)]
pub struct OutputPart {
    /// Bytes of the streams that were asked for.
    pub bytes: Vec<u8>,
    /// Number of bytes of both streams between the offset and the first one, which are gone.
    pub dropped: u64,
    /// Offset to go on at.
    pub next_offset: u64,
    /// The command, where it has ended and nothing follows.
    pub ended: Option<CommandInfo>,
}

/// Streams to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    Both,
    Stdout,
    Stderr,
}

/// A command whose output is read as it comes.
#[derive(Debug)]
pub struct AttachedCommand {
    pub stream: AttachStream,
    /// Takes input and signals.
    pub process: Process,
}

impl App {
    /// Starts a background command.
    ///
    /// # Errors
    /// `InvalidRequest` with an exit code if there is no such program; `Conflict` if a command of
    /// that name runs; `InvalidState` if too many do.
    pub async fn start_background(
        &self,
        principal: &Principal,
        id: &SandboxId,
        background: BackgroundCommand,
    ) -> Result<CommandInfo> {
        principal.require_write(Resource::Sandboxes)?;
        check_command(&background.command)?;
        let host = self.find_usable(principal, id).await?.host;
        match host.start_command(id, background).await? {
            Started::Command(command) => {
                self.record_command(principal, id, &command).await;
                Ok(command)
            }
            Started::Failed { exit_code, error } => Err(not_started(exit_code, error)),
        }
    }

    /// Lists the background commands that run, and those that ended and are kept.
    ///
    /// # Errors
    /// `NotFound`; the sandbox's state.
    pub async fn list_commands(
        &self,
        principal: &Principal,
        id: &SandboxId,
    ) -> Result<Vec<CommandInfo>> {
        principal.require_read(Resource::Sandboxes)?;
        let host = self.find_usable(principal, id).await?.host;
        let commands = host.list_commands(id).await?;
        let open = self.store.open_commands(id).await.unwrap_or_default();
        let is_news =
            |command: &&CommandInfo| command.ended_at.is_some() && open.contains(&command.id);
        for command in commands.iter().filter(is_news) {
            self.record_command_end(principal, id, command).await;
        }
        Ok(commands)
    }

    /// Finds a background command by id, name or pid.
    ///
    /// # Errors
    /// `NotFound`; the sandbox's state.
    pub async fn get_command(
        &self,
        principal: &Principal,
        id: &SandboxId,
        command: &str,
    ) -> Result<CommandInfo> {
        principal.require_read(Resource::Sandboxes)?;
        let host = self.find_usable(principal, id).await?.host;
        let command = host.get_command(id, command).await?;
        if command.ended_at.is_some() {
            self.record_command_end(principal, id, &command).await;
        }
        Ok(command)
    }

    /// Sends a signal to the process group of a background command.
    ///
    /// # Errors
    /// `NotFound` when it has ended.
    pub async fn signal_command(
        &self,
        principal: &Principal,
        id: &SandboxId,
        command: &str,
        signal: u32,
    ) -> Result<()> {
        principal.require_write(Resource::Sandboxes)?;
        let host = self.find_usable(principal, id).await?.host;
        host.signal_command(id, command, signal).await
    }

    /// Sends input to a background command, one after the other.
    ///
    /// # Errors
    /// `NotFound` when it has ended, and without input when there is none; `Timeout` when it does
    /// not read.
    pub async fn send_command_input(
        &self,
        principal: &Principal,
        id: &SandboxId,
        command: &str,
        inputs: Vec<CommandInput>,
    ) -> Result<()> {
        principal.require_write(Resource::Sandboxes)?;
        for input in &inputs {
            if let CommandInput::Resize(size) = input {
                check_size(*size)?;
            }
        }
        let host = self.find_usable(principal, id).await?.host;
        if inputs.is_empty() {
            return host.get_command(id, command).await.map(drop);
        }
        let sending = async {
            for (number, input) in inputs.into_iter().enumerate() {
                let sent = host.send_command_input(id, command, input).await;
                sent.map_err(|error| match number {
                    0 => error,
                    _ => error.after_change("a part of the input has been taken"),
                })?;
            }
            Ok(())
        };
        let sent = tokio::time::timeout(STDIN_TIMEOUT, sending).await;
        sent.unwrap_or_else(|_| {
            let text = format!(
                "the command did not read its input within {} s; a part of it may have been taken",
                STDIN_TIMEOUT.as_secs()
            );
            Err(Error::new(ErrorCode::Timeout, text))
        })
    }

    /// Reads output of a background command from an offset on, as much as one answer has.
    ///
    /// # Errors
    /// `NotFound`; `InvalidRequest` for an offset behind the end, or a wait beyond [`MAX_WAIT`];
    /// `Timeout` when the guest does not come to an end.
    pub async fn read_output(
        &self,
        principal: &Principal,
        id: &SandboxId,
        command: &str,
        offset: u64,
        streams: Streams,
        wait: Duration,
    ) -> Result<OutputPart> {
        principal.require_read(Resource::Sandboxes)?;
        if wait > MAX_WAIT {
            let text = format!("wait is at most {} seconds", MAX_WAIT.as_secs());
            return Err(Error::invalid(text));
        }
        let host = self.find_usable(principal, id).await?.host;
        let options = AttachOptions {
            offset,
            follow: false,
            wait,
        };
        let reading = async {
            let stream = host.attach_command(id, command, options).await?;
            read_part(stream, offset, streams).await
        };
        let read = tokio::time::timeout(wait + GUEST_TIMEOUT, reading).await;
        if let Ok(Ok(OutputPart {
            ended: Some(command),
            ..
        })) = &read
        {
            self.record_command_end(principal, id, command).await;
        }
        read.unwrap_or_else(|_| {
            let text = "the sandbox did not send the output in time; read it again";
            Err(Error::new(ErrorCode::Timeout, text))
        })
    }

    /// Finds a command that may be attached to.
    ///
    /// # Errors
    /// `NotFound`; the sandbox's state.
    pub async fn find_attachable(
        &self,
        principal: &Principal,
        id: &SandboxId,
        command: &str,
    ) -> Result<CommandInfo> {
        principal.require_write(Resource::Sandboxes)?;
        let host = self.find_usable(principal, id).await?.host;
        host.get_command(id, command).await
    }

    /// Attaches to a background command. Dropping the result detaches; the command runs on.
    ///
    /// # Errors
    /// `NotFound`; `InvalidRequest` for an offset behind the end; `InvalidState` if it has too many
    /// readers.
    pub async fn attach_command(
        &self,
        principal: &Principal,
        id: &SandboxId,
        command: &str,
        offset: u64,
    ) -> Result<AttachedCommand> {
        principal.require_write(Resource::Sandboxes)?;
        let host = self.find_usable(principal, id).await?.host;
        let options = AttachOptions {
            offset,
            follow: true,
            ..AttachOptions::default()
        };
        let stream = host.attach_command(id, command, options).await?;
        let process = Process::for_command(host, id.clone(), command.to_owned());
        Ok(AttachedCommand { stream, process })
    }
}

impl App {
    /// Records the start of a background command as an event. Arguments may be secrets, and stay out
    /// of it.
    async fn record_command(&self, principal: &Principal, id: &SandboxId, command: &CommandInfo) {
        // The guest's word, so that it is no time of ours.
        let started_at = crate::api::format_time(command.started_at);
        let data = json!({
            "name": command.name,
            "cmd": command.cmd,
            "pid": command.pid,
            "started_at": started_at,
        });
        let store = self.store.acting_for(principal.actor());
        let team = &principal.team_id;
        let recorded = store.command_started(team, id, &command.id, data, now_ms());
        let recorded = recorded.await;
        let is_recorded = recorded.is_ok();
        log_unrecorded(id, recorded);
        // Its host may have reported the end before that.
        if is_recorded && let Some(end) = self.early_ends.remove(id, &command.id) {
            self.record_command_end(principal, id, &end).await;
        }
    }

    /// Records that a background command was seen to have ended, which its host may not have
    /// reported yet.
    pub(crate) async fn record_command_end(
        &self,
        principal: &Principal,
        id: &SandboxId,
        command: &CommandInfo,
    ) {
        let recorded = self.store_command_end(&principal.team_id, id, command);
        log_unrecorded(id, recorded.await);
    }
}

/// Returns what the event of a command's end says.
pub(super) fn end_data(command: &CommandInfo) -> serde_json::Value {
    json!({
        "name": command.name,
        "exit_code": command.exit_code,
        "signal": command.signal,
        "timed_out": command.timed_out,
        "ended_at": command.ended_at.map(crate::api::format_time),
    })
}

fn log_unrecorded(id: &SandboxId, recorded: std::result::Result<(), store::Error>) {
    if let Err(error) = recorded {
        let error = Error::from(error);
        tracing::warn!(sandbox = %id, error = error.chain(), "an event is not recorded");
    }
}

/// Reads output up to the end of a stream, as much as one answer has.
async fn read_part(mut stream: AttachStream, from: u64, streams: Streams) -> Result<OutputPart> {
    let mut part = OutputPart {
        next_offset: from,
        ..OutputPart::default()
    };
    while let Some(event) = stream.next().await? {
        match event {
            AttachEvent::Attached(_) => {}
            AttachEvent::Output {
                offset,
                is_stderr,
                data,
            } => {
                let is_wanted = match streams {
                    Streams::Both => true,
                    Streams::Stdout => !is_stderr,
                    Streams::Stderr => is_stderr,
                };
                if is_wanted && part.bytes.len() + data.len() > MAX_OUTPUT_BYTES {
                    break;
                }
                part.next_offset = offset.saturating_add(data.len() as u64);
                if is_wanted {
                    part.bytes.extend_from_slice(&data);
                }
            }
            // A gap has no place in the middle of an answer.
            AttachEvent::Dropped { .. } if part.next_offset > from => break,
            AttachEvent::Dropped { bytes, offset } => {
                part.dropped = bytes;
                part.next_offset = offset;
            }
            AttachEvent::Ended(command) => part.ended = Some(command),
        }
    }
    Ok(part)
}
