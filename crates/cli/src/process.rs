//! A command in a sandbox, joined to this process: output to our standard output and error, our input to it, signals.
//!
//! Three flows run side by side and none waits for another: output (paced by whoever reads ours), input (paced by
//! the command), signals. On a signal the command is told to stop, and has [`STOP_GRACE`] to end.

use std::fs::File as StdFile;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use client::{Client, ExecEvent, ExecInput, ExecOutput, ExecStart};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::failure::Quiet;
use crate::interrupt::Interrupt;
use crate::output;
use crate::terminal;

/// How long a command that was told to stop may take until we no longer wait for it.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Bytes read from standard input at once.
const INPUT_CHUNK: usize = 32 * 1024;

/// What goes to the command.
enum Input {
    Data(Bytes),
    EndOfFile,
    Resize,
    Stop,
}

/// Runs the command to its end and gives its exit code. A signal ends it with [`Quiet::Signal`].
pub async fn run(client: &Client, id: &str, start: ExecStart, interrupt: &mut Interrupt) -> anyhow::Result<u8> {
    let (interactive, on_terminal) = (start.stdin, start.terminal.is_some());
    let (input, output) = client.exec_stream(id, start).await?;
    // The guard restores the terminal on every way out of here.
    let raw = (interactive && on_terminal && terminal::stdin_is_terminal()).then(terminal::RawMode::enter);
    let _raw = raw.transpose().context("switching the terminal to raw mode")?;

    let (sender, receiver) = mpsc::channel(4);
    let mut helpers = tokio::task::JoinSet::new();
    helpers.spawn(send_input(input, receiver));
    if interactive {
        helpers.spawn(read_stdin(sender.clone()));
    }
    if on_terminal {
        helpers.spawn(watch_size(sender.clone()));
    }
    let mut copying = std::pin::pin!(copy_output(output));
    tokio::select! {
        ended = &mut copying => ended,
        number = interrupt.recv() => {
            let stop = async {
                // Fails only when the connection is gone, and the command with it.
                let _ = sender.send(Input::Stop).await;
                let _ = copying.await;
            };
            let _ = tokio::time::timeout(STOP_GRACE, stop).await;
            Err(Quiet::Signal(number).into())
        }
    }
}

/// Writes what the command writes until it exits.
async fn copy_output(mut events: ExecOutput) -> anyhow::Result<u8> {
    let (mut stdout, mut stderr) = (own(std::io::stdout())?, own(std::io::stderr())?);
    while let Some(event) = events.next().await? {
        match event {
            ExecEvent::Started { .. } => {}
            ExecEvent::Stdout(data) => write(&mut stdout, &data).await.map_err(output::stdout_error)?,
            // As everywhere, a closed standard error is no reason to end.
            ExecEvent::Stderr(data) => drop(write(&mut stderr, &data).await),
            ExecEvent::Exited { exit_code } => return Ok(exit_status(exit_code)),
        }
    }
    Err(client::Error::Truncated.into())
}

/// The part of an exit code that a process can end with.
pub fn exit_status(exit_code: i32) -> u8 {
    u8::try_from(exit_code & 0xff).unwrap_or(u8::MAX)
}

/// A stream of ours without the line buffer that `std` puts before it.
fn own(stream: impl AsFd) -> anyhow::Result<File> {
    let fd = stream.as_fd().try_clone_to_owned().context("standard output cannot be used")?;
    Ok(File::from_std(StdFile::from(fd)))
}

async fn write(file: &mut File, data: &[u8]) -> std::io::Result<()> {
    file.write_all(data).await?;
    file.flush().await
}

/// Passes on what comes, in order. Ends when the connection does; what is then still to come is of no use.
async fn send_input(mut input: ExecInput, mut messages: mpsc::Receiver<Input>) {
    while let Some(message) = messages.recv().await {
        let sent = match message {
            Input::Data(data) => input.write(&data).await,
            Input::EndOfFile => input.close().await,
            Input::Resize => input.resize(terminal::size()).await,
            Input::Stop => input.stop().await,
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn read_stdin(sender: mpsc::Sender<Input>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; INPUT_CHUNK];
    loop {
        let message = match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => Input::EndOfFile,
            Ok(count) => Input::Data(Bytes::copy_from_slice(&buffer[..count])),
        };
        let end = matches!(message, Input::EndOfFile);
        if sender.send(message).await.is_err() || end {
            return;
        }
    }
}

async fn watch_size(sender: mpsc::Sender<Input>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    while changes.recv().await.is_some() {
        if sender.send(Input::Resize).await.is_err() {
            return;
        }
    }
}
