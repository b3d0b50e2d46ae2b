//! Lifecycle of fake sandboxes: create, pause, resume, fork and rollback. Long work goes on even if
//! its caller goes away. The script can fail and hold it at `Boot`, `Save` (of a pause) and
//! `Children` (of a fork).

use std::sync::Arc;

use connectrpc::{ConnectError, ErrorCode};
use host_rpc as rpc;
use host_rpc::SandboxState;

use super::world::{Checkpoint, Sandbox, World};
use super::{Shared, background, saved};

/// Returns the name of a state as users know it.
fn word(state: SandboxState) -> &'static str {
    match state {
        SandboxState::SANDBOX_STATE_PENDING => "pending",
        SandboxState::SANDBOX_STATE_RUNNING => "running",
        SandboxState::SANDBOX_STATE_PAUSED => "paused",
        SandboxState::SANDBOX_STATE_STOPPED => "stopped",
        _ => "error",
    }
}

fn wrong_state(sandbox: &Sandbox) -> ConnectError {
    ConnectError::failed_precondition(format!(
        "the sandbox is {}: {}",
        word(sandbox.state),
        sandbox.reason
    ))
}

pub(super) fn is_alive(state: SandboxState) -> bool {
    matches!(
        state,
        SandboxState::SANDBOX_STATE_RUNNING | SandboxState::SANDBOX_STATE_PAUSED
    )
}

/// Returns a sandbox that is running or paused.
pub(super) fn alive<'a>(world: &'a World, id: &str) -> Result<&'a Sandbox, ConnectError> {
    let sandbox = world.sandboxes.get(id).ok_or_else(|| unknown(id))?;
    if is_alive(sandbox.state) {
        Ok(sandbox)
    } else {
        Err(wrong_state(sandbox))
    }
}

pub(super) fn unknown(id: &str) -> ConnectError {
    ConnectError::not_found(format!("there is no sandbox {id} on this host"))
}

/// Checks that calls on programs and files can be made; resumes a paused sandbox with
/// `auto_resume`.
pub(super) fn usable(shared: &Shared, id: &str) -> Result<(), ConnectError> {
    let (state, auto_resume) = {
        let world = shared.world();
        let sandbox = alive(&world, id)?;
        (sandbox.state, sandbox.spec.auto_resume)
    };
    match state {
        SandboxState::SANDBOX_STATE_PAUSED if auto_resume => {
            become_now(shared, id, state, SandboxState::SANDBOX_STATE_RUNNING).map(drop)
        }
        SandboxState::SANDBOX_STATE_PAUSED => {
            Err(ConnectError::failed_precondition("the sandbox is paused"))
        }
        _ => Ok(()),
    }
}

/// Changes a sandbox in state `from` to `to`, and leaves it in any other state.
fn become_now(
    shared: &Shared,
    id: &str,
    from: SandboxState,
    to: SandboxState,
) -> Result<rpc::SandboxReport, ConnectError> {
    let is_there = alive(&shared.world(), id)?.state == to;
    if !is_there {
        shared.change(id, |sandbox| {
            if sandbox.state == from {
                sandbox.state = to;
            }
        });
    }
    Ok(alive(&shared.world(), id)?.report())
}

pub(super) fn begin(
    shared: &Arc<Shared>,
    id: &str,
    spec: rpc::SandboxSpec,
) -> Result<(), ConnectError> {
    {
        let mut world = shared.world();
        if world.sandboxes.contains_key(id) {
            return Ok(());
        }
        if world.is_full {
            return Err(ConnectError::unavailable("this host is full"));
        }
        let content = saved::content_for(&world, &spec)?;
        world.add(id, SandboxState::SANDBOX_STATE_PENDING, spec);
        world.sandbox(id)?.content = content;
    }
    shared.change(id, |_| {});
    let shared = Arc::clone(shared);
    let id = id.to_owned();
    tokio::spawn(async move {
        let booted = shared.script.meet_barrier("Boot").await;
        if booted.is_ok() {
            background::supervise(&shared, &id);
        }
        shared.change(&id, |sandbox| match booted {
            Ok(()) => sandbox.state = SandboxState::SANDBOX_STATE_RUNNING,
            Err(error) => {
                sandbox.state = SandboxState::SANDBOX_STATE_ERROR;
                sandbox.is_refused = error.code == ErrorCode::FailedPrecondition;
                sandbox.reason = error.message.unwrap_or_default();
            }
        });
    });
    Ok(())
}

pub(super) fn set_network(
    shared: &Shared,
    id: &str,
    rules: Option<rpc::NetworkRules>,
) -> Result<rpc::SandboxReport, ConnectError> {
    alive(&shared.world(), id)?;
    shared.change(id, |sandbox| sandbox.spec.network = rules.clone().into());
    Ok(alive(&shared.world(), id)?.report())
}

/// Ends a sandbox as the real agent does: one that has ended stays as it is.
pub(super) fn stop(
    shared: &Shared,
    request: &rpc::StopSandboxRequest,
) -> Result<rpc::SandboxReport, ConnectError> {
    let id = &request.sandbox_id;
    let state = shared.world().sandbox(id)?.state;
    if is_alive(state) {
        shared.change(id, |sandbox| {
            sandbox.state = SandboxState::SANDBOX_STATE_STOPPED;
            sandbox.reason.clone_from(&request.reason);
            sandbox.stop_reason = request.stop_reason.as_known().unwrap_or_default();
        });
    }
    Ok(shared.world().sandbox(id)?.report())
}

pub(super) fn update(
    shared: &Shared,
    request: &rpc::UpdateSandboxRequest,
) -> Result<rpc::SandboxReport, ConnectError> {
    let id = &request.sandbox_id;
    alive(&shared.world(), id)?;
    let idle = request.idle.as_option().cloned().unwrap_or_default();
    shared.change(id, |sandbox| {
        sandbox.spec.timeout_sec = idle.timeout_sec;
        sandbox.spec.on_timeout = idle.on_timeout;
        sandbox.spec.auto_resume = idle.auto_resume;
    });
    Ok(alive(&shared.world(), id)?.report())
}

pub(super) fn ping(shared: &Shared, request: &rpc::PingSandboxRequest) -> Result<(), ConnectError> {
    let id = &request.sandbox_id;
    let state = alive(&shared.world(), id)?.state;
    if state != SandboxState::SANDBOX_STATE_RUNNING {
        return Err(ConnectError::failed_precondition(
            "the sandbox is paused; resume it first",
        ));
    }
    shared.change(id, |sandbox| sandbox.pings.push(request.ask_guest));
    Ok(())
}

pub(super) async fn pause(
    shared: &Arc<Shared>,
    id: &str,
) -> Result<rpc::SandboxReport, ConnectError> {
    alive(&shared.world(), id)?;
    let shared = Arc::clone(shared);
    let id = id.to_owned();
    beside(async move {
        shared.script.meet_barrier("Save").await?;
        become_now(
            &shared,
            &id,
            SandboxState::SANDBOX_STATE_RUNNING,
            SandboxState::SANDBOX_STATE_PAUSED,
        )
    })
    .await
}

pub(super) async fn resume(
    shared: &Arc<Shared>,
    id: &str,
) -> Result<rpc::SandboxReport, ConnectError> {
    alive(&shared.world(), id)?;
    let shared = Arc::clone(shared);
    let id = id.to_owned();
    beside(async move {
        become_now(
            &shared,
            &id,
            SandboxState::SANDBOX_STATE_PAUSED,
            SandboxState::SANDBOX_STATE_RUNNING,
        )
    })
    .await
}

/// Forks a sandbox as the real agent does: ids that are there already are taken for the children of
/// an earlier call.
pub(super) async fn fork(
    shared: &Arc<Shared>,
    request: rpc::ForkSandboxRequest,
) -> Result<Vec<rpc::SandboxReport>, ConnectError> {
    let mut reports = shared.reports.subscribe();
    let begun = begin_children(&mut shared.world(), &request)?;
    let ids = request.child_ids;
    if begun {
        for id in &ids {
            shared.change(id, |_| {});
        }
        beside(make_children(Arc::clone(shared), ids.clone())).await?;
    }
    while ids.iter().any(|id| is_pending(&shared.world(), id)) {
        // An error means that it lags, and the next look shows the same.
        let _ = reports.recv().await;
    }
    let world = shared.world();
    ids.iter()
        .map(|id| Ok(alive(&world, id)?.report()))
        .collect()
}

fn is_pending(world: &World, id: &str) -> bool {
    world
        .sandboxes
        .get(id)
        .is_some_and(|sandbox| sandbox.state == SandboxState::SANDBOX_STATE_PENDING)
}

/// Adds the children of a fork that are not there yet. Returns false if all are.
fn begin_children(
    world: &mut World,
    request: &rpc::ForkSandboxRequest,
) -> Result<bool, ConnectError> {
    let ids = request.child_ids.iter();
    let missing: Vec<&String> = ids
        .filter(|id| !world.sandboxes.contains_key(*id))
        .collect();
    if missing.is_empty() {
        return Ok(false);
    }
    let source = alive(world, &request.sandbox_id)?.clone();
    if world.is_full {
        return Err(ConnectError::unavailable("this host is full"));
    }
    for id in missing {
        world.add(id, SandboxState::SANDBOX_STATE_PENDING, source.spec.clone());
        world.sandbox(id)?.content = source.content.clone();
    }
    Ok(true)
}

/// Starts the children of a fork. If they fail, all of them are removed.
async fn make_children(shared: Arc<Shared>, ids: Vec<String>) -> Result<(), ConnectError> {
    let made = shared.script.meet_barrier("Children").await;
    for id in &ids {
        if made.is_err() {
            shared.remove(id);
        } else if is_pending(&shared.world(), id) {
            shared.change(id, |sandbox| {
                sandbox.state = SandboxState::SANDBOX_STATE_RUNNING
            });
        }
    }
    made
}

pub(super) fn rollback(
    shared: &Shared,
    request: &rpc::RollbackSandboxRequest,
) -> Result<rpc::SandboxReport, ConnectError> {
    let Checkpoint { content, .. } =
        saved::find_checkpoint(&shared.world(), &request.sandbox_id, &request.name)?;
    shared.change(&request.sandbox_id, |sandbox| sandbox.content = content);
    Ok(alive(&shared.world(), &request.sandbox_id)?.report())
}

/// Runs `work` to its end, even if the caller stops waiting for it.
async fn beside<T: Send + 'static>(
    work: impl Future<Output = Result<T, ConnectError>> + Send + 'static,
) -> Result<T, ConnectError> {
    tokio::spawn(work).await.expect("fake hosts do not panic")
}
