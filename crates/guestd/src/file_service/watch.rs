//! `Watch`: changes below a directory as a stream.
//!
//! `started` comes first, when everything that changes from then on is seen. Changes are taken over
//! only when the client has taken those before, so a slow client costs the kernel's queue and
//! [`QUEUE`] changes here; where the kernel's queue overflows, `lost` says so and the watch goes on.
//! It ends, with the reason, when the directory itself goes. Dropping the stream ends the watch.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use connectrpc::{ConnectError, RequestContext};
use futures::Stream;
use guest_rpc::bytes;
use guest_rpc::file as rpc;
use guest_rpc::file::watch_response::{Changes, Ended, KeepAlive, Lost, Started};
use guest_rpc::filesystem::EventType;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use crate::as_user::blocking_as_user;
use crate::filesystem::change::Change;
use crate::filesystem::error::{FileError, Kind};
use crate::filesystem::watch::Watch;
use crate::keepalive;

/// Most changes that are held for a client.
pub const QUEUE: usize = 4096;

/// Most changes of one message.
const MAX_CHANGES: usize = 256;

/// Bytes of paths after which a message ends: one of the host may have four times as many.
const MAX_TEXT: usize = 1 << 20;

struct State {
    /// Away while it is being drained; a stream that lost it has ended.
    watch: Option<Watch>,
    top: PathBuf,
    descriptor: AsyncFd<OwnedFd>,
    pending: VecDeque<Change>,
    lost: Option<&'static str>,
    ended: Option<&'static str>,
    keepalive: Duration,
    next_keepalive: Instant,
    is_started: bool,
    /// The kernel holds more than the last drain took.
    has_more: bool,
    is_finished: bool,
}

/// Returns the changes of a watch that has started.
///
/// # Errors
/// Exhausted where there are no descriptors left.
pub fn stream_changes(
    watch: Watch,
    context: &RequestContext,
) -> Result<impl Stream<Item = Result<rpc::WatchResponse, ConnectError>> + Send + use<>, FileError>
{
    let descriptor = watch.readiness()?;
    let keepalive = keepalive::keepalive_interval(context.headers());
    let state = State {
        top: watch.path().to_path_buf(),
        watch: Some(watch),
        descriptor,
        pending: VecDeque::new(),
        lost: None,
        ended: None,
        keepalive,
        next_keepalive: Instant::now() + keepalive,
        is_started: false,
        has_more: false,
        is_finished: false,
    };
    Ok(futures::stream::unfold(Some(state), async |state| {
        let mut state = state?;
        match state.next().await {
            Ok(Some(message)) => Some((Ok(message), Some(state))),
            Ok(None) => None,
            Err(e) => Some((Err(e), None)),
        }
    }))
}

impl State {
    /// Returns the next message; `None` after the last.
    async fn next(&mut self) -> Result<Option<rpc::WatchResponse>, ConnectError> {
        if self.is_finished {
            return Ok(None);
        }
        if !self.is_started {
            self.is_started = true;
            return Ok(Some(message(Started::default())));
        }
        loop {
            if let Some(reason) = self.lost.take() {
                return Ok(Some(message(Lost {
                    reason: reason.to_owned(),
                    ..Default::default()
                })));
            }
            if !self.pending.is_empty() {
                self.next_keepalive = Instant::now() + self.keepalive;
                return Ok(Some(message(self.next_changes())));
            }
            if let Some(reason) = self.ended {
                self.is_finished = true;
                return Ok(Some(message(Ended {
                    reason: reason.to_owned(),
                    ..Default::default()
                })));
            }
            if !self.has_more {
                tokio::select! {
                    biased;
                    ready = self.descriptor.readable() => {
                        let failed = |e| ConnectError::internal(format!("cannot wait for events: {e}"));
                        ready.map_err(failed)?.clear_ready();
                    }
                    () = sleep_until(self.next_keepalive) => {
                        self.next_keepalive = Instant::now() + self.keepalive;
                        return Ok(Some(message(KeepAlive::default())));
                    }
                }
            }
            self.drain().await?;
        }
    }

    async fn drain(&mut self) -> Result<(), FileError> {
        let gone = || FileError::new(Kind::Internal, "the watch has ended");
        let mut watch = self.watch.take().ok_or_else(gone)?;
        let (watch, has_more) = blocking_as_user(move || {
            let has_more = watch.drain();
            Ok((watch, has_more))
        })
        .await?;
        let watch = self.watch.insert(watch);
        self.has_more = has_more;
        (self.lost, self.pending) = watch.take_changes();
        self.ended = watch.ended();
        Ok(())
    }

    fn next_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        let mut text = 0;
        while changes.changes.len() < MAX_CHANGES && text < MAX_TEXT {
            let Some(change) = self.pending.pop_front() else {
                break;
            };
            let change = describe(&self.top, &change);
            text += change.path.len() + change.from.as_ref().map_or(0, String::len);
            // Each write of a program is a change of its own for the kernel.
            let is_repeated = change.kind == rpc::ChangeKind::CHANGE_KIND_WRITE
                && changes.changes.last() == Some(&change);
            if !is_repeated {
                changes.changes.push(change);
            }
        }
        changes
    }
}

fn message(event: impl Into<rpc::__buffa::oneof::watch_response::Event>) -> rpc::WatchResponse {
    rpc::WatchResponse {
        event: Some(event.into()),
        ..Default::default()
    }
}

fn describe(top: &Path, change: &Change) -> rpc::Change {
    let absolute = |path: &Path| {
        let path = match path == Path::new(".") {
            true => top.to_path_buf(),
            false => top.join(path),
        };
        bytes::to_text(path.as_os_str().as_bytes())
    };
    let kind = match change.kind {
        EventType::EVENT_TYPE_CREATE => rpc::ChangeKind::CHANGE_KIND_CREATE,
        EventType::EVENT_TYPE_WRITE => rpc::ChangeKind::CHANGE_KIND_WRITE,
        EventType::EVENT_TYPE_REMOVE => rpc::ChangeKind::CHANGE_KIND_REMOVE,
        EventType::EVENT_TYPE_RENAME => rpc::ChangeKind::CHANGE_KIND_RENAME,
        EventType::EVENT_TYPE_CHMOD => rpc::ChangeKind::CHANGE_KIND_CHMOD,
        EventType::EVENT_TYPE_UNSPECIFIED => rpc::ChangeKind::CHANGE_KIND_UNSPECIFIED,
    };
    rpc::Change {
        kind: kind.into(),
        path: absolute(&change.path),
        from: change.from.as_deref().map(absolute),
        is_directory: change.is_dir,
        ..Default::default()
    }
}
