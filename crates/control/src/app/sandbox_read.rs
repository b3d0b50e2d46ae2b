//! Finds sandboxes.

use std::sync::Arc;

use model::{ErrorCode, Resource, SandboxId, SandboxName, SandboxState};
use store::{Cursor, Sandbox, SandboxFilter};

use super::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::Host;

/// Sandboxes that one look at the store gets for a list without pages.
const PAGE: u32 = 1000;

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

pub(super) fn wrong_state(sandbox: &Sandbox, wanted: &str) -> Error {
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

    /// Returns one page of the team's sandboxes that meet the filter, newest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn list_sandboxes(
        &self,
        principal: &Principal,
        filter: &SandboxFilter,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page> {
        principal.require_read(Resource::Sandboxes)?;
        let team = &principal.team_id;
        let list = self.store.sandbox_list(team, filter, after, limit + 1);
        let mut sandboxes = list.await?;
        let has_more = sandboxes.len() > limit as usize;
        sandboxes.truncate(limit as usize);
        let last = sandboxes.last().filter(|_| has_more);
        let next = last.map(Sandbox::cursor);
        Ok(Page { sandboxes, next })
    }

    /// Returns all of the team's sandboxes that meet the filter, newest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn list_all_sandboxes(
        &self,
        principal: &Principal,
        filter: &SandboxFilter,
    ) -> Result<Vec<Sandbox>> {
        let mut all = Vec::new();
        let mut after: Option<Cursor> = None;
        loop {
            let page = self.list_sandboxes(principal, filter, after.as_ref(), PAGE);
            let page = page.await?;
            all.extend(page.sandboxes);
            after = page.next;
            if after.is_none() {
                return Ok(all);
            }
        }
    }

    /// Counts the team's sandboxes that meet the filter.
    ///
    /// # Errors
    /// The store's.
    pub async fn count_sandboxes(
        &self,
        principal: &Principal,
        filter: &SandboxFilter,
    ) -> Result<u64> {
        principal.require_read(Resource::Sandboxes)?;
        Ok(self.store.sandbox_count(&principal.team_id, filter).await?)
    }

    /// Returns the id of the living sandbox of that name: a request that says a name is about that
    /// one sandbox from then on. One that stopped is found by its id alone, since there may be many.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn resolve_name(
        &self,
        principal: &Principal,
        name: &SandboxName,
    ) -> Result<SandboxId> {
        let found = self.find_named(principal, name).await?;
        found.map(|row| row.id).ok_or_else(|| {
            let text = format!(
                "there is no sandbox {name:?} that is pending, running or paused; one that stopped is found by its id"
            );
            Error::new(ErrorCode::NotFound, text)
        })
    }

    /// Finds the living sandbox of that name.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn find_named(
        &self,
        principal: &Principal,
        name: &SandboxName,
    ) -> Result<Option<Sandbox>> {
        let team = &principal.team_id;
        Ok(self.store.sandbox_get_by_name(team, name).await?)
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
