//! Makes children of a sandbox: all of them, or none.
//!
//! The rows come first, all of them, and the host is asked once for all. If anything fails while
//! the user waits, every row goes with what the host has of it, unless all children run: then only
//! the answer was lost, or another control plane was asked as well, and they are what was asked
//! for. Each row has an idempotency key of its own, made of the request's and the child's number:
//! whoever asks again meets the same rows, and asks the host for the same children. If we die in
//! between:
//!
//! | we die | what becomes of the children |
//! |---|---|
//! | before the host has heard of it | `tasks::converge` gives up all rows after a while |
//! | later, and the host makes them | the host reports all of them, and they are sandboxes like others |
//! | later, and the host does not | it leaves none, and the rows go when it says so; one that ran says that it is gone |
//! | while all are given up | before the wish is in all rows, at once, as above; after it `tasks::converge` goes on |
//! | and it is asked for again | that request goes on with the rows, or gives up all of them |

use std::sync::Arc;

use host_rpc as rpc;
use model::{ErrorCode, SandboxId, SandboxState};
use stdx::time::now_ms;
use store::{Idempotency, Inserted, NewSandbox, Sandbox};

use super::sandbox_create::started;
use super::{App, sandbox_delete};
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
    pub idempotency: Option<Idempotency>,
}

impl Fork {
    /// Of one child. The character between is in no key of a user.
    fn idempotency_of(&self, number: u32) -> Option<Idempotency> {
        let of = |all: &Idempotency| Idempotency {
            key: format!("fork\u{1f}{number}\u{1f}{}", all.key),
            ..*all
        };
        self.idempotency.as_ref().map(of)
    }
}

/// Answers when all children run.
///
/// # Errors
/// What refused it; nothing is left of any child then.
pub async fn fork(app: Arc<App>, fork: Fork) -> Result<Vec<Sandbox>> {
    if !(1..=MAX_COUNT).contains(&fork.count) {
        return Err(Error::invalid(format!(
            "count must be from 1 to {MAX_COUNT}, not {}",
            fork.count
        )));
    }
    let _turn = app.keys.turn(&fork.key_id, fork.idempotency.as_ref()).await;
    // What came before is answered from its rows, whatever became of the source meanwhile.
    let before = made_before(&app, &fork).await?;
    if !before.is_empty()
        && before
            .iter()
            .all(|child| child.state != SandboxState::Pending)
    {
        return Ok(before);
    }
    // A request that came before was counted then.
    if before.is_empty() {
        app.rate_limits.count_creates(&fork.key_id, fork.count)?;
    }
    let mut ids = before.into_iter().map(|child| child.id).collect();
    match go_on(&app, &fork, &mut ids).await {
        Ok(children) => Ok(children),
        Err(error) => failed(&app, &fork, &ids, error).await,
    }
}

/// `ids` are those of children that have a row: of all, by number, once the host is asked.
async fn go_on(app: &App, fork: &Fork, ids: &mut Vec<SandboxId>) -> Result<Vec<Sandbox>> {
    let (source, host) = app.alive(&fork.source).await?;
    for number in 0..fork.count {
        let row = insert(app, fork, number, &source).await?;
        ids.retain(|id| *id != row.id);
        ids.push(row.id);
    }
    let _guards: Vec<_> = ids.iter().map(|id| app.creating.begin(id)).collect();
    make(app, &host, &source, ids).await
}

/// The row of a child, new or from the same request before.
async fn insert(app: &App, fork: &Fork, number: u32, source: &Sandbox) -> Result<Sandbox> {
    let (spec, key_id) = (source.spec.clone(), fork.key_id.clone());
    let idempotency = fork.idempotency_of(number);
    let child = NewSandbox {
        id: SandboxId::random(),
        team_id: model::TeamId::default(),
        spec,
        key_id,
        idempotency,
        now: now_ms(),
    };
    match app.store.sandbox_insert(&child).await? {
        Inserted::Existing(row) if row.deleting => Err(deleted_meanwhile(&row.id)),
        Inserted::New(row) | Inserted::Existing(row) => Ok(row),
        Inserted::Mismatch => Err(mismatch()),
    }
}

/// It failed for us.
async fn failed(app: &App, fork: &Fork, ids: &[SandboxId], error: Error) -> Result<Vec<Sandbox>> {
    tracing::info!(sandbox = %fork.source, error = error.chain(), "not forked");
    if sandbox_delete::give_up(app, ids, "its fork failed").await? {
        return Err(error);
    }
    let rows =
        futures::future::join_all(ids.iter().map(|id| app.store.sandbox_get_any_team(id))).await;
    let mut children = Vec::new();
    for row in rows {
        children.extend(row?.filter(|child| !child.deleting));
    }
    if children.len() == fork.count as usize {
        Ok(children)
    } else {
        Err(error)
    }
}

/// The children of an earlier request that was this one, as far as they have rows. Where some run
/// and one is missing, the others are not to be met with a new one: that would be of another
/// instant, and if it failed all would go.
async fn made_before(app: &App, fork: &Fork) -> Result<Vec<Sandbox>> {
    let mut children = Vec::new();
    for idempotency in (0..fork.count).filter_map(|number| fork.idempotency_of(number)) {
        match app.store.sandbox_find(&fork.key_id, &idempotency).await? {
            Some(Inserted::Mismatch) => return Err(mismatch()),
            Some(Inserted::Existing(child)) if !child.deleting => children.push(child),
            _ => {}
        }
    }
    // A host begins all of them at once, so there were all of them.
    if children.len() < fork.count as usize && children.iter().any(|child| child.host_id.is_some())
    {
        return Err(deleted_since());
    }
    Ok(children)
}

fn mismatch() -> Error {
    let text = "this Idempotency-Key came before for another sandbox or count; use a new key for a new fork";
    Error::new(ErrorCode::IdempotencyMismatch, text)
}

fn deleted_since() -> Error {
    let text = "this Idempotency-Key came before, and one of the children that it made was deleted since; use a new key \
                for a new fork";
    Error::new(ErrorCode::Conflict, text)
}

fn deleted_meanwhile(id: &SandboxId) -> Error {
    Error::new(
        ErrorCode::Conflict,
        format!("child {id} was deleted while it was being made"),
    )
}

async fn make(app: &App, host: &Host, source: &Sandbox, ids: &[SandboxId]) -> Result<Vec<Sandbox>> {
    let child_ids = ids.iter().map(ToString::to_string).collect();
    let request = rpc::ForkSandboxRequest {
        sandbox_id: source.id.to_string(),
        child_ids,
        ..Default::default()
    };
    let reports = host.fork_sandbox(request).await?.children;
    if !reports
        .iter()
        .map(|report| report.sandbox_id.as_str())
        .eq(ids.iter().map(SandboxId::as_str))
    {
        return Err(Error::new(
            ErrorCode::AgentError,
            "the host agent made other children than those it was asked for",
        ));
    }
    let mut children = Vec::with_capacity(ids.len());
    for (id, report) in ids.iter().zip(reports) {
        let child = app.settle(host, report).await?;
        children.push(started(child.ok_or_else(|| deleted_meanwhile(id))?)?);
    }
    Ok(children)
}
