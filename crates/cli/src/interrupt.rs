//! Signals that ask a command to end.

use client::types::ProcessSignal;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT, SIGTERM, SIGHUP and SIGQUIT. While this lives, and afterwards, they no longer end the
/// process by themselves.
#[derive(Debug)]
pub struct Interrupt {
    int: Signal,
    term: Signal,
    hup: Signal,
    quit: Signal,
}

impl Interrupt {
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
            hup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Waits for the next one.
    pub async fn recv(&mut self) -> ProcessSignal {
        tokio::select! {
            _ = self.int.recv() => ProcessSignal::Interrupt,
            _ = self.term.recv() => ProcessSignal::Terminate,
            _ = self.hup.recv() => ProcessSignal::Hangup,
            _ = self.quit.recv() => ProcessSignal::Quit,
        }
    }
}
