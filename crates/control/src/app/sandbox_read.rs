//! Finds sandboxes.

use std::sync::Arc;

use model::{ErrorCode, SandboxId, SandboxState, TeamId};
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

/// Where the programs and files of a sandbox are.
#[derive(Debug)]
pub struct Usable {
    pub host: Arc<Host>,
    /// As far as we know: the host resumes it first.
    pub is_paused: bool,
}

fn not(sandbox: &Sandbox, wanted: &str) -> Error {
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
    /// # Errors
    /// `NotFound`, also for one that is being deleted.
    pub async fn sandbox(&self, id: &SandboxId) -> Result<Sandbox> {
        let found = self.store.sandbox_get(&TeamId::default(), id).await?;
        found
            .filter(|sandbox| !sandbox.deleting)
            .ok_or_else(|| Error::no_sandbox(id))
    }

    /// Newest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn sandboxes(&self, after: Option<&Cursor>, limit: u32) -> Result<Page> {
        let mut sandboxes = self
            .store
            .sandbox_list(&TeamId::default(), after, limit + 1)
            .await?;
        let more = sandboxes.len() > limit as usize;
        sandboxes.truncate(limit as usize);
        let last = sandboxes.last().filter(|_| more);
        let next = last.map(store::Sandbox::cursor);
        Ok(Page { sandboxes, next })
    }

    /// The host of a sandbox whose programs and files can be reached: it runs, or is paused and the
    /// host resumes it for the call.
    ///
    /// # Errors
    /// `InvalidState` says what it is instead.
    pub async fn usable(&self, id: &SandboxId) -> Result<Usable> {
        let sandbox = self.sandbox(id).await?;
        let is_paused = match sandbox.state {
            SandboxState::Running => false,
            SandboxState::Paused if sandbox.spec.auto_resume => true,
            SandboxState::Paused => {
                let text = format!("sandbox {id} is paused; resume it with `wrenn resume {id}`");
                return Err(Error::new(ErrorCode::InvalidState, text));
            }
            _ => return Err(not(&sandbox, "running")),
        };
        Ok(Usable {
            host: self.host_of(id, sandbox.host_id.as_deref())?,
            is_paused,
        })
    }

    /// A sandbox that runs or is paused, and its host.
    ///
    /// # Errors
    /// `InvalidState` says what it is instead. The host may know better, and has the last word.
    pub async fn alive(&self, id: &SandboxId) -> Result<(Sandbox, Arc<Host>)> {
        let sandbox = self.sandbox(id).await?;
        if !matches!(sandbox.state, SandboxState::Running | SandboxState::Paused) {
            return Err(not(&sandbox, "running or paused"));
        }
        let host = self.host_of(id, sandbox.host_id.as_deref())?;
        Ok((sandbox, host))
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
