//! Pauses that a sandbox's end must not cut across: asked for by a user, or because the end has come
//! (`EndPolicy::PauseRunning`).
//!
//! The pause is claimed in the row first, in one statement with a condition, so that of a claim, a
//! renewal and an expiry at once one is first and the others see it. While the claim is there the end
//! neither comes nor moves: no renewal is answered and then not kept, and no sandbox ends while it is
//! saved. What decides:
//!
//! | the host | the row |
//! |---|---|
//! | has paused it | the report takes end and claim away |
//! | refused | the claim is given up, and the end is as it was; one that has come comes again in 5 s |
//! | was never reached | the same, unless an earlier call may have reached it |
//! | broke off, or takes too long | the claim stays: it may be pausing still, and is asked again in 5 s |
//!
//! A claim has a lease, which is renewed while the call is under way. If we die in between, or the
//! result is not known, another look takes the pause over when the lease has run out: the host answers
//! a second call with the outcome of the first. Sandboxes that end while they are paused, too
//! (`EndPolicy::Stop`), are not claimed.

use std::time::Duration;

use stdx::time::now_ms;
use store::Sandbox;

use super::App;
use crate::error::{Error, Result};
use crate::hosts;

/// Lease of a claim: several times what a database that is busy takes for a statement.
const LEASE_MS: i64 = 30_000;
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// Time until a pause that failed is tried again, or asked about.
const PAUSE_AGAIN_MS: i64 = 5_000;

/// Claim of a pause.
#[derive(Debug)]
pub(super) struct PauseClaim {
    row: Sandbox,
    /// True if an earlier call may have reached the host.
    is_taken_over: bool,
}

impl App {
    /// Claims a running sandbox for a pause. `None` if it was changed since it was read.
    pub(super) async fn claim_pause(&self, before: &Sandbox) -> Result<Option<PauseClaim>> {
        let until = now_ms().saturating_add(LEASE_MS);
        let claimed = self.store.sandbox_claim_pause(before, until).await?;
        Ok(claimed.map(|row| PauseClaim {
            row,
            is_taken_over: before.is_pausing(),
        }))
    }

    /// Pauses a sandbox that is claimed. Returns its row afterwards.
    ///
    /// # Errors
    /// The host's; the store's.
    pub(super) async fn pause_claimed(&self, mut claim: PauseClaim) -> Result<Sandbox> {
        let id = claim.row.id.clone();
        let paused = self.call_pause(&mut claim.row).await;
        let error = match paused {
            Ok(sandbox) => return Ok(sandbox),
            Err(error) => error,
        };
        let is_undone =
            hosts::has_refused(&error) || (!claim.is_taken_over && hosts::is_refusal(&error));
        tracing::info!(sandbox = %id, is_undone, error = error.chain(), "not paused");
        let now = now_ms();
        let again = now.saturating_add(PAUSE_AGAIN_MS);
        match is_undone {
            true => {
                self.store
                    .sandbox_release_pause(&claim.row, now, again)
                    .await?
            }
            false => drop(
                self.store
                    .sandbox_renew_pause(&mut claim.row, again)
                    .await?,
            ),
        }
        Err(error)
    }

    async fn call_pause(&self, claimed: &mut Sandbox) -> Result<Sandbox> {
        let id = claimed.id.clone();
        let host = self.find_host(&id, claimed.host_id.as_deref())?;
        let mut call = Box::pin(host.pause_sandbox(&id));
        let report = loop {
            match tokio::time::timeout(RENEW_EVERY, &mut call).await {
                Ok(report) => break report?,
                Err(_) => self.renew_claim(claimed).await,
            }
        };
        self.apply_pause(&id, report).await
    }

    /// Renews a lease. If that fails the pause may be asked for twice, which is harmless.
    async fn renew_claim(&self, claimed: &mut Sandbox) {
        let until = now_ms().saturating_add(LEASE_MS);
        let renewed = self.store.sandbox_renew_pause(claimed, until).await;
        if let Err(error) = renewed {
            let error = Error::from(error);
            tracing::warn!(sandbox = %claimed.id, error = error.chain(), "the claim of a pause is not renewed");
        }
    }
}
