//! Finds sandboxes.

use std::sync::Arc;

use model::{ErrorCode, SandboxId, SandboxState};
use store::{Cursor, Sandbox};

use super::App;
use crate::error::{Error, Result};
use crate::hosts::Host;

/// Sandboxes on one page.
#[derive(Debug)]
pub struct Page {
    pub sandboxes: Vec<Sandbox>,
    /// Where the next page begins; `None` on the last one.
    pub next: Option<Cursor>,
}

impl App {
    /// # Errors
    /// `NotFound`, also for one that is being deleted.
    pub async fn sandbox(&self, id: &SandboxId) -> Result<Sandbox> {
        let found = self.store.sandbox_get(id).await?;
        found.filter(|sandbox| !sandbox.deleting).ok_or_else(|| Error::no_sandbox(id))
    }

    /// Newest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn sandboxes(&self, after: Option<&Cursor>, limit: u32) -> Result<Page> {
        let mut sandboxes = self.store.sandbox_list(after, limit + 1).await?;
        let more = sandboxes.len() > limit as usize;
        sandboxes.truncate(limit as usize);
        let last = sandboxes.last().filter(|_| more);
        let next = last.map(Cursor::after);
        Ok(Page { sandboxes, next })
    }

    /// The host of a sandbox that runs.
    ///
    /// # Errors
    /// `InvalidState` says what it is instead.
    pub async fn running(&self, id: &SandboxId) -> Result<Arc<Host>> {
        let sandbox = self.sandbox(id).await?;
        if sandbox.state != SandboxState::Running {
            let reason = sandbox.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            let text = format!("sandbox {id} is {}, not running{reason}", sandbox.state);
            return Err(Error::new(ErrorCode::InvalidState, text));
        }
        self.host_of(id, sandbox.host_id.as_deref())
    }

    /// # Errors
    /// `HostUnavailable`.
    pub fn host_of(&self, id: &SandboxId, host_id: Option<&str>) -> Result<Arc<Host>> {
        let host = host_id.and_then(|host_id| self.hosts.find(host_id));
        host.ok_or_else(|| {
            let text = format!("the host of sandbox {id} is not connected; try again later");
            Error::new(ErrorCode::HostUnavailable, text)
        })
    }
}
