//! Background commands: they belong to the sandbox, and their output is read again from any offset.
//!
//! Nothing is lost with a connection: who attaches again at [`AttachEvent`]'s `next_offset` gets the
//! bytes that follow, or is told how many are gone.

use std::fmt;

use api_types::{
    AttachServerMessage, Command, CommandList, CommandSignal, ProcessSignal, StartCommand,
};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::SplitStream;
use reqwest::Method;

use crate::connection::Client;
use crate::error::{Error, Result};
use crate::exec_stream::{ExecInput, Socket, decode_base64, next_message};

/// Output of a background command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachEvent {
    /// The first event.
    Attached(Box<Command>),
    Stdout {
        data: Bytes,
        /// Offset at which to attach again.
        next_offset: u64,
    },
    Stderr {
        data: Bytes,
        next_offset: u64,
    },
    /// Output that is not kept any more.
    Dropped {
        bytes: u64,
        next_offset: u64,
    },
    /// The last event. 128 + signal where a signal ended the command.
    Exited {
        exit_code: i32,
    },
}

/// Where output begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachFrom {
    /// At this offset: the `next_offset` of the last event.
    Offset(u64),
    /// So many bytes before the end.
    Tail(u64),
}

/// The half that comes from the command.
pub struct AttachOutput {
    frames: SplitStream<Socket>,
    attached: bool,
    finished: bool,
}

impl fmt::Debug for AttachOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttachOutput")
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Starts a background command.
    pub async fn start_command(&self, id: &str, start: &StartCommand) -> Result<Command> {
        let url = self.route(&["v1", "sandboxes", id, "commands"]);
        self.send_json(self.request(Method::POST, url).json(start))
            .await
    }

    /// Lists running background commands, and ended ones that are kept, oldest first.
    pub async fn commands(&self, id: &str) -> Result<Vec<Command>> {
        let url = self.route(&["v1", "sandboxes", id, "commands"]);
        let list: CommandList = self.send_json(self.request(Method::GET, url)).await?;
        Ok(list.commands)
    }

    /// Gets a background command by id, name or pid.
    pub async fn command(&self, id: &str, command: &str) -> Result<Command> {
        let url = self.route(&["v1", "sandboxes", id, "commands", command]);
        self.send_json(self.request(Method::GET, url)).await
    }

    /// Sends a signal to the process group of a background command. Not found when it has ended.
    pub async fn signal_command(
        &self,
        id: &str,
        command: &str,
        signal: ProcessSignal,
    ) -> Result<()> {
        let url = self.route(&["v1", "sandboxes", id, "commands", command, "signal"]);
        let body = CommandSignal { signal };
        self.send(self.request(Method::POST, url).json(&body))
            .await
            .map(drop)
    }

    /// Attaches to a background command. Dropping both halves detaches; the command runs on.
    pub async fn attach(
        &self,
        id: &str,
        command: &str,
        from: AttachFrom,
    ) -> Result<(ExecInput, AttachOutput)> {
        let mut url = self.route(&["v1", "sandboxes", id, "commands", command, "attach"]);
        let (name, bytes) = match from {
            AttachFrom::Offset(offset) => ("offset", offset),
            AttachFrom::Tail(bytes) => ("tail_bytes", bytes),
        };
        url.query_pairs_mut()
            .append_pair("encoding", "base64")
            .append_pair(name, &bytes.to_string());
        let (sink, frames) = self.web_socket(url).await?.split();
        let output = AttachOutput {
            frames,
            attached: false,
            finished: false,
        };
        Ok((ExecInput::new(sink), output))
    }
}

impl AttachOutput {
    /// Waits for the next event; `None` after `Exited`.
    pub async fn next(&mut self) -> Result<Option<AttachEvent>> {
        if self.finished {
            return Ok(None);
        }
        let message = next_message(&mut self.frames, self.attached).await?;
        self.attached = true;
        self.event(message).map(Some)
    }

    fn event(&mut self, message: AttachServerMessage) -> Result<AttachEvent> {
        Ok(match message {
            AttachServerMessage::Attached { command } => AttachEvent::Attached(command),
            AttachServerMessage::Stdout { data, next_offset } => AttachEvent::Stdout {
                data: decode_base64(&data)?,
                next_offset,
            },
            AttachServerMessage::Stderr { data, next_offset } => AttachEvent::Stderr {
                data: decode_base64(&data)?,
                next_offset,
            },
            AttachServerMessage::Dropped { bytes, next_offset } => {
                AttachEvent::Dropped { bytes, next_offset }
            }
            AttachServerMessage::Exit { exit_code, .. } => {
                self.finished = true;
                AttachEvent::Exited { exit_code }
            }
            AttachServerMessage::Error { code, data } => {
                self.finished = true;
                return Err(Error::Api {
                    status: 0,
                    code,
                    message: data,
                });
            }
        })
    }
}
