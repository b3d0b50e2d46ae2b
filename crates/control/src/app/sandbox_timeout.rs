//! Moves the end of a sandbox, as clients do that say how long it is to run from now on.
//!
//! A change is one conditional statement of the store, so that a renewal and an expiry never both
//! win. While a sandbox is being paused because its end has come, the end does not move.

use std::time::Duration;

use model::{ErrorCode, Resource, SandboxAttributes, SandboxId, SandboxState};
use stdx::time::now_ms;
use store::Sandbox;

use super::App;
use super::sandbox_read::wrong_state;
use super::sandbox_wait::WaitRequest;
use crate::auth::Principal;
use crate::error::{Error, Result};

/// Time for a pause at the end to finish before a caller that wants the sandbox to run is refused.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Time that a sandbox is to run from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunTime {
    /// Milliseconds; it may end earlier than before.
    Exactly(i64),
    /// Milliseconds; an end that is later stays, and what has no end gets none.
    AtLeast(i64),
}

/// Sandbox that was made to run.
#[derive(Debug)]
pub struct Connected {
    pub sandbox: Sandbox,
    /// True if it was paused.
    pub was_paused: bool,
}

impl App {
    /// Moves the end of a running sandbox.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` if it does not run, or is being paused because its end has come.
    pub async fn set_run_time(
        &self,
        principal: &Principal,
        id: &SandboxId,
        time: RunTime,
    ) -> Result<Sandbox> {
        principal.require_write(Resource::Sandboxes)?;
        loop {
            let before = self.find_sandbox(principal, id).await?;
            if before.state != SandboxState::Running {
                return Err(wrong_state(&before, "running"));
            }
            let now = now_ms();
            if before.is_pausing(now) {
                let text = format!(
                    "the end of sandbox {id} has come, and it is being paused; resume it then"
                );
                return Err(Error::new(ErrorCode::InvalidState, text));
            }
            let ends_at = match (time, before.attributes.ends_at) {
                (RunTime::Exactly(ms), _) => Some(now.saturating_add(ms)),
                (RunTime::AtLeast(_), None) => return Ok(before),
                (RunTime::AtLeast(ms), Some(end)) => Some(end.max(now.saturating_add(ms))),
            };
            if ends_at == before.attributes.ends_at {
                return Ok(before);
            }
            let attributes = SandboxAttributes {
                ends_at,
                ..before.attributes.clone()
            };
            if let Some(after) = self.update_attributes(&before, &attributes).await? {
                return Ok(after);
            }
        }
    }

    /// Makes a sandbox run for at least `run_ms` milliseconds from now, and resumes it if it is
    /// paused.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` if it has ended; the host's.
    pub async fn connect_sandbox(
        &self,
        principal: &Principal,
        id: &SandboxId,
        run_ms: i64,
    ) -> Result<Connected> {
        principal.require_write(Resource::Sandboxes)?;
        loop {
            let before = self.find_sandbox(principal, id).await?;
            match before.state {
                SandboxState::Running if before.is_pausing(now_ms()) => {
                    self.wait_until_paused(principal, id).await?;
                }
                SandboxState::Running => {
                    let time = RunTime::AtLeast(run_ms);
                    match self.set_run_time(principal, id, time).await {
                        // It was paused or ended in between.
                        Err(error) if error.code == ErrorCode::InvalidState => {}
                        other => {
                            return other.map(|sandbox| Connected {
                                sandbox,
                                was_paused: false,
                            });
                        }
                    }
                }
                SandboxState::Paused => {
                    if let Some(sandbox) = self.resume_for(principal, &before, run_ms).await? {
                        let was_paused = true;
                        return Ok(Connected {
                            sandbox,
                            was_paused,
                        });
                    }
                }
                _ => return Err(wrong_state(&before, "running or paused")),
            }
        }
    }

    /// Resumes a paused sandbox for so many milliseconds. `None` if it was changed since it was read.
    async fn resume_for(
        &self,
        principal: &Principal,
        before: &Sandbox,
        run_ms: i64,
    ) -> Result<Option<Sandbox>> {
        // The report that it runs makes an end of it.
        if !before.attributes.end_policy.is_stop() && before.attributes.run_ms != Some(run_ms) {
            let attributes = SandboxAttributes {
                run_ms: Some(run_ms),
                ..before.attributes.clone()
            };
            let updated = self.update_attributes(before, &attributes).await?;
            if updated.is_none() {
                return Ok(None);
            }
        }
        self.resume_sandbox(principal, &before.id).await.map(Some)
    }

    async fn update_attributes(
        &self,
        before: &Sandbox,
        attributes: &SandboxAttributes,
    ) -> Result<Option<Sandbox>> {
        let store = &self.store;
        let updated = store.sandbox_update(before, &before.spec, attributes, now_ms());
        Ok(updated.await?)
    }

    async fn wait_until_paused(&self, principal: &Principal, id: &SandboxId) -> Result<()> {
        let request = WaitRequest {
            states: vec![SandboxState::Paused],
            deleted: false,
            timeout: PAUSE_TIMEOUT,
        };
        self.wait_for_sandbox(principal, id, &request)
            .await
            .map(drop)
    }
}
