//! What a process writes, on its way to everybody who listens.
//!
//! Nothing is dropped: each listener has a short queue, and where one is full the pump waits, so the process
//! itself waits in its next write. A listener that hangs up is forgotten; with none left output goes nowhere and
//! the process runs on. The end comes after all output.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::descriptor::Descriptor;
use crate::reaper::Exit;

/// Messages that wait for one slow listener before the process has to.
const QUEUE: usize = 8;

/// How long after the end of a process its pipes must be silent to count as done, when something that it left
/// behind still holds them open.
const SILENCE: Duration = Duration::from_secs(1);

/// Which descriptor a piece of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Stdout,
    Stderr,
    Terminal,
}

impl Source {
    /// Longest piece, bytes (E2B contract 2.4).
    const fn piece(self) -> usize {
        match self {
            Self::Stdout | Self::Stderr => 32 << 10,
            Self::Terminal => 16 << 10,
        }
    }
}

/// How and why a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub exit: Exit,
    /// Killed because its deadline passed.
    pub timed_out: bool,
}

/// What a listener receives.
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
    /// Output from now on, then the end; after the end only that.
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

    /// Tells everybody the end. Returns when all have it in their queue or are gone.
    pub async fn finish(&self, end: End) {
        let listeners = {
            let mut state = self.lock();
            state.end = Some(end);
            std::mem::take(&mut state.listeners)
        };
        join_all(listeners.iter().map(|l| l.send(Event::End(end)))).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries one pipe to the listeners, to its end, or until it is silent after the process has `exited`.
pub async fn pump(output: Arc<Output>, source: Source, from: Arc<Descriptor>, mut exited: watch::Receiver<bool>) {
    let mut buffer = vec![0; source.piece()];
    loop {
        let read = from.read(&mut buffer);
        let got = if *exited.borrow() {
            match timeout(SILENCE, read).await {
                Ok(got) => got,
                Err(_) => break,
            }
        } else {
            tokio::select! {
                got = read => got,
                _ = exited.changed() => continue,
            }
        };
        match got {
            Ok(0) => return,
            Ok(length) => output.publish(&Event::Data(source, Bytes::copy_from_slice(&buffer[..length]))).await,
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
