//! Watches of fake sandboxes: a change of each kind and a loss, then nothing more. That of `/gone` ends
//! after its first change; that of `/cut` fails then, as when the sandbox is paused.

use std::sync::Arc;

use connectrpc::{ConnectError, ServiceStream};
use futures::{StreamExt, stream};
use host_rpc as rpc;
use host_rpc::__buffa::oneof::watch_dir_response::Event;
use host_rpc::watch_dir_response::{ChangesLost, FileChanges, WatchEnded, WatchStarted};

use super::world::Sandbox;
use super::{Shared, files};

/// Counts a watch for as long as it is there.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        shared.world().open_watches += 1;
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.world().open_watches -= 1;
    }
}

pub(super) fn watch(
    shared: Arc<Shared>,
    request: &rpc::WatchDirRequest,
) -> Result<ServiceStream<rpc::WatchDirResponse>, ConnectError> {
    let events = {
        let mut world = shared.world();
        events(world.sandbox(&request.sandbox_id)?, &request.path)?
    };
    let open = Open::new(shared);
    let events = events.map(move |event| {
        let _ = &open;
        event
    });
    Ok(events.boxed())
}

fn events(
    sandbox: &Sandbox,
    path: &str,
) -> Result<ServiceStream<rpc::WatchDirResponse>, ConnectError> {
    let top = match path {
        "/gone" | "/cut" => path.to_owned(),
        path => files::stat(sandbox, path)?.path,
    };
    let started = Event::from(WatchStarted::default());
    let created = changes(&top, &[rpc::ChangeKind::CHANGE_KIND_CREATE]);
    if top == "/gone" {
        let ended = WatchEnded {
            reason: "the watched directory was removed".to_owned(),
            ..Default::default()
        };
        let events = [started, created, Event::from(ended)];
        return Ok(stream::iter(events).map(message).boxed());
    }
    if top == "/cut" {
        let cut = ConnectError::failed_precondition("the sandbox is paused");
        let events = stream::iter([started, created]).map(message);
        return Ok(events.chain(stream::iter([Err(cut)])).boxed());
    }
    let kinds = [
        rpc::ChangeKind::CHANGE_KIND_CREATE,
        rpc::ChangeKind::CHANGE_KIND_WRITE,
        rpc::ChangeKind::CHANGE_KIND_CHMOD,
        rpc::ChangeKind::CHANGE_KIND_RENAME,
        rpc::ChangeKind::CHANGE_KIND_REMOVE,
    ];
    let lost = ChangesLost {
        reason: "the kernel's queue was full".to_owned(),
        ..Default::default()
    };
    let events = [started, changes(&top, &kinds), Event::from(lost)];
    let events = stream::iter(events).map(message);
    Ok(events.chain(stream::pending()).boxed())
}

fn message(event: Event) -> Result<rpc::WatchDirResponse, ConnectError> {
    Ok(rpc::WatchDirResponse {
        event: Some(event),
        ..Default::default()
    })
}

fn changes(top: &str, kinds: &[rpc::ChangeKind]) -> Event {
    let change = |kind: &rpc::ChangeKind| rpc::FileChange {
        kind: (*kind).into(),
        path: format!("{top}/file"),
        from: (*kind == rpc::ChangeKind::CHANGE_KIND_RENAME).then(|| format!("{top}/before")),
        ..Default::default()
    };
    Event::from(FileChanges {
        changes: kinds.iter().map(change).collect(),
        ..Default::default()
    })
}
