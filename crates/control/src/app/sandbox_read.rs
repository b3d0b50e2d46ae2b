//! Finds sandboxes.

use std::sync::Arc;

use model::{ErrorCode, Resource, SandboxId, SandboxState};
use store::{Cursor, Sandbox};

use super::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::Host;

/// Sandboxes on one page.
#[derive(Debug)]
pub struct Page {
    pub sandboxes: Vec<Sandbox>,
    /// Cursor of the next page; `None` on the last one.
    pub next: Option<Cursor>,
}

/// Host of a sandbox whose programs and files can be reached.
#[derive(Debug)]
pub struct UsableSandbox {
    pub host: Arc<Host>,
    /// True if the sandbox is paused, as far as we know: the host resumes it first.
    pub is_paused: bool,
}

fn wrong_state(sandbox: &Sandbox, wanted: &str) -> Error {
    let reason = sandbox
        .reason
        .as_ref()
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    let text = format!(
        "sandbox {} is {}, not {wanted}{reason}",
        sandbox.id, sandbox.state
    );
    Error::new(ErrorCode::InvalidState, text)
}

impl App {
    /// Returns a sandbox in any state.
    ///
    /// # Errors
    /// `NotFound`, also for one that is being deleted.
    pub async fn get_sandbox(&self, principal: &Principal, id: &SandboxId) -> Result<Sandbox> {
        principal.require_read(Resource::Sandboxes)?;
        self.find_sandbox(principal, id).await
    }

    /// Returns one page of the team's sandboxes, newest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn list_sandboxes(
        &self,
        principal: &Principal,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page> {
        principal.require_read(Resource::Sandboxes)?;
        let team = &principal.team_id;
        let mut sandboxes = self.store.sandbox_list(team, after, limit + 1).await?;
        let has_more = sandboxes.len() > limit as usize;
        sandboxes.truncate(limit as usize);
        let last = sandboxes.last().filter(|_| has_more);
        let next = last.map(Sandbox::cursor);
        Ok(Page { sandboxes, next })
    }

    /// Finds a sandbox of the caller's team.
    ///
    /// # Errors
    /// `NotFound`, also for one of another team, and for one that is being deleted.
    pub(super) async fn find_sandbox(
        &self,
        principal: &Principal,
        id: &SandboxId,
    ) -> Result<Sandbox> {
        let found = self.store.sandbox_get(&principal.team_id, id).await?;
        found
            .filter(|sandbox| !sandbox.deleting)
            .ok_or_else(|| Error::no_sandbox(id))
    }

    /// Finds a sandbox that runs, or is paused and resumed by its host when it is called.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` says what it is instead.
    pub(super) async fn find_usable(
        &self,
        principal: &Principal,
        id: &SandboxId,
    ) -> Result<UsableSandbox> {
        let sandbox = self.find_sandbox(principal, id).await?;
        let is_paused = match sandbox.state {
            SandboxState::Running => false,
            SandboxState::Paused if sandbox.spec.auto_resume => true,
            SandboxState::Paused => {
                let text = format!("sandbox {id} is paused; resume it with `wrenn resume {id}`");
                return Err(Error::new(ErrorCode::InvalidState, text));
            }
            _ => return Err(wrong_state(&sandbox, "running")),
        };
        Ok(UsableSandbox {
            host: self.find_host(id, sandbox.host_id.as_deref())?,
            is_paused,
        })
    }

    /// Finds a sandbox that runs or is paused, and its host.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` says what it is instead. The host may know better, and has the
    /// last word.
    pub(super) async fn find_alive(
        &self,
        principal: &Principal,
        id: &SandboxId,
    ) -> Result<(Sandbox, Arc<Host>)> {
        let sandbox = self.find_sandbox(principal, id).await?;
        if !matches!(sandbox.state, SandboxState::Running | SandboxState::Paused) {
            return Err(wrong_state(&sandbox, "running or paused"));
        }
        let host = self.find_host(id, sandbox.host_id.as_deref())?;
        Ok((sandbox, host))
    }

    /// Finds the host of a sandbox.
    ///
    /// # Errors
    /// `HostUnavailable` if the host of the sandbox is not connected.
    pub(crate) fn find_host(&self, id: &SandboxId, host_id: Option<&str>) -> Result<Arc<Host>> {
        let host = host_id.and_then(|host_id| self.hosts.find(host_id));
        host.ok_or_else(|| {
            let text = format!("the host of sandbox {id} is not connected; try again later");
            Error::new(ErrorCode::HostUnavailable, text)
        })
    }
}
