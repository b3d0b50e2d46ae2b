//! Reports of all sandboxes as they change, and of their background commands that have ended.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::{ConnectError, ServiceStream};
use futures::StreamExt;
use host_rpc as rpc;
use host_rpc::__buffa::oneof::watch_sandboxes_response::Event;
use host_rpc::watch_sandboxes_response::{Heartbeat, Synced};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::sandbox::{Manager, command_ends};

/// Interval of heartbeats, by which a watcher notices a dead connection.
const HEARTBEAT: Duration = Duration::from_secs(5);

type Sender = mpsc::Sender<Result<rpc::WatchSandboxesResponse, ConnectError>>;

pub(super) fn watch_sandboxes(manager: Arc<Manager>) -> ServiceStream<rpc::WatchSandboxesResponse> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        // An error means that the watcher has gone.
        let _ = send_all(&manager, &sender).await;
    });
    ReceiverStream::new(receiver).boxed()
}

async fn send_all(
    manager: &Manager,
    sender: &Sender,
) -> Result<(), mpsc::error::SendError<Result<rpc::WatchSandboxesResponse, ConnectError>>> {
    let event = |event| {
        Ok(rpc::WatchSandboxesResponse {
            event: Some(event),
            ..Default::default()
        })
    };
    // From before the list, so that no change falls between the two; an old report after a newer
    // one is harmless.
    let state = &manager.host.state;
    let mut reports = state.reports.subscribe();
    let mut ends = state.command_ends.subscribe();
    loop {
        for handle in manager.list_sandboxes().await {
            sender
                .send(event(Event::from(super::report_of(&manager.host, &handle))))
                .await?;
            let ended = handle.command_ends.list_ended();
            if !ended.is_empty() {
                let ended = command_ends::report_of(&handle.id, ended);
                sender.send(event(Event::from(ended))).await?;
            }
        }
        sender.send(event(Event::from(Synced::default()))).await?;
        loop {
            tokio::select! {
                () = sender.closed() => return Ok(()),
                () = tokio::time::sleep(HEARTBEAT) => sender.send(event(Event::from(Heartbeat::default()))).await?,
                report = reports.recv() => match report {
                    Ok(report) => sender.send(event(Event::from(report))).await?,
                    // Too far behind: everything afresh.
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return Ok(()),
                },
                ended = ends.recv() => match ended {
                    Ok(ended) => sender.send(event(Event::from(ended))).await?,
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return Ok(()),
                },
            }
        }
    }
}
