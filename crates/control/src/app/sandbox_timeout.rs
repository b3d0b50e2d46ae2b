//! Moves the end of a sandbox, as clients do that say how long it is to run from now on.
//!
//! A change is one conditional statement of the store, so that a renewal and an expiry never both
//! win. While a sandbox is being paused the end does not move ([`super::claimed_pause`]).
//!
//! | the sandbox | a timeout | after a pause |
//! |---|---|---|
//! | has a run time (`run_ms`): made by clients of E2B | is its end, whose policy stays | it runs for its run time, or for that of who connects |
//! | has none, and no end: made by `/v1` | is the end of this run; what happens then is what its idle policy says | it has no end, as before |
//! | has none, and an end (`ends_at`) | moves that end, which is one of the paused, too | the end stays |
//!
//! Idle settings are never touched, so a sandbox of `/v1` is idle when it was idle before.

use std::time::Duration;

use model::{ErrorCode, Resource, SandboxAttributes, SandboxId, SandboxSpec, SandboxState};
use stdx::time::now_ms;
use store::Sandbox;
use tokio::time::{Instant, timeout_at};

use super::App;
use super::sandbox_read::wrong_state;
use crate::auth::Principal;
use crate::error::{Error, Result};

/// Time for a pause to finish before a caller that wants the sandbox to run is refused.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Time that a sandbox is to run from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunTime {
    /// Milliseconds; it may end earlier than before.
    Exactly(i64),
    /// Milliseconds; an end that is later stays, and what has no end gets none.
    AtLeast(i64),
}

impl RunTime {
    /// Returns the attributes of a sandbox that runs so long from `now` on.
    fn applied_to(
        self,
        spec: &SandboxSpec,
        before: &SandboxAttributes,
        now: i64,
    ) -> SandboxAttributes {
        let ends_at = match (self, before.ends_at) {
            (Self::Exactly(ms), _) => Some(now.saturating_add(ms)),
            (Self::AtLeast(_), None) => None,
            (Self::AtLeast(ms), Some(end)) => Some(end.max(now.saturating_add(ms))),
        };
        let is_of_this_run = before.run_ms.is_none()
            && ends_at.is_some()
            && (before.ends_at.is_none() || !before.end_policy.is_stop());
        SandboxAttributes {
            ends_at,
            end_policy: match is_of_this_run {
                true => spec.idle_end_policy(),
                false => before.end_policy,
            },
            ..before.clone()
        }
    }
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
    /// `NotFound`; `InvalidState` if it does not run, or is being paused.
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
            if before.is_pausing() {
                let text = format!("sandbox {id} is being paused; connect to it when it is");
                return Err(Error::new(ErrorCode::InvalidState, text));
            }
            if let Some(after) = self.move_end(&before, time).await? {
                return Ok(after);
            }
        }
    }

    /// Makes a sandbox run for at least `run_ms` milliseconds from now, and resumes it if it is
    /// paused. A sandbox without an end gets none.
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
        let needed_end = now_ms().saturating_add(run_ms);
        let mut was_paused = false;
        loop {
            let sandbox = self.find_sandbox(principal, id).await?;
            let is_over = now_ms() >= needed_end;
            match sandbox.state {
                // It ran for the time that was asked for, whatever it does now.
                SandboxState::Running | SandboxState::Paused if was_paused && is_over => {
                    return Ok(Connected {
                        sandbox,
                        was_paused,
                    });
                }
                SandboxState::Running if sandbox.is_pausing() => {
                    self.wait_until_decided(principal, &sandbox).await?;
                }
                SandboxState::Running if was_paused && runs_until(&sandbox, needed_end) => {
                    return Ok(Connected {
                        sandbox,
                        was_paused,
                    });
                }
                // A resume that another request asked for as well may have given it less time.
                SandboxState::Running => {
                    let time = RunTime::AtLeast(run_ms);
                    if let Some(sandbox) = self.move_end(&sandbox, time).await? {
                        return Ok(Connected {
                            sandbox,
                            was_paused,
                        });
                    }
                }
                SandboxState::Paused => {
                    was_paused |= self.resume_for(principal, &sandbox, run_ms).await?;
                }
                _ => return Err(wrong_state(&sandbox, "running or paused")),
            }
        }
    }

    /// Resumes a paused sandbox for so many milliseconds. Returns false if it was changed since it was
    /// read.
    async fn resume_for(
        &self,
        principal: &Principal,
        before: &Sandbox,
        run_ms: i64,
    ) -> Result<bool> {
        // The report that it runs makes an end of it.
        if before.attributes.run_ms.is_some_and(|run| run != run_ms) {
            let attributes = SandboxAttributes {
                run_ms: Some(run_ms),
                ..before.attributes.clone()
            };
            let updated = self.update_attributes(before, &attributes).await?;
            if updated.is_none() {
                return Ok(false);
            }
        }
        self.resume_sandbox(principal, &before.id).await?;
        Ok(true)
    }

    /// Moves the end of a sandbox that runs and is not being paused. `None` if it was changed since it
    /// was read.
    async fn move_end(&self, before: &Sandbox, time: RunTime) -> Result<Option<Sandbox>> {
        let attributes = time.applied_to(&before.spec, &before.attributes, now_ms());
        if attributes == before.attributes {
            return Ok(Some(before.clone()));
        }
        self.update_attributes(before, &attributes).await
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

    /// Waits until a sandbox that is being paused is, or runs on.
    ///
    /// # Errors
    /// `HostUnavailable` while its host cannot tell; `Timeout`; `NotFound`.
    async fn wait_until_decided(&self, principal: &Principal, sandbox: &Sandbox) -> Result<()> {
        let id = &sandbox.id;
        let deadline = Instant::now() + PAUSE_TIMEOUT;
        // Before the first look: a change after it is heard of.
        let mut changes = self.store.watch_sandbox(id);
        loop {
            let row = self.find_sandbox(principal, id).await?;
            if row.state != SandboxState::Running || !row.is_pausing() {
                return Ok(());
            }
            self.find_host(id, row.host_id.as_deref())?.require_up()?;
            let changed = tokio::select! {
                changed = timeout_at(deadline, changes.changed()) => changed,
                () = self.shutdown.cancelled() => return Err(Error::shutting_down()),
            };
            if changed.is_err() {
                let text = format!("sandbox {id} is still being paused; ask again");
                return Err(Error::new(ErrorCode::Timeout, text));
            }
        }
    }
}

fn runs_until(sandbox: &Sandbox, end: i64) -> bool {
    let ends_at = sandbox.attributes.ends_at;
    ends_at.is_none_or(|ends_at| ends_at >= end)
}

#[cfg(test)]
mod tests {
    use model::EndPolicy;
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_000_000;

    fn any_attributes() -> impl Strategy<Value = SandboxAttributes> {
        let ends_at = proptest::option::of(NOW - 1000..NOW + 1000);
        let end_policy = proptest::sample::select(EndPolicy::ALL.to_vec());
        let run_ms = proptest::option::of(0..1000i64);
        (ends_at, end_policy, run_ms).prop_map(|(ends_at, end_policy, run_ms)| SandboxAttributes {
            ends_at,
            end_policy,
            run_ms,
            ..SandboxAttributes::default()
        })
    }

    proptest! {
        #[test]
        fn timeout_moves_end_and_nothing_else(before in any_attributes(), ms in 0..2000i64, is_least: bool) {
            let spec = SandboxSpec::builder().build();
            let time = if is_least { RunTime::AtLeast(ms) } else { RunTime::Exactly(ms) };
            let after = time.applied_to(&spec, &before, NOW);
            prop_assert_eq!(after.run_ms, before.run_ms);
            match (time, before.ends_at) {
                (RunTime::Exactly(_), _) => prop_assert_eq!(after.ends_at, Some(NOW + ms)),
                (RunTime::AtLeast(_), None) => prop_assert_eq!(&after, &before),
                (RunTime::AtLeast(_), Some(end)) => {
                    prop_assert_eq!(after.ends_at, Some(end.max(NOW + ms)));
                }
            }
            // What E2B's clients made keeps its policy, and an end of `/v1` stays one of the paused.
            let has_own_end = before.end_policy.is_stop() && before.ends_at.is_some();
            if before.run_ms.is_some() || has_own_end {
                prop_assert_eq!(after.end_policy, before.end_policy);
            } else if after.ends_at.is_some() {
                prop_assert_eq!(after.end_policy, spec.idle_end_policy());
            }
            // Once more changes nothing.
            prop_assert_eq!(RunTime::AtLeast(ms).applied_to(&spec, &after, NOW), after);
        }
    }
}
