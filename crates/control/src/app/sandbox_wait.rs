//! Waits until a sandbox is in a state.
//!
//! A waiter reads the row once, and again after each change of it: the store wakes it for what this
//! process writes, and for what other control planes write (`store::ChangeWaiter`). It costs
//! nothing in between.

use std::time::Duration;

use model::{ErrorCode, Resource, SandboxId, SandboxState};
use store::Sandbox;
use tokio::time::{Instant, timeout_at};

use super::App;
use crate::auth::Principal;
use crate::error::{Error, Result};

/// Longest wait of one request: proxies between us and the client end what is silent for longer.
pub const MAX_WAIT_SEC: u32 = 300;
pub const DEFAULT_WAIT_SEC: u32 = 60;
/// Longest time until a create that another request began has ended: more than a host takes.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(330);

/// What is waited for: one of some states, or that there is no such sandbox any more.
#[derive(Debug, Clone)]
pub struct WaitRequest {
    pub states: Vec<SandboxState>,
    pub deleted: bool,
    pub timeout: Duration,
}

impl App {
    /// Waits until a sandbox is in one of the states; `None` once it is deleted, if that is waited
    /// for.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` once it can get into none of the states any more; `Timeout`.
    pub async fn wait_for_sandbox(
        &self,
        principal: &Principal,
        id: &SandboxId,
        request: &WaitRequest,
    ) -> Result<Option<Sandbox>> {
        principal.require_read(Resource::Sandboxes)?;
        let deadline = Instant::now() + request.timeout;
        // Before the first look: a change after it is heard of.
        let mut changes = self.store.watch_sandbox(id);
        let mut last = self.find_sandbox(principal, id).await?;
        loop {
            if request.states.contains(&last.state) {
                return Ok(Some(last));
            }
            if last.state.is_terminal() && !request.deleted {
                let text = format!("sandbox {id} is {} and stays so", last.state);
                return Err(Error::new(ErrorCode::InvalidState, text));
            }
            let changed = tokio::select! {
                changed = timeout_at(deadline, changes.changed()) => changed,
                () = self.shutdown.cancelled() => return Err(Error::shutting_down()),
            };
            if changed.is_err() {
                let text = format!("sandbox {id} is still {}; ask again", last.state);
                return Err(Error::new(ErrorCode::Timeout, text));
            }
            last = match self.store.sandbox_get(&principal.team_id, id).await? {
                // One that is being deleted is there until its host has removed it.
                Some(row) if row.deleting && request.deleted => row,
                Some(row) if !row.deleting => row,
                None if request.deleted => return Ok(None),
                _ => return Err(Error::no_sandbox(id)),
            };
        }
    }

    /// Waits until a sandbox is not `pending` any more; `None` if it is gone.
    ///
    /// # Errors
    /// `Timeout`; the store's.
    pub(super) async fn wait_until_begun(
        &self,
        principal: &Principal,
        id: &SandboxId,
    ) -> Result<Option<Sandbox>> {
        let request = WaitRequest {
            states: SandboxState::ALL
                .into_iter()
                .filter(|state| *state != SandboxState::Pending)
                .collect(),
            deleted: false,
            timeout: BEGIN_TIMEOUT,
        };
        match self.wait_for_sandbox(principal, id, &request).await {
            Err(error) if error.code == ErrorCode::NotFound => Ok(None),
            waited => waited,
        }
    }
}
