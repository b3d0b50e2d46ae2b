//! A program in the sandbox on a channel: its streams, its terminal, its end.
//!
//! Input, output and signals run side by side, so that a program that does not read still gets
//! signals and its output is read. If the task is dropped, the connection to the server is, and the
//! server kills the program.

use std::convert::Infallible;

use bytes::Bytes;
use client::types::ProcessSignal;
use client::{Client, Error, ExecEvent, ExecInput, ExecOutput, ExecStart};
use tokio::sync::{mpsc, watch};

use crate::channel::{ChannelEnd, ChannelSender, Gone, Input};

/// Exit code where the program was not started, or what became of it is not known; ssh(1) has the
/// same for its own failures.
const FAILED: u32 = 255;

/// Exit code of the guest agent for arguments that it does not know.
const UNKNOWN_ARGUMENT: i32 = 2;

/// What such an agent lacks, and what does the same.
const SFTP: &str = "sftp (`wrenn cp` copies files, too)";

/// End of the input of a terminal (Ctrl-D).
const END_OF_TRANSMISSION: &[u8] = b"\x04";

/// Sandbox with the client that reaches it.
#[derive(Debug, Clone)]
pub struct Sandbox {
    pub client: Client,
    /// Its whole id.
    pub id: String,
}

/// Kind of a program, for the text of its failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Command,
    /// A tool of the guest agent.
    Sftp,
}

/// Runs a program to its end, and ends the channel with its exit code.
pub async fn run_program(sandbox: Sandbox, start: ExecStart, kind: Kind, end: ChannelEnd) {
    let sender = end.sender.clone();
    let has_terminal = start.terminal.is_some();
    let ended = match sandbox.client.exec_stream(&sandbox.id, start).await {
        Ok(streams) => join(&sandbox, streams, has_terminal, end).await,
        Err(error) => Ok(Err(error)),
    };
    let Ok(ended) = ended else { return };
    let line_end = if has_terminal { "\r\n" } else { "\n" };
    let (code, text) = match ended {
        Ok(UNKNOWN_ARGUMENT) if kind == Kind::Sftp => (FAILED, Some(earlier_version(SFTP))),
        Ok(code) => (u32::try_from(code & 0xff).unwrap_or(FAILED), None),
        Err(error) => (exit_code(&error), Some(failure_text(&error))),
    };
    if let Some(text) = text {
        let text = Bytes::from(format!("wrenn: {text}{line_end}"));
        if sender.send_data(text, true).await.is_err() {
            return;
        }
    }
    // A client that is gone needs no exit code.
    let _ = sender.exit(code).await;
}

/// Returns the text for a sandbox whose guest agent lacks a tool.
pub fn earlier_version(what: &str) -> String {
    format!(
        "the guest agent of this sandbox is of an earlier version, without {what}; \
         a new sandbox has it"
    )
}

fn exit_code(error: &Error) -> u32 {
    match error {
        Error::NotStarted { exit_code, .. } => u32::try_from(*exit_code).unwrap_or(FAILED),
        _ => FAILED,
    }
}

/// Returns the text of a failure, with what to do next.
pub fn failure_text(error: &Error) -> String {
    let hint = match error {
        Error::Broken(_) | Error::Truncated => {
            "; the program was ended with it. Is the server still running? `ssh` again once it is"
        }
        Error::Unreachable { .. } => "",
        _ => match error.code() {
            Some("not_found") => "; `wrenn ls --all` lists sandboxes",
            Some("invalid_state") => "; `wrenn info SANDBOX` tells its state and why",
            Some("unauthorized" | "forbidden") => "; check the API key of `wrenn ssh-config`",
            _ => "",
        },
    };
    format!("{error}{hint}")
}

type Streams = (ExecInput, ExecOutput);

/// Joins the streams of a program with the channel until the program ends.
async fn join(
    sandbox: &Sandbox,
    (input, mut output): Streams,
    has_terminal: bool,
    end: ChannelEnd,
) -> Result<client::Result<i32>, Gone> {
    let ChannelEnd {
        input: messages,
        sender,
    } = end;
    let (started, pid) = watch::channel(None);
    let copying = async {
        loop {
            match output.next().await {
                Ok(Some(ExecEvent::Started { pid })) => drop(started.send(Some(pid))),
                Ok(Some(ExecEvent::Stdout(data))) => sender.send_data(data, false).await?,
                Ok(Some(ExecEvent::Stderr(data))) => sender.send_data(data, true).await?,
                Ok(Some(ExecEvent::Exited { exit_code })) => return Ok(Ok(exit_code)),
                Ok(None) => return Ok(Err(Error::Truncated)),
                Err(error) => return Ok(Err(error)),
            }
        }
    };
    let mut given = GivenInput {
        sandbox,
        input,
        pid,
        sender: &sender,
        has_terminal,
    };
    tokio::select! {
        ended = copying => ended,
        never = given.pass_on(messages) => match never {},
    }
}

/// Input for a program.
struct GivenInput<'a> {
    sandbox: &'a Sandbox,
    input: ExecInput,
    pid: watch::Receiver<Option<u32>>,
    sender: &'a ChannelSender,
    has_terminal: bool,
}

impl GivenInput<'_> {
    /// Passes on messages, in order, once the program runs. Never returns: both halves of the
    /// connection close it when they are dropped, and this one must not while the program runs.
    async fn pass_on(&mut self, mut messages: mpsc::UnboundedReceiver<Input>) -> Infallible {
        let is_started = self.pid.wait_for(Option::is_some).await.is_ok();
        while is_started && let Some(message) = messages.recv().await {
            let is_passed = match message {
                Input::Data(data) => self.write(&data).await,
                Input::Eof if self.has_terminal => self.input.write(END_OF_TRANSMISSION).await,
                Input::Eof => self.input.close().await,
                Input::Resize(size) => self.input.resize(size).await,
                Input::Signal(signal) => self.signal(signal).await,
            };
            if is_passed.is_err() {
                // The end of the connection: the output has the reason.
                break;
            }
        }
        std::future::pending().await
    }

    async fn write(&mut self, data: &Bytes) -> client::Result<()> {
        self.input.write(data).await?;
        // A client that is gone sends no more.
        let _ = self.sender.send_consumed(data).await;
        Ok(())
    }

    async fn signal(&mut self, signal: ProcessSignal) -> client::Result<()> {
        let Some(pid) = *self.pid.borrow() else {
            return Ok(());
        };
        let client = &self.sandbox.client;
        match client.signal(&self.sandbox.id, pid, signal).await {
            // A program that is not found has ended and needs none.
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
