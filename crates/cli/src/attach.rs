//! A background command, joined to this process until it ends or we detach.
//!
//! The command is not ours: whatever becomes of us or of the connection, it runs on. A connection
//! that breaks is made again at the byte where output was, for as long as [`PATIENCE`], or on a
//! terminal until the user detaches; input that was on its way then may be lost. Both sides send
//! pings, and what is silent for a minute is broken.
//!
//! On a raw terminal all keys are the command's, but for escapes ([`crate::escapes`]). They are
//! found while keys are read, which waits for neither the connection nor the command.

use std::time::Duration;

use client::types::{Command, ProcessSignal};
use client::{AttachEvent, AttachFrom, AttachOutput, Client, Error};
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::escapes::{self, Action, EscapeChar, Escapes};
use crate::interrupt::Interrupt;
use crate::output;
use crate::process::{
    Input, Output, exit_status, forward_input_with_pings, note_unsent, read_stdin, watch_size,
};
use crate::quiet::Quiet;
use crate::replay::ReplayFilter;
use crate::stdio::Stdio;
use crate::terminal;

/// Time for which a broken connection is made again: a restart of the server, and more.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// Time after which a connection counts as made, even if the command wrote nothing.
const STABLE: Duration = Duration::from_secs(5);

/// Pieces of input that wait for the connection, from a pipe and from a terminal. Keys are read on
/// while these wait, or no escape would be found: what is typed beyond is dropped.
const INPUT_QUEUE: usize = 4;
const KEY_QUEUE: usize = 4096;

/// How to attach.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub from: AttachFrom,
    pub interactive: bool,
    pub escape: EscapeChar,
    /// True if another terminal may have been attached before: what it has answered is not asked
    /// again.
    pub replay: bool,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The command, with this exit code.
    Exited(u8),
    /// The user detached from the command, which runs on.
    Detached,
}

/// Copies the output of a command to ours, and passes input and signals on.
pub async fn run(
    client: &Client,
    id: &str,
    command: &Command,
    options: Options,
    interrupt: &mut Interrupt,
) -> anyhow::Result<Outcome> {
    let with_terminal = options.interactive && command.terminal;
    let resized = with_terminal
        .then(|| signal(SignalKind::window_change()))
        .transpose()?;
    // The guard restores the terminal on every way out of here.
    let raw = terminal::RawMode::enter_if(with_terminal)?;
    let mut helpers = JoinSet::new();
    let queue = if raw.is_some() {
        KEY_QUEUE
    } else {
        INPUT_QUEUE
    };
    let (sender, mut input) = mpsc::channel(queue);
    let (failed, mut input_failed) = mpsc::channel(1);
    let (keys, mut actions) = mpsc::channel(1);
    let redraw = raw.is_some().then(|| sender.clone());
    if let Some(resized) = resized {
        let size = terminal::window_size();
        sender.send(Input::Resize(size)).await.ok();
        helpers.spawn(watch_size(sender.clone(), resized, size));
    }
    if raw.is_some() {
        let escapes = Escapes::new(options.escape.0);
        helpers.spawn(forward_keys(sender, keys, escapes, failed));
    } else if options.interactive {
        helpers.spawn(read_stdin(sender, failed));
    }
    let mut reader = Reader {
        client,
        id,
        command: &command.id,
        from: options.from,
        attached_at: None,
        replay: (options.replay && redraw.is_some()).then(ReplayFilter::default),
        redraw,
        to: Output::to_our_streams()?,
    };
    let outcome = tokio::select! {
        ended = reader.read_to_end(&mut input) => ended.map(Outcome::Exited),
        () = follow_actions(&mut actions) => Ok(Outcome::Detached),
        signal = pass_signals(client, id, &command.id, interrupt) => Err(Quiet::Signal(signal).into()),
        Some(error) = input_failed.recv() => {
            Err(anyhow::Error::new(error).context("reading standard input; the command runs on"))
        }
        never = terminal::give_back_while_stopped(raw.as_ref()) => match never {},
    };
    if let (Ok(Outcome::Exited(_)), Some(raw)) = (&outcome, raw) {
        raw.end();
    }
    outcome
}

/// Does the same as [`read_keys`]; sends its error.
async fn forward_keys(
    sender: mpsc::Sender<Input>,
    actions: mpsc::Sender<Action>,
    escapes: Escapes,
    failed: mpsc::Sender<std::io::Error>,
) {
    if let Err(error) = read_keys(sender, actions, escapes).await {
        let _ = failed.send(error).await;
    }
}

/// Reads keys for the command, and escapes for us, until the terminal ends.
async fn read_keys(
    sender: mpsc::Sender<Input>,
    actions: mpsc::Sender<Action>,
    mut escapes: Escapes,
) -> std::io::Result<()> {
    let stdin = Stdio::stdin()?;
    loop {
        let typed = stdin.read_async().await?;
        if typed.is_empty() {
            let _ = sender.send(Input::EndOfFile).await;
            return Ok(());
        }
        let (bytes, found) = escapes.filter(&typed);
        if !bytes.is_empty() && sender.try_send(Input::Data(bytes)).is_err() {
            note_raw("the command takes no input; what was typed is dropped");
        }
        for action in found {
            let _ = actions.send(action).await;
        }
    }
}

/// Does what escapes ask for; returns when the user detaches.
async fn follow_actions(actions: &mut mpsc::Receiver<Action>) {
    loop {
        match actions.recv().await {
            Some(Action::Detach) => return,
            Some(Action::Help) => note_raw(escapes::HELP),
            // Caught, so that the terminal is given back first.
            Some(Action::Suspend) => drop(kill_process(getpid(), Signal::TSTP)),
            None => std::future::pending().await,
        }
    }
}

/// Prints a note on a terminal in raw mode.
fn note_raw(text: &str) {
    output::print_note(&format!("\r\n{}\r", text.replace('\n', "\r\n")));
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
    /// Where the next connection begins.
    from: AttachFrom,
    /// Time at which the present connection, or the last one, was attached.
    attached_at: Option<Instant>,
    /// Takes the size of our terminal, which has the command draw it again; `None` without one.
    redraw: Option<mpsc::Sender<Input>>,
    /// Filter for output from before a terminal of ours was attached.
    replay: Option<ReplayFilter>,
    to: Output,
}

impl Reader<'_> {
    /// Reads to the end of the command, over as many connections as it takes.
    async fn read_to_end(&mut self, input: &mut mpsc::Receiver<Input>) -> anyhow::Result<u8> {
        let mut broken_since: Option<Instant> = None;
        loop {
            let before = self.from;
            self.attached_at = None;
            let attached = self.client.attach(self.id, self.command, self.from).await;
            let error = match attached {
                Ok((sink, events)) => {
                    if broken_since.is_some() {
                        self.note("reconnected");
                    }
                    tokio::select! {
                        ended = self.read(events) => match ended {
                            Ok(exit_code) => return Ok(exit_status(exit_code)),
                            Err(error) => error,
                        },
                        never = forward_input_with_pings(sink, input) => match never {},
                    }
                }
                Err(error) => error.into(),
            };
            if !error.downcast_ref::<Error>().is_some_and(is_transient) {
                return Err(error);
            }
            let is_stable = self.attached_at.is_some_and(|at| at.elapsed() >= STABLE);
            if is_stable || self.from != before {
                broken_since = None;
            }
            if broken_since.is_none() {
                self.note("the connection is lost; trying again, ~. detaches");
            }
            let since = *broken_since.get_or_insert_with(Instant::now);
            // In front of a terminal is a user, who says when it is enough.
            if since.elapsed() > PATIENCE && self.redraw.is_none() {
                let text = match self.from {
                    AttachFrom::Offset(offset) => format!(
                        "the connection is lost; the command runs on, and --offset {offset} goes on here"
                    ),
                    AttachFrom::Tail(_) => "the connection is lost; the command runs on".to_owned(),
                };
                return Err(error.context(text));
            }
            sleep(PAUSE).await;
        }
    }

    /// Tells the user in front of a terminal.
    fn note(&self, text: &str) {
        if self.redraw.is_some() {
            note_raw(&format!("wrenn: {text}"));
        }
    }

    async fn read(&mut self, mut events: AttachOutput) -> anyhow::Result<i32> {
        while let Some(event) = events.next().await? {
            match event {
                AttachEvent::Attached(command) => {
                    self.attached_at = Some(Instant::now());
                    if let Some(replay) = &mut self.replay {
                        replay.note_end(command.output.end);
                    }
                }
                AttachEvent::Stdout { data, next_offset } => {
                    let data = match &mut self.replay {
                        Some(replay) => replay.filter_before_end(data, next_offset),
                        None => data,
                    };
                    self.to.write_stdout(data).await?;
                    self.from = AttachFrom::Offset(next_offset);
                }
                AttachEvent::Stderr { data, next_offset } => {
                    self.to.write_stderr(data).await;
                    self.from = AttachFrom::Offset(next_offset);
                }
                AttachEvent::Dropped { bytes, next_offset } => {
                    let text = format!("{bytes} bytes of output are not kept any more.");
                    match &self.redraw {
                        Some(redraw) => {
                            note_raw(&text);
                            let _ = redraw.try_send(Input::Resize(terminal::window_size()));
                        }
                        None => output::print_note(&text),
                    }
                    self.from = AttachFrom::Offset(next_offset);
                }
                AttachEvent::Exited { exit_code } => return Ok(exit_code),
            }
        }
        Err(Error::Truncated.into())
    }
}

/// Returns true if another attempt may go better: the connection broke, or the server is away, also
/// behind a proxy (502, 504), or takes no more requests now (429).
pub fn is_transient(error: &Error) -> bool {
    match error {
        Error::Broken(_) | Error::Truncated | Error::Unreachable { .. } => true,
        Error::Api { status, code, .. } => {
            code == "host_unavailable" || matches!(status, 429 | 502 | 504)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_proxies_are_transient() {
        let api = |status, code: &str| Error::Api {
            status,
            code: code.to_owned(),
            message: String::new(),
        };
        for (status, code, expected) in [
            (502, "internal_error", true),
            (504, "timeout", true),
            (429, "rate_limited", true),
            (0, "host_unavailable", true),
            (500, "internal_error", false),
            (404, "not_found", false),
            (0, "agent_error", false),
        ] {
            assert_eq!(
                is_transient(&api(status, code)),
                expected,
                "{status} {code}"
            );
        }
        assert!(is_transient(&Error::Truncated));
    }
}
