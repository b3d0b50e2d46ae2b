//! Watches of directories: the guest sees the changes, this passes them on and checks them.
//!
//! A watch counts as use of the sandbox until its reader is gone. It ends with the VM, also when
//! that is paused: the reader is told so, and watches again.

use std::time::Duration;

use connectrpc::{ConnectError, ServiceStream};
use futures::StreamExt;
use guest_rpc::file as guest;
use guest_rpc::file::__buffa::oneof::watch_response::Event as GuestEvent;
use host_rpc as rpc;
use host_rpc::__buffa::oneof::watch_dir_response::Event;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::alive;
use super::error::pass_on;
use super::paths::{MAX_PATH_TEXT, bounded, check_path};
use crate::guest::{WatchStream, explain_old_files};
use crate::sandbox::Handle;
use crate::sandbox::activity::Active;

/// Most messages in the queue to a reader. When it is full, changes stay in the guest.
const QUEUE: usize = 4;
/// Time for the guest to begin: it looks at each directory of the tree first.
const START_TIMEOUT: Duration = Duration::from_secs(180);
/// Most changes in one message; a guest of ours sends 256.
const MAX_CHANGES: usize = 1024;
/// Most bytes of a reason.
const MAX_REASON: usize = 1000;

/// Streams changes below a directory.
pub(super) async fn watch_dir(
    handle: Handle,
    request: rpc::WatchDirRequest,
) -> Result<ServiceStream<rpc::WatchDirResponse>, ConnectError> {
    check_path(&request.path)?;
    let active = handle.activity.begin();
    let ask = guest::WatchRequest {
        path: request.path,
        recursive: request.recursive,
        allow_network_mounts: request.allow_network_mounts,
        ..Default::default()
    };
    let client = handle.guest();
    let mut stream = client
        .watch_dir(ask, request.user.as_deref())
        .await
        .map_err(|error| pass_on(&error))?;
    // Refusals come with the first message.
    let first = timeout(START_TIMEOUT, stream.message::<guest::WatchResponse>()).await;
    let first = first
        .map_err(|_| ConnectError::deadline_exceeded("the guest agent does not begin to watch"))?
        .map_err(|error| pass_on(&explain_old_files(error)))?
        .and_then(|message| message.to_owned_message().event);
    if !matches!(first, Some(GuestEvent::Started(_))) {
        return Err(ConnectError::internal(
            "the guest agent began a watch with something else than its start",
        ));
    }
    let (sender, receiver) = mpsc::channel(QUEUE);
    let started = rpc::watch_dir_response::WatchStarted::default();
    let first = sender.try_send(Ok(message(Event::from(started))));
    debug_assert!(first.is_ok(), "the queue is empty");
    tokio::spawn(carry(handle, stream, sender, active));
    Ok(ReceiverStream::new(receiver).boxed())
}

async fn carry(
    handle: Handle,
    mut stream: WatchStream,
    sender: mpsc::Sender<Result<rpc::WatchDirResponse, ConnectError>>,
    _active: Active,
) {
    let mut ended = std::pin::pin!(alive::wait_until_ended(&handle));
    loop {
        let received = tokio::select! {
            biased;
            () = sender.closed() => return,
            received = stream.message::<guest::WatchResponse>() => received.map_err(|error| {
                // The end of the VM can also show as a broken connection.
                if handle.record.borrow().phase.is_up() {
                    pass_on(&error)
                } else {
                    alive::unreachable_error(&handle)
                }
            }),
            error = &mut ended => Err(error),
        };
        let event = match received {
            Ok(None) => return,
            Ok(Some(received)) => checked(received.to_owned_message()),
            Err(error) => Err(error),
        };
        let message = match event {
            Ok(None) => continue,
            Ok(Some(event)) => Ok(message(event)),
            Err(error) => Err(error),
        };
        let is_last = message.is_err();
        if sender.send(message).await.is_err() || is_last {
            return;
        }
    }
}

fn message(event: Event) -> rpc::WatchDirResponse {
    rpc::WatchDirResponse {
        event: Some(event),
        ..Default::default()
    }
}

/// Converts an event of the guest; `None` for one that says nothing.
pub(super) fn checked(message: guest::WatchResponse) -> Result<Option<Event>, ConnectError> {
    let Some(event) = message.event else {
        return Ok(None);
    };
    Ok(Some(match event {
        GuestEvent::Changes(changes) if changes.changes.len() > MAX_CHANGES => {
            return Err(ConnectError::internal(
                "the guest agent sent more changes at once than it may",
            ));
        }
        GuestEvent::Changes(changes) => Event::from(rpc::watch_dir_response::FileChanges {
            changes: changes.changes.into_iter().filter_map(change).collect(),
            ..Default::default()
        }),
        GuestEvent::Lost(lost) => Event::from(rpc::watch_dir_response::ChangesLost {
            reason: bounded(lost.reason, MAX_REASON),
            ..Default::default()
        }),
        GuestEvent::Ended(ended) => Event::from(rpc::watch_dir_response::WatchEnded {
            reason: bounded(ended.reason, MAX_REASON),
            ..Default::default()
        }),
        GuestEvent::Started(_) | GuestEvent::Keepalive(_) => return Ok(None),
    }))
}

/// Converts a change; `None` for one of a kind that this version does not know.
fn change(change: guest::Change) -> Option<rpc::FileChange> {
    let kind = match change.kind.as_known()? {
        guest::ChangeKind::CHANGE_KIND_CREATE => rpc::ChangeKind::CHANGE_KIND_CREATE,
        guest::ChangeKind::CHANGE_KIND_WRITE => rpc::ChangeKind::CHANGE_KIND_WRITE,
        guest::ChangeKind::CHANGE_KIND_REMOVE => rpc::ChangeKind::CHANGE_KIND_REMOVE,
        guest::ChangeKind::CHANGE_KIND_RENAME => rpc::ChangeKind::CHANGE_KIND_RENAME,
        guest::ChangeKind::CHANGE_KIND_CHMOD => rpc::ChangeKind::CHANGE_KIND_CHMOD,
        guest::ChangeKind::CHANGE_KIND_UNSPECIFIED => return None,
    };
    Some(rpc::FileChange {
        kind: kind.into(),
        path: bounded(change.path, MAX_PATH_TEXT),
        from: change.from.map(|from| bounded(from, MAX_PATH_TEXT)),
        is_directory: change.is_directory,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use guest_rpc::file::watch_response::{Changes, Lost};

    use super::*;

    fn event(event: impl Into<GuestEvent>) -> Result<Option<Event>, ConnectError> {
        checked(guest::WatchResponse {
            event: Some(event.into()),
            ..Default::default()
        })
    }

    #[test]
    fn changes_of_guest_are_bounded() {
        let change = guest::Change {
            kind: guest::ChangeKind::CHANGE_KIND_RENAME.into(),
            path: "x".repeat(100_000),
            from: Some("y".repeat(100_000)),
            ..Default::default()
        };
        let changes = |count| Changes {
            changes: vec![change.clone(); count],
            ..Default::default()
        };
        event(changes(MAX_CHANGES + 1)).unwrap_err();
        let Some(Event::Changes(passed)) = event(changes(1)).unwrap() else {
            panic!("changes");
        };
        let passed = &passed.changes[0];
        assert_eq!(passed.path.len(), MAX_PATH_TEXT);
        assert_eq!(passed.from.as_ref().unwrap().len(), MAX_PATH_TEXT);
        let lost = Lost {
            reason: "x".repeat(100_000),
            ..Default::default()
        };
        let Some(Event::Lost(lost)) = event(lost).unwrap() else {
            panic!("lost");
        };
        assert_eq!(lost.reason.len(), MAX_REASON);
    }
}
