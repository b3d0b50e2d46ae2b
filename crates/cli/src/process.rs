//! A command in a sandbox, joined to this process: output to our standard output and error, our
//! input to it, signals.
//!
//! Output (paced by the reader of ours), input (paced by the command) and signals run side by side,
//! and none waits for another. The first signal that asks us to end goes to the command, which may
//! clean up; we end when it does, with its exit code. A second signal, or [`Attached::grace`]
//! without an end, kills it. If we die, the connection breaks and the server kills it.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use client::types::{ProcessSignal, TerminalSize};
use client::{Client, ExecEvent, ExecInput, ExecOutput, ExecStart};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};

use crate::interrupt::Interrupt;
use crate::output;
use crate::quiet::Quiet;
use crate::stdio::Stdio;
use crate::terminal;

/// Time to wait for the end of a command that was killed.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// Interval of pings to a server that we attached to. It waits for four of them.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// Bytes of output that are kept in memory, as many as the API gives in one answer.
const MAX_CAPTURED: usize = 16 * 1024 * 1024;

/// Input for the program.
#[derive(Debug)]
pub enum Input {
    Data(Bytes),
    EndOfFile,
    Resize(TerminalSize),
}

/// Destination of a command's output.
#[derive(Debug)]
pub enum Output {
    /// Our own standard output and error, as it comes.
    Streams { stdout: Stdio, stderr: Stdio },
    /// Memory, up to a limit.
    Memory(Captured),
}

/// Output in memory, up to [`MAX_CAPTURED`].
#[derive(Debug, Default)]
pub struct Captured {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// True if there was more.
    pub truncated: bool,
}

impl Output {
    pub fn to_our_streams() -> anyhow::Result<Self> {
        let stdout = Stdio::stdout().context("standard output cannot be used")?;
        let stderr = Stdio::stderr().context("standard error cannot be used")?;
        Ok(Self::Streams { stdout, stderr })
    }

    pub async fn write_stdout(&mut self, data: Bytes) -> anyhow::Result<()> {
        match self {
            Self::Streams { stdout, .. } => stdout
                .write_all_async(data)
                .await
                .map_err(output::stdout_error),
            Self::Memory(captured) => {
                let fits = captured.take(&data);
                captured.stdout.extend_from_slice(&data[..fits]);
                Ok(())
            }
        }
    }

    pub async fn write_stderr(&mut self, data: Bytes) {
        match self {
            // As everywhere, a closed standard error is no reason to end.
            Self::Streams { stderr, .. } => drop(stderr.write_all_async(data).await),
            Self::Memory(captured) => {
                let fits = captured.take(&data);
                captured.stderr.extend_from_slice(&data[..fits]);
            }
        }
    }
}

impl Captured {
    /// Returns how many bytes of a piece are kept. Nothing is kept behind a gap.
    fn take(&mut self, data: &[u8]) -> usize {
        let room = if self.truncated {
            0
        } else {
            MAX_CAPTURED - self.stdout.len() - self.stderr.len()
        };
        self.truncated |= data.len() > room;
        data.len().min(room)
    }
}

/// Runs the command to its end and gives its exit code. `grace` is the time that it has to end
/// after a signal of ours. Ends with [`Quiet::Signal`] when it was killed for a signal.
pub async fn run(
    client: &Client,
    id: &str,
    start: ExecStart,
    interrupt: &mut Interrupt,
    grace: Duration,
    to: &mut Output,
) -> anyhow::Result<u8> {
    let interactive = start.stdin;
    let size = start.terminal;
    // From here on: a change of the size before the command runs must not be lost.
    let resized = size
        .map(|_| signal(SignalKind::window_change()))
        .transpose()?;
    let opened = tokio::select! {
        opened = client.exec_stream(id, start) => opened,
        // Nothing runs yet. The server notices that we hang up.
        signal = interrupt.recv() => return Err(Quiet::Signal(signal).into()),
    };
    let (input, output) = opened?;
    // The guard restores the terminal on every way out of here.
    let raw = terminal::RawMode::enter_if(interactive && size.is_some())?;

    let (started, pid) = watch::channel(None);
    let mut helpers = JoinSet::new();
    let (sender, receiver) = mpsc::channel(4);
    helpers.spawn(send_input(input, receiver, pid.clone()));
    if let (Some(size), Some(resized)) = (size, resized) {
        helpers.spawn(watch_size(sender.clone(), resized, size));
    }
    let (failed, mut input_failed) = mpsc::channel(1);
    if interactive {
        helpers.spawn(read_stdin(sender, failed));
    }
    let attached = Attached {
        client,
        id,
        grace,
        pid,
    };
    let copying = copy_output(output, started, to);
    let ended = tokio::select! {
        ended = attached.follow(copying, interrupt) => ended,
        // The command has not read all of its input: no result of it can be right.
        Some(error) = input_failed.recv() => {
            Err(anyhow::Error::new(error).context("reading standard input; the command was killed"))
        }
        never = terminal::give_back_while_stopped(raw.as_ref()) => match never {},
    };
    if let (Ok(_), Some(raw)) = (&ended, raw) {
        raw.end();
    }
    ended
}

/// A command that runs, or is about to.
struct Attached<'a> {
    client: &'a Client,
    id: &'a str,
    grace: Duration,
    /// Process id, known once the program runs.
    pid: watch::Receiver<Option<u32>>,
}

impl Attached<'_> {
    /// Copies streams and passes signals on, until the command ends.
    async fn follow(
        mut self,
        copying: impl Future<Output = anyhow::Result<u8>>,
        interrupt: &mut Interrupt,
    ) -> anyhow::Result<u8> {
        let mut copying = std::pin::pin!(copying);
        let signal = tokio::select! {
            ended = &mut copying => return ended,
            signal = interrupt.recv() => signal,
        };
        let passed_on = async {
            self.send(signal).await;
            sleep_until(Instant::now() + self.grace).await;
        };
        let second = tokio::select! {
            ended = &mut copying => return ended,
            second = interrupt.recv() => second,
            () = passed_on => {
                let seconds = self.grace.as_secs();
                output::print_note(&format!("The command did not end within {seconds} s of the signal (--grace); killing it."));
                signal
            }
        };
        let kill = async {
            self.send(ProcessSignal::Kill).await;
            let _ = copying.await;
        };
        let _ = timeout(KILL_WAIT, kill).await;
        Err(Quiet::Signal(second).into())
    }

    /// Sends a signal as soon as the command runs.
    async fn send(&mut self, signal: ProcessSignal) {
        let pid = self
            .pid
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|pid| *pid);
        let Some(pid) = pid else { return };
        note_unsent(self.client.signal(self.id, pid, signal).await);
    }
}

/// Notes that a signal could not be sent. A command that is not found has ended and needs none.
pub fn note_unsent(sent: client::Result<()>) {
    if let Err(error) = sent
        && !error.is_not_found()
    {
        let text = format!("the signal could not be sent: {error}");
        output::print_note(&output::printable(&text));
    }
}

/// Writes the output of the command until it exits.
async fn copy_output(
    mut events: ExecOutput,
    started: watch::Sender<Option<u32>>,
    to: &mut Output,
) -> anyhow::Result<u8> {
    while let Some(event) = events.next().await? {
        match event {
            ExecEvent::Started { pid } => drop(started.send(Some(pid))),
            ExecEvent::Stdout(data) => to.write_stdout(data).await?,
            ExecEvent::Stderr(data) => to.write_stderr(data).await,
            ExecEvent::Exited { exit_code } => return Ok(exit_status(exit_code)),
        }
    }
    Err(client::Error::Truncated.into())
}

/// Returns the low 8 bits of an exit code, which are all that a process can end with.
pub fn exit_status(exit_code: i32) -> u8 {
    u8::try_from(exit_code & 0xff).unwrap_or(u8::MAX)
}

/// Passes on messages, in order, once the command runs. Ends when the connection does; messages
/// that come later are of no use.
async fn send_input(
    input: ExecInput,
    mut messages: mpsc::Receiver<Input>,
    mut pid: watch::Receiver<Option<u32>>,
) {
    if pid.wait_for(Option::is_some).await.is_err() {
        return;
    }
    forward_input(input, &mut messages).await;
}

/// Passes on messages, in order. Never returns: both halves of a connection close it when they are
/// dropped, and this one must not while the command runs.
pub async fn forward_input(
    mut input: ExecInput,
    messages: &mut mpsc::Receiver<Input>,
) -> Infallible {
    while let Some(message) = messages.recv().await {
        if send_message(&mut input, message).await.is_err() {
            // The end of the connection: the other half has the reason.
            break;
        }
    }
    std::future::pending().await
}

/// As [`forward_input`], with pings, by which the server notices that we are gone. Only where the
/// command outlives the connection: one that is stopped for a minute loses it.
pub async fn forward_input_with_pings(
    mut input: ExecInput,
    messages: &mut mpsc::Receiver<Input>,
) -> Infallible {
    let mut ping = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_open = true;
    loop {
        let sent = tokio::select! {
            message = messages.recv(), if is_open => match message {
                Some(message) => send_message(&mut input, message).await,
                None => {
                    is_open = false;
                    Ok(())
                }
            },
            _ = ping.tick() => input.ping().await,
        };
        if sent.is_err() {
            break;
        }
    }
    std::future::pending().await
}

async fn send_message(input: &mut ExecInput, message: Input) -> client::Result<()> {
    match message {
        Input::Data(data) => input.write(&data).await,
        Input::EndOfFile => input.close().await,
        Input::Resize(size) => input.resize(size).await,
    }
}

pub async fn read_stdin(sender: mpsc::Sender<Input>, failed: mpsc::Sender<std::io::Error>) {
    let read = async {
        let stdin = Stdio::stdin()?;
        loop {
            let data = stdin.read_async().await?;
            let is_end = data.is_empty();
            let message = if is_end {
                Input::EndOfFile
            } else {
                Input::Data(data)
            };
            if sender.send(message).await.is_err() || is_end {
                return Ok(());
            }
        }
    };
    if let Err(error) = read.await {
        let _ = failed.send(error).await;
    }
    // The command may run on for long: the senders of others stay, this one is no longer needed.
}

/// Sends every new size of our terminal, also one from before the command ran.
pub async fn watch_size(sender: mpsc::Sender<Input>, mut resized: Signal, mut known: TerminalSize) {
    loop {
        let size = terminal::window_size();
        if size != known {
            known = size;
            if sender.send(Input::Resize(size)).await.is_err() {
                return;
            }
        }
        if resized.recv().await.is_none() {
            return;
        }
    }
}
