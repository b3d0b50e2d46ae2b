//! Makes children of a sandbox: all of them, or none.
//!
//! The rows come first, all of them, and the host is asked once for all. If anything fails while the user waits, every
//! row goes with what the host has of it. If we die in between:
//!
//! | we die | what becomes of the children |
//! |---|---|
//! | before the host has heard of it | `tasks::converge` gives up all rows after a while |
//! | later, and the host makes them | the host reports all of them, and they are sandboxes like others |
//! | later, and the host does not | it leaves none, and the rows go when it says so |

use std::sync::Arc;

use host_rpc as rpc;
use model::{ErrorCode, SandboxId};
use store::{Inserted, NewSandbox, Sandbox};

use super::sandbox_create::started;
use super::{App, now_ms, sandbox_delete};
use crate::error::{Error, Result};
use crate::hosts::Host;

/// Children of one fork: more would keep the source standing still for too long.
pub const MAX_COUNT: u32 = 32;

/// A request.
#[derive(Debug)]
pub struct Fork {
    pub source: SandboxId,
    pub count: u32,
    /// Whose the children are.
    pub key_id: String,
}

/// Answers when all children run.
///
/// # Errors
/// What refused it; nothing is left of any child then.
pub async fn fork(app: Arc<App>, fork: Fork) -> Result<Vec<Sandbox>> {
    if !(1..=MAX_COUNT).contains(&fork.count) {
        return Err(Error::invalid(format!("count must be from 1 to {MAX_COUNT}, not {}", fork.count)));
    }
    let (source, host) = app.alive(&fork.source).await?;
    let ids: Vec<SandboxId> = (0..fork.count).map(|_| SandboxId::random()).collect();
    let guards: Vec<_> = ids.iter().map(|id| app.creating.begin(id)).collect();
    let made = make(&app, &host, &source, &ids, &fork.key_id).await;
    if let Err(error) = &made {
        tracing::info!(sandbox = %source.id, error = error.chain(), "not forked");
        give_up(&app, &ids).await?;
    }
    drop(guards);
    made
}

async fn make(app: &App, host: &Host, source: &Sandbox, ids: &[SandboxId], key_id: &str) -> Result<Vec<Sandbox>> {
    let now = now_ms();
    for id in ids {
        let (spec, key_id) = (source.spec.clone(), key_id.to_owned());
        let new = NewSandbox { id: id.clone(), spec, key_id, idempotency: None, now };
        let inserted = app.store.sandbox_insert(&new).await?;
        debug_assert!(matches!(inserted, Inserted::New(_)), "rows without idempotency keys are always new");
    }
    let child_ids = ids.iter().map(ToString::to_string).collect();
    let request = rpc::ForkSandboxRequest { sandbox_id: source.id.to_string(), child_ids, ..Default::default() };
    let reports = host.fork_sandbox(request).await?.children;
    if !reports.iter().map(|report| report.sandbox_id.as_str()).eq(ids.iter().map(SandboxId::as_str)) {
        return Err(Error::new(
            ErrorCode::AgentError,
            "the host agent made other children than those it was asked for",
        ));
    }
    let mut children = Vec::with_capacity(ids.len());
    for (id, report) in ids.iter().zip(reports) {
        let child = app.settle(host, report).await?;
        let deleted = || Error::new(ErrorCode::Conflict, format!("child {id} was deleted while it was being made"));
        children.push(started(child.ok_or_else(deleted)?)?);
    }
    Ok(children)
}

/// All of them, also where one resists.
async fn give_up(app: &App, ids: &[SandboxId]) -> Result<()> {
    let removals = ids.iter().map(|id| sandbox_delete::give_up(app, id, "its fork failed"));
    futures::future::join_all(removals).await.into_iter().collect()
}
