//! Output of a process, on its way to all listeners.
//!
//! Nothing is dropped: each listener has a short queue, and where one is full the pump waits, so
//! the process itself waits in its next write. A listener that hangs up is forgotten; with none
//! left output goes nowhere and the process runs on. The end comes after all output.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::descriptor::Descriptor;
use crate::reaper::Exit;

/// Messages that wait for one slow listener before the process has to.
const QUEUE: usize = 8;

/// Time for which a process's pipes must be silent after its end to count as done, when something
/// that it left behind still holds them open.
const SILENCE: Duration = Duration::from_secs(1);

/// Longest time for which processes left behind can hold back the end by writing on.
const LINGER: Duration = Duration::from_secs(2);

/// Maximum number of bytes that a pipe holds (`fs.pipe-max-size`): anything behind them was not
/// written by the process itself.
const HELD: usize = 1 << 20;

/// Descriptor that a piece of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Stdout,
    Stderr,
    Terminal,
}

impl Source {
    /// Returns the longest piece, in bytes (E2B contract 2.4).
    const fn piece(self) -> usize {
        match self {
            Self::Stdout | Self::Stderr => 32 << 10,
            Self::Terminal => 16 << 10,
        }
    }
}

/// End of a process: its exit and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub exit: Exit,
    /// True if it was killed because its deadline passed.
    pub timed_out: bool,
}

/// Event that a listener receives.
#[derive(Debug, Clone)]
pub enum Event {
    Data(Source, Bytes),
    /// The last one.
    End(End),
}

/// All listeners of one process.
#[derive(Debug, Default)]
pub struct Output {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    listeners: Vec<mpsc::Sender<Event>>,
    end: Option<End>,
}

impl Output {
    /// Subscribes to output from now on and the end; after the end, to that alone.
    pub fn listen(&self) -> mpsc::Receiver<Event> {
        let (send, receive) = mpsc::channel(QUEUE);
        let mut state = self.lock();
        match state.end {
            // The queue is empty, so there is room.
            Some(end) => drop(send.try_send(Event::End(end))),
            None => state.listeners.push(send),
        }
        receive
    }

    async fn publish(&self, event: &Event) {
        let listeners = self.lock().listeners.clone();
        let mut gone = false;
        for listener in &listeners {
            gone |= listener.send(event.clone()).await.is_err();
        }
        if gone {
            self.lock().listeners.retain(|l| !l.is_closed());
        }
    }

    /// Sends the end to all listeners. Returns when all have it in their queue or are gone.
    pub async fn finish(&self, end: End) {
        let listeners = {
            let mut state = self.lock();
            state.end = Some(end);
            std::mem::take(&mut state.listeners)
        };
        join_all(listeners.iter().map(|l| l.send(Event::End(end)))).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Bytes that a pipe brings after the process has exited.
struct Tail {
    since: Instant,
    bytes: usize,
    /// Time spent waiting for the pipe, not for listeners.
    waited: Duration,
}

impl Tail {
    /// Returns true if all that the process itself wrote is through, and others have had their
    /// time.
    fn over(&self) -> bool {
        self.waited >= LINGER || (self.bytes >= HELD && self.since.elapsed() >= LINGER)
    }

    /// Reads as long as the pipe is not silent.
    async fn read(&mut self, from: &Descriptor, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        let begin = Instant::now();
        let got = timeout(SILENCE, from.read(buffer)).await.ok()?;
        self.waited += begin.elapsed();
        self.bytes += got.as_ref().copied().unwrap_or(0);
        Some(got)
    }
}

/// Carries one pipe to the listeners, to its end. After the process has `exited`, something that it
/// left behind may hold the pipe open: then until it is silent, or has gone on for [`LINGER`].
pub async fn pump_output(
    output: Arc<Output>,
    source: Source,
    from: Arc<Descriptor>,
    mut exited: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; source.piece()];
    let mut tail: Option<Tail> = None;
    loop {
        let got = match &mut tail {
            Some(tail) if tail.over() => break,
            Some(tail) => match tail.read(&from, &mut buffer).await {
                Some(got) => got,
                None => break,
            },
            None => tokio::select! {
                got = from.read(&mut buffer) => got,
                _ = exited.wait_for(|exited| *exited) => {
                    tail = Some(Tail { since: Instant::now(), bytes: 0, waited: Duration::ZERO });
                    continue;
                }
            },
        };
        match got {
            Ok(0) => return,
            Ok(length) => {
                output
                    .publish(&Event::Data(
                        source,
                        Bytes::copy_from_slice(&buffer[..length]),
                    ))
                    .await
            }
            Err(e) => {
                tracing::warn!("reading {source:?} of a process failed: {e}");
                return;
            }
        }
    }
    tokio::spawn(discard(from, buffer));
}

/// Keeps a pipe open for those left behind, so that their next line does not kill them.
async fn discard(from: Arc<Descriptor>, mut buffer: Vec<u8>) {
    while matches!(from.read(&mut buffer).await, Ok(length) if length > 0) {}
}
