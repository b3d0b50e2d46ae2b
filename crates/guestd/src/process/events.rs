//! Events of a process on the wire: `start`, data, keepalives while nothing happens, `end`.

use std::time::Duration;

use connectrpc::ConnectError;
use futures::Stream;
use guest_rpc::process::__buffa::oneof::process_event::Event as Wire;
use guest_rpc::process::__buffa::oneof::process_event::data_event::Output as Data;
use guest_rpc::process::ProcessEvent;
use guest_rpc::process::process_event::{DataEvent, EndEvent, KeepAlive, StartEvent};
use http::HeaderMap;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::output::{End, Event, Source};
use crate::keepalive;
use crate::reaper::Exit;

/// Reason that a stream ended other than the end of the process.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// The process is killed at its deadline, and the stream says so in place of an end.
    OfProcess,
    /// Limit of the stream alone.
    OfStream(Option<Instant>),
}

/// A stream of events.
#[derive(Debug)]
pub struct Events {
    pid: u32,
    listener: mpsc::Receiver<Event>,
    keepalive: Duration,
    bound: Bound,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    Started,
    Ended,
}

impl Events {
    /// Creates the events of a process for a request with `headers`, which set the keepalive.
    pub fn new(
        pid: u32,
        listener: mpsc::Receiver<Event>,
        headers: &HeaderMap,
        bound: Bound,
    ) -> Self {
        Self {
            pid,
            listener,
            keepalive: keepalive::keepalive_interval(headers),
            bound,
            state: State::Fresh,
        }
    }

    /// Converts the events to a stream of `T`, which wraps an event.
    pub fn into_stream<T>(
        self,
        wrap: impl Fn(ProcessEvent) -> T + Send + 'static,
    ) -> impl Stream<Item = Result<T, ConnectError>> + Send + 'static {
        futures::stream::unfold((self, wrap), |(mut events, wrap)| async move {
            let next = events.next().await?;
            Some((next.map(&wrap), (events, wrap)))
        })
    }

    async fn next(&mut self) -> Option<Result<ProcessEvent, ConnectError>> {
        match self.state {
            State::Ended => return None,
            State::Fresh => {
                self.state = State::Started;
                return Some(Ok(wire(StartEvent {
                    pid: self.pid,
                    ..Default::default()
                })));
            }
            State::Started => {}
        }
        let Ok(received) = self.receive().await else {
            self.state = State::Ended;
            return Some(Err(ConnectError::deadline_exceeded(
                "the deadline of this stream passed; the process runs on",
            )));
        };
        Some(match received {
            None => Ok(wire(KeepAlive::default())),
            Some(Event::Data(source, bytes)) => Ok(data(source, bytes.to_vec())),
            Some(Event::End(reason)) => {
                self.state = State::Ended;
                match self.bound {
                    Bound::OfProcess if reason.timed_out => Err(ConnectError::deadline_exceeded(
                        "the deadline passed and the process was killed",
                    )),
                    _ => Ok(wire(end(reason.exit))),
                }
            }
        })
    }

    /// Waits for an event; `None` when it is time for a keepalive.
    ///
    /// # Errors
    /// When the time limit of the stream has passed.
    async fn receive(&mut self) -> Result<Option<Event>, tokio::time::error::Elapsed> {
        let receiving = timeout(self.keepalive, self.listener.recv());
        let received = match self.bound {
            Bound::OfStream(Some(deadline)) => timeout_at(deadline, receiving).await?,
            _ => receiving.await,
        };
        Ok(match received {
            Err(_) => None,
            Ok(Some(event)) => Some(event),
            // The task of a process always tells its end; without one it was torn down with the
            // agent.
            Ok(None) => Some(Event::End(End {
                exit: Exit::Signal(9, false),
                timed_out: false,
            })),
        })
    }
}

fn wire(event: impl Into<Wire>) -> ProcessEvent {
    ProcessEvent {
        event: Some(event.into()),
        ..Default::default()
    }
}

fn data(source: Source, bytes: Vec<u8>) -> ProcessEvent {
    let output = match source {
        Source::Stdout => Data::Stdout(bytes),
        Source::Stderr => Data::Stderr(bytes),
        Source::Terminal => Data::Pty(bytes),
    };
    wire(DataEvent {
        output: Some(output),
        ..Default::default()
    })
}

/// Converts an exit to the forms that the SDKs know (E2B contract 2.4).
fn end(exit: Exit) -> EndEvent {
    let (exit_code, exited, status) = match exit {
        Exit::Code(code) => (code, true, format!("exit status {code}")),
        Exit::Signal(number, core) => {
            let dumped = if core { " (core dumped)" } else { "" };
            (
                -1,
                false,
                format!("signal: {}{dumped}", signal_name(number)),
            )
        }
    };
    let error = (exit != Exit::Code(0)).then(|| status.clone());
    EndEvent {
        exit_code,
        exited,
        status,
        error,
        ..Default::default()
    }
}

/// Returns the name of a signal as the reference agent spells it.
fn signal_name(number: i32) -> String {
    let name = match number {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_events_follow_the_contract() {
        let clean = end(Exit::Code(0));
        assert_eq!(
            (
                clean.exit_code,
                clean.exited,
                clean.status.as_str(),
                clean.error
            ),
            (0, true, "exit status 0", None)
        );
        let failed = end(Exit::Code(3));
        assert_eq!(
            (failed.exit_code, failed.exited, failed.error.as_deref()),
            (3, true, Some("exit status 3"))
        );
        let killed = end(Exit::Signal(9, false));
        assert_eq!(
            (killed.exit_code, killed.exited, killed.status.as_str()),
            (-1, false, "signal: killed")
        );
        assert_eq!(killed.error.as_deref(), Some("signal: killed"));
        assert_eq!(
            end(Exit::Signal(6, true)).status,
            "signal: aborted (core dumped)"
        );
        assert_eq!(end(Exit::Signal(40, false)).status, "signal: signal 40");
    }
}
