//! Forks a sandbox into children: all of them, or none.
//!
//! The rows come first, all of them, and the host is asked once for all. If anything fails while
//! the user waits, every row goes with what the host has of it, unless all children run: then only
//! the answer was lost, or another control plane was asked as well, and they are what was asked
//! for. Each row has an idempotency key of its own, made of the request's and the child's number:
//! a request that comes again meets the same rows, and asks the host for the same children. If we die in
//! between:
//!
//! | we die | what becomes of the children |
//! |---|---|
//! | before the host was asked | `tasks::reconcile` removes all rows after a while |
//! | later, and the host makes them | the host reports all of them, and they are sandboxes like others |
//! | later, and the host does not | it leaves none, and the rows go when it says so; one that ran says that it is gone |
//! | during the rollback | before the wish is in all rows, at once, as above; after it `tasks::reconcile` goes on |
//! | and it is asked for again | that request goes on with the rows, or rolls all of them back |

use std::sync::Arc;

use model::{ErrorCode, EventKind, Resource, SandboxAttributes, SandboxId, SandboxState};
use serde_json::json;
use stdx::time::now_ms;
use store::{Idempotency, Inserted, NewSandbox, Sandbox};

use super::App;
use super::sandbox_create::require_started;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::Host;

/// Children of one fork: more would stop the source for too long.
pub const MAX_COUNT: u32 = 32;

/// A fork to make.
#[derive(Debug)]
pub struct ForkRequest {
    pub source: SandboxId,
    pub count: u32,
    /// Milliseconds that each child runs, where the end of the source is about running sandboxes;
    /// `None`: as its source.
    pub run_ms: Option<i64>,
    pub idempotency: Option<Idempotency>,
}

impl ForkRequest {
    /// Returns the idempotency key of one child. The character between is in no key of a user.
    fn child_idempotency(&self, number: u32) -> Option<Idempotency> {
        let for_child = |all: &Idempotency| Idempotency {
            key: format!("fork\u{1f}{number}\u{1f}{}", all.key),
            ..*all
        };
        self.idempotency.as_ref().map(for_child)
    }
}

impl App {
    /// Forks a sandbox, and returns when all children run.
    ///
    /// # Errors
    /// The reason of the refusal; nothing of any child is left then.
    pub async fn fork_sandbox(
        &self,
        principal: &Principal,
        fork: ForkRequest,
    ) -> Result<Vec<Sandbox>> {
        principal.require_write(Resource::Sandboxes)?;
        if !(1..=MAX_COUNT).contains(&fork.count) {
            return Err(Error::invalid(format!(
                "count must be from 1 to {MAX_COUNT}, not {}",
                fork.count
            )));
        }
        let locks = &self.idempotency_locks;
        let _lock = locks
            .acquire(&principal.key_id, fork.idempotency.as_ref())
            .await;
        // An earlier request is answered from its rows, whatever became of the source since.
        let earlier = self.find_earlier_children(principal, &fork).await?;
        let is_pending = |child: &Sandbox| child.state == SandboxState::Pending;
        if !earlier.is_empty() && !earlier.iter().any(is_pending) {
            return Ok(earlier);
        }
        // A request that came before was counted then.
        if earlier.is_empty() {
            self.rate_limits
                .count_creates(&principal.key_id, fork.count)?;
        }
        let mut ids = earlier.into_iter().map(|child| child.id).collect();
        match self.make_children(principal, &fork, &mut ids).await {
            Ok(children) => Ok(children),
            Err(error) => self.fail_fork(&fork, &ids, error).await,
        }
    }

    /// Makes rows, then children. `ids` are those of children that have a row: of all, by number,
    /// once the host is asked.
    async fn make_children(
        &self,
        principal: &Principal,
        fork: &ForkRequest,
        ids: &mut Vec<SandboxId>,
    ) -> Result<Vec<Sandbox>> {
        let (source, host) = self.find_alive(principal, &fork.source).await?;
        for number in 0..fork.count {
            let row = self.insert_child(principal, fork, number, &source).await?;
            ids.retain(|id| *id != row.id);
            ids.push(row.id);
        }
        let _in_flight: Vec<_> = ids
            .iter()
            .map(|id| {
                (
                    self.in_flight_creates.insert(id),
                    self.actors.note(id, principal),
                )
            })
            .collect();
        let children = self.fork_on_host(&host, &source, ids).await?;
        let data = json!({ "children": ids.as_slice() });
        self.record_event(
            principal,
            EventKind::SandboxForked,
            source.id.as_str(),
            Some(&source.id),
            data,
        )
        .await;
        Ok(children)
    }

    /// Inserts the row of a child, or finds that of the same request before.
    async fn insert_child(
        &self,
        principal: &Principal,
        fork: &ForkRequest,
        number: u32,
        source: &Sandbox,
    ) -> Result<Sandbox> {
        let child = NewSandbox {
            id: SandboxId::random(),
            team_id: principal.team_id.clone(),
            spec: source.spec.clone(),
            attributes: child_attributes(fork, source),
            key_id: principal.key_id.clone(),
            idempotency: fork.child_idempotency(number),
            now: now_ms(),
        };
        let store = self.store.acting_for(principal.actor());
        match store.sandbox_insert(&child).await? {
            Inserted::Existing(row) if row.deleting => Err(deleted_in_between(&row.id)),
            Inserted::New(row) | Inserted::Existing(row) => Ok(row),
            Inserted::Mismatch => Err(mismatch()),
            Inserted::NameTaken(row) => Err(Error::internal(store::Error::Conflict {
                what: "a name that a child does not have",
            })
            .and(row.id.as_str())),
        }
    }

    /// Rolls a failed fork back, unless all children run.
    async fn fail_fork(
        &self,
        fork: &ForkRequest,
        ids: &[SandboxId],
        error: Error,
    ) -> Result<Vec<Sandbox>> {
        tracing::info!(sandbox = %fork.source, error = error.chain(), "not forked");
        let may_run = |failed: Error| failed.after_change("the children may have been made");
        let rolled_back = self.rollback_create(ids, "its fork failed").await;
        if rolled_back.map_err(may_run)? {
            return Err(error);
        }
        let rows = ids.iter().map(|id| self.store.sandbox_get_any_team(id));
        let mut children = Vec::new();
        for row in futures::future::join_all(rows).await {
            let row = row.map_err(|failed| may_run(failed.into()))?;
            children.extend(row.filter(|child| !child.deleting));
        }
        if children.len() == fork.count as usize {
            Ok(children)
        } else {
            Err(error)
        }
    }

    /// Returns the children of an earlier request that was this one, as far as they have rows.
    ///
    /// # Errors
    /// Where some run and one is missing: a new one would be of another moment, and if it failed all
    /// would be rolled back.
    async fn find_earlier_children(
        &self,
        principal: &Principal,
        fork: &ForkRequest,
    ) -> Result<Vec<Sandbox>> {
        let mut children = Vec::new();
        for key in (0..fork.count).filter_map(|number| fork.child_idempotency(number)) {
            match self.store.sandbox_find(&principal.key_id, &key).await? {
                Some(Inserted::Mismatch) => return Err(mismatch()),
                Some(Inserted::Existing(child)) if !child.deleting => children.push(child),
                _ => {}
            }
        }
        // A host begins all of them at once, so there were all of them.
        let has_begun = children.iter().any(|child| child.host_id.is_some());
        if has_begun && children.len() < fork.count as usize {
            return Err(deleted_since());
        }
        Ok(children)
    }

    async fn fork_on_host(
        &self,
        host: &Arc<Host>,
        source: &Sandbox,
        ids: &[SandboxId],
    ) -> Result<Vec<Sandbox>> {
        let reports = host.fork_sandbox(&source.id, ids).await?;
        let mut children = Vec::with_capacity(ids.len());
        for (id, report) in ids.iter().zip(reports) {
            host.note_placed();
            let child = self.try_apply_response(report).await?;
            let child = child.ok_or_else(|| deleted_in_between(id))?;
            children.push(require_started(child)?);
        }
        Ok(children)
    }
}

/// Returns the attributes of a child. A name is of one sandbox. The end is copied: what was to end in
/// an hour leaves no children that go on for ever. One that is about running sandboxes begins anew
/// when the child runs.
fn child_attributes(fork: &ForkRequest, source: &Sandbox) -> SandboxAttributes {
    let attributes = SandboxAttributes {
        name: None,
        ..source.attributes.clone()
    };
    if attributes.end_policy.is_stop() {
        return attributes;
    }
    SandboxAttributes {
        ends_at: None,
        run_ms: fork.run_ms.or(attributes.run_ms),
        ..attributes
    }
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

fn deleted_in_between(id: &SandboxId) -> Error {
    Error::new(
        ErrorCode::Conflict,
        format!("child {id} was deleted while it was being made"),
    )
}
