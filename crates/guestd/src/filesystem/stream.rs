//! `WatchDir`: a watch as a stream. Start first, then events as they come, a keepalive after every
//! idle while.
//!
//! Events are taken over only when the client has taken the ones before, so a slow client costs the
//! kernel's queue and nothing here; where that overflows the stream ends with `data_loss`. Dropping
//! the stream ends the watch.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

use connectrpc::{ConnectError, RequestContext};
use futures::Stream;
use guest_rpc::filesystem::watch_dir_response::{KeepAlive, StartEvent};
use guest_rpc::filesystem::{FilesystemEvent, WatchDirResponse};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use super::error::{FileError, Kind};
use super::watch::Watch;
use crate::as_user::blocking_as_user;
use crate::keepalive;

struct State {
    /// Away while it is being drained; a stream that lost it has ended.
    watch: Option<Watch>,
    descriptor: AsyncFd<OwnedFd>,
    pending: VecDeque<FilesystemEvent>,
    keepalive: Duration,
    next_keepalive: Instant,
    deadline: Option<Instant>,
    started: bool,
    /// The kernel holds more than the last drain took.
    more: bool,
}

/// Returns the events of a watch that has started.
///
/// # Errors
/// Exhausted where there are no descriptors left.
pub fn stream_events(
    watch: Watch,
    context: &RequestContext,
) -> Result<impl Stream<Item = Result<WatchDirResponse, ConnectError>> + Send + use<>, FileError> {
    let descriptor = watch.readiness()?;
    let keepalive = keepalive::keepalive_interval(context.headers());
    let state = State {
        watch: Some(watch),
        descriptor,
        pending: VecDeque::new(),
        keepalive,
        next_keepalive: Instant::now() + keepalive,
        deadline: context.deadline().map(Instant::from_std),
        started: false,
        more: false,
    };
    Ok(futures::stream::unfold(Some(state), async |state| {
        let mut state = state?;
        match state.next().await {
            Ok(message) => Some((Ok(message), Some(state))),
            Err(e) => Some((Err(e), None)),
        }
    }))
}

impl State {
    async fn next(&mut self) -> Result<WatchDirResponse, ConnectError> {
        if !self.started {
            self.started = true;
            return Ok(WatchDirResponse {
                event: StartEvent::default().into(),
                ..Default::default()
            });
        }
        loop {
            if let Some(event) = self.pending.pop_front() {
                self.next_keepalive = Instant::now() + self.keepalive;
                return Ok(WatchDirResponse {
                    event: event.into(),
                    ..Default::default()
                });
            }
            if self.more {
                self.drain().await?;
                continue;
            }
            tokio::select! {
                biased;
                () = at(self.deadline) => return Err(ConnectError::deadline_exceeded("the time of the watch is over")),
                ready = self.descriptor.readable() => {
                    ready.map_err(|e| ConnectError::internal(format!("cannot wait for events: {e}")))?.clear_ready();
                }
                () = sleep_until(self.next_keepalive) => {
                    self.next_keepalive = Instant::now() + self.keepalive;
                    return Ok(WatchDirResponse { event: KeepAlive::default().into(), ..Default::default() });
                }
            }
            self.drain().await?;
        }
    }

    async fn drain(&mut self) -> Result<(), FileError> {
        let gone = || FileError::new(Kind::Internal, "the watch has ended");
        let mut watch = self.watch.take().ok_or_else(gone)?;
        let (watch, more, events) = blocking_as_user(move || {
            let more = watch.drain();
            let events = watch.take();
            Ok((watch, more, events))
        })
        .await?;
        self.watch = Some(watch);
        self.more = more;
        self.pending = events?;
        Ok(())
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
