//! A background command, joined to this process until it ends or we detach.
//!
//! The command is not ours: whatever becomes of us or of the connection, it runs on. A connection
//! that breaks is made again at the byte where output was, for as long as [`PATIENCE`]; input that
//! was on its way then may be lost.

use std::time::Duration;

use client::types::{Command, ProcessSignal};
use client::{AttachEvent, AttachOutput, Client, Error};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::interrupt::Interrupt;
use crate::output;
use crate::process::{
    Input, Output, exit_status, forward_input, note_unsent, read_stdin, watch_size,
};
use crate::quiet::Quiet;
use crate::terminal;

/// Time for which a broken connection is made again: a restart of the server, and more.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// Time after which a connection counts as made, even if the command wrote nothing.
const STABLE: Duration = Duration::from_secs(5);

/// How to attach.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub offset: u64,
    pub interactive: bool,
}

/// Copies the output of a command to ours, and passes input and signals on. Returns its exit code.
pub async fn run(
    client: &Client,
    id: &str,
    command: &Command,
    options: Options,
    interrupt: &mut Interrupt,
) -> anyhow::Result<u8> {
    let with_terminal = options.interactive && command.terminal;
    let resized = with_terminal
        .then(|| signal(SignalKind::window_change()))
        .transpose()?;
    // The guard restores the terminal on every way out of here.
    let raw = terminal::RawMode::enter_if(with_terminal)?;
    let mut helpers = JoinSet::new();
    let (sender, mut input) = mpsc::channel(4);
    let (failed, mut input_failed) = mpsc::channel(1);
    if let Some(resized) = resized {
        let size = terminal::window_size();
        sender.send(Input::Resize(size)).await.ok();
        helpers.spawn(watch_size(sender.clone(), resized, size));
    }
    if options.interactive {
        helpers.spawn(read_stdin(sender, failed));
    }
    let mut reader = Reader {
        client,
        id,
        command: &command.id,
        next_offset: options.offset,
        attached_at: None,
        to: Output::to_our_streams()?,
    };
    tokio::select! {
        ended = reader.read_to_end(&mut input) => ended,
        signal = pass_signals(client, id, &command.id, interrupt) => Err(Quiet::Signal(signal).into()),
        Some(error) = input_failed.recv() => {
            Err(anyhow::Error::new(error).context("reading standard input; the command runs on"))
        }
        never = terminal::give_back_while_stopped(raw.as_ref()) => match never {},
    }
}

/// Passes SIGINT and SIGQUIT on to the command, the first time. Returns with the signal that
/// detaches.
async fn pass_signals(
    client: &Client,
    id: &str,
    command: &str,
    interrupt: &mut Interrupt,
) -> ProcessSignal {
    let first = interrupt.recv().await;
    if !matches!(first, ProcessSignal::Interrupt | ProcessSignal::Quit) {
        return first;
    }
    let sent = async {
        note_unsent(client.signal_command(id, command, first).await);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        second = interrupt.recv() => second,
        () = sent => first,
    }
}

struct Reader<'a> {
    client: &'a Client,
    id: &'a str,
    command: &'a str,
    next_offset: u64,
    /// Time at which the present connection, or the last one, was attached.
    attached_at: Option<Instant>,
    to: Output,
}

impl Reader<'_> {
    /// Reads to the end of the command, over as many connections as it takes.
    async fn read_to_end(&mut self, input: &mut mpsc::Receiver<Input>) -> anyhow::Result<u8> {
        let mut broken_since: Option<Instant> = None;
        loop {
            let before = self.next_offset;
            self.attached_at = None;
            let error = match self
                .client
                .attach(self.id, self.command, self.next_offset)
                .await
            {
                Ok((sink, events)) => {
                    tokio::select! {
                        ended = self.read(events) => match ended {
                            Ok(exit_code) => return Ok(exit_status(exit_code)),
                            Err(error) => error,
                        },
                        never = forward_input(sink, input) => match never {},
                    }
                }
                Err(error) => error.into(),
            };
            if !error.downcast_ref::<Error>().is_some_and(is_broken) {
                return Err(error);
            }
            let is_stable = self.attached_at.is_some_and(|at| at.elapsed() >= STABLE);
            if is_stable || self.next_offset > before {
                broken_since = None;
            }
            let since = *broken_since.get_or_insert_with(Instant::now);
            if since.elapsed() > PATIENCE {
                let offset = self.next_offset;
                let text = format!(
                    "the connection is lost; the command runs on, and --offset {offset} goes on here"
                );
                return Err(error.context(text));
            }
            sleep(PAUSE).await;
        }
    }

    async fn read(&mut self, mut events: AttachOutput) -> anyhow::Result<i32> {
        while let Some(event) = events.next().await? {
            match event {
                AttachEvent::Attached(_) => self.attached_at = Some(Instant::now()),
                AttachEvent::Stdout { data, next_offset } => {
                    self.to.write_stdout(data).await?;
                    self.next_offset = next_offset;
                }
                AttachEvent::Stderr { data, next_offset } => {
                    self.to.write_stderr(data).await;
                    self.next_offset = next_offset;
                }
                AttachEvent::Dropped { bytes, next_offset } => {
                    output::print_note(&format!("{bytes} bytes of output are not kept any more."));
                    self.next_offset = next_offset;
                }
                AttachEvent::Exited { exit_code } => return Ok(exit_code),
            }
        }
        Err(Error::Truncated.into())
    }
}

/// Returns true if another attempt may go better: the connection broke, or the server is away.
fn is_broken(error: &Error) -> bool {
    match error {
        Error::Broken(_) | Error::Truncated | Error::Unreachable { .. } => true,
        Error::Api { code, .. } => code == "host_unavailable",
        _ => false,
    }
}
