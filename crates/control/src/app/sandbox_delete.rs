//! Deletes a sandbox, in every state and before everything else.
//!
//! Three steps: the wish becomes durable, the hosts remove what they have, the row goes. The wish
//! alone is a promise: whatever fails or dies after it, `tasks::converge` does the rest.
//!
//! On a full disk no wish can be noted. Then the hosts remove first, which makes room if it is
//! their disk as well. If we die in the middle of that, the row says that its host lost the
//! sandbox, and it can be deleted again.

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use model::{ErrorCode, SandboxId, TeamId};
use stdx::time::now_ms;
use store::Sandbox;

use super::App;
use crate::error::{Error, Result};

/// For the hosts to answer while a user waits for a create that has failed anyway.
const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(20);

/// Answers when nothing of it is left.
///
/// # Errors
/// `NotFound`; else what keeps the host from it, and that the deletion is noted.
pub async fn delete(app: Arc<App>, id: SandboxId) -> Result<()> {
    let marked = match app
        .store
        .sandbox_mark_deleting(&TeamId::default(), &id, now_ms())
        .await
    {
        Err(error) if error.is_full() => return delete_on_full_disk(&app, &id).await,
        marked => marked?,
    };
    let sandbox = marked.ok_or_else(|| Error::no_sandbox(&id))?;
    finish(&app, &sandbox).await.map_err(|error| {
        app.converge.notify_waiters();
        let code = match error.code {
            ErrorCode::InternalError => ErrorCode::InternalError,
            ErrorCode::Timeout => ErrorCode::Timeout,
            _ => ErrorCode::HostUnavailable,
        };
        Error {
            code,
            ..error.and("the deletion is noted and will be carried out")
        }
    })
}

async fn delete_on_full_disk(app: &App, id: &SandboxId) -> Result<()> {
    let sandbox = app
        .store
        .sandbox_get(&TeamId::default(), id)
        .await?
        .ok_or_else(|| Error::no_sandbox(id))?;
    finish(app, &sandbox)
        .await
        .map_err(|error| match error.code {
            ErrorCode::InsufficientStorage => {
                error.and("the sandbox is gone from its host, and its record stays until then")
            }
            _ => error
                .and("the deletion could not be noted, as the database has no space: try again"),
        })
}

/// The second and third step. For a row without a host every host is asked, and an id that a host
/// does not know is fine with it.
///
/// # Errors
/// What keeps a host from it.
pub async fn finish(app: &App, sandbox: &Sandbox) -> Result<()> {
    let hosts = app.hosts.of(sandbox.host_id.as_deref());
    if hosts.is_empty() {
        let text = format!("the host of sandbox {} is not connected", sandbox.id);
        return Err(Error::new(ErrorCode::HostUnavailable, text));
    }
    let removals =
        futures::future::join_all(hosts.iter().map(|host| host.remove_sandbox(&sandbox.id))).await;
    removals.into_iter().collect::<Result<Vec<()>>>()?;
    if app.store.sandbox_remove(&sandbox.id).await? {
        tracing::info!(sandbox = %sandbox.id, "deleted");
    }
    Ok(())
}

/// Deletes sandboxes that one request is to make, and that nobody was told of, unless all of them
/// have come to run meanwhile. Whether they are, or will be, deleted: all of them, also where one
/// resists, and also if we die on the way.
///
/// # Errors
/// The store's.
pub async fn give_up(app: &App, ids: &[SandboxId], why: &str) -> Result<bool> {
    let given_up = app.store.sandboxes_give_up(ids, now_ms()).await?;
    futures::future::join_all(
        given_up
            .iter()
            .map(|sandbox| finish_or_later(app, sandbox, why)),
    )
    .await;
    Ok(!given_up.is_empty())
}

/// The same for a sandbox that nobody finished, unless somebody goes on with it: the same request,
/// asked for again.
///
/// # Errors
/// The store's.
pub async fn give_up_unfinished(app: &App, id: &SandboxId, why: &str) -> Result<()> {
    if app.creating.ids().contains(id) {
        return Ok(());
    }
    give_up(app, slice::from_ref(id), why).await.map(drop)
}

/// If the hosts cannot do it now, they will later.
async fn finish_or_later(app: &App, sandbox: &Sandbox, why: &str) {
    let id = &sandbox.id;
    match tokio::time::timeout(GIVE_UP_TIMEOUT, finish(app, sandbox)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(sandbox = %id, why, error = error.chain(), "will be removed later")
        }
        Err(_) => {
            tracing::warn!(sandbox = %id, why, "will be removed later: the host takes too long")
        }
    }
}
