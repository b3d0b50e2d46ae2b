//! Ends sandboxes whose end has come (`ends_at`), whatever they do, or pauses them, as their
//! `EndPolicy` says.
//!
//! The store owns the end, not the host: a renewal can be answered while the host is away, and one
//! statement with a condition decides between a renewal and an expiry at the same moment. The row
//! is `stopped` from then on; a host that still runs it is told, and is told again by
//! `tasks::reconcile` until it reports an end.
//!
//! A pause is claimed first: while the claim holds, no other control plane pauses it, and a renewal
//! is refused, so that none is answered and then not kept. If we die in between, the claim runs out
//! and the end comes again. The report that it is paused takes the end away.
//!
//! Every control plane looks, so that one that dies makes no sandbox late: once a second, and at
//! the moment of the next end that it knows of. While none runs nothing ends; the next one ends
//! what is due when it starts.

use std::sync::Arc;
use std::time::Duration;

use model::{EndPolicy, ErrorCode, SandboxId, StopReason};
use stdx::time::now_ms;
use store::Sandbox;

use super::{App, spawn_detached};
use crate::error::Result;

/// Longest time between two looks: what another control plane was told is not known otherwise.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Sandboxes of one look. More are due at once only after a long absence.
const BATCH: u32 = 100;
const REASON: &str = "its end (ends_at) has come";
/// Time for which a claim holds, well over that of a pause.
const CLAIM_MS: i64 = 120_000;
/// Time until a pause that failed is tried again.
const PAUSE_AGAIN_MS: i64 = 5_000;

impl App {
    /// Ends what is due, for ever.
    pub(crate) async fn end_due_sandboxes(self: Arc<Self>) {
        let mut ends = self.store.watch_ends();
        loop {
            let wait = match self.end_due_now().await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::warn!(error = error.chain(), "cannot look for sandboxes that end");
                    LOOK_EVERY
                }
            };
            // The sender lives in the store.
            let _ = tokio::time::timeout(wait, ends.changed()).await;
        }
    }

    /// Ends what is due now, and returns the time until the next look.
    async fn end_due_now(self: &Arc<Self>) -> Result<Duration> {
        let due = self.store.sandbox_list_due(BATCH).await?;
        for sandbox in due {
            let left = sandbox.ends_at.saturating_sub(now_ms());
            if let Some(left) = u64::try_from(left).ok().filter(|&left| left > 0) {
                return Ok(LOOK_EVERY.min(Duration::from_millis(left)));
            }
            match sandbox.end_policy {
                EndPolicy::Stop | EndPolicy::StopRunning => self.end_sandbox(&sandbox.id).await?,
                EndPolicy::PauseRunning => self.pause_due_sandbox(&sandbox.id).await?,
            }
        }
        Ok(LOOK_EVERY)
    }

    async fn pause_due_sandbox(self: &Arc<Self>, id: &SandboxId) -> Result<()> {
        let now = now_ms();
        let claimed = self.store.sandbox_claim_end_pause(id, now, now + CLAIM_MS);
        let Some(sandbox) = claimed.await? else {
            return Ok(());
        };
        tracing::info!(sandbox = %id, "its end has come: it is paused");
        let app = Arc::clone(self);
        tokio::spawn(spawn_detached(async move {
            let Err(error) = app.pause_on_host(&sandbox).await else {
                return Ok(());
            };
            tracing::warn!(sandbox = %sandbox.id, error = error.chain(), "cannot be paused at its end now");
            // Its host may be pausing it still.
            if error.code != ErrorCode::Timeout {
                let again = now_ms() + PAUSE_AGAIN_MS;
                app.store.sandbox_release_end_pause(&sandbox, again).await?;
            }
            Ok(())
        }));
        Ok(())
    }

    async fn pause_on_host(&self, sandbox: &Sandbox) -> Result<()> {
        let host = self.find_host(&sandbox.id, sandbox.host_id.as_deref())?;
        let report = host.pause_sandbox(&sandbox.id).await?;
        self.try_apply_response(report).await.map(drop)
    }

    async fn end_sandbox(self: &Arc<Self>, id: &SandboxId) -> Result<()> {
        // `None` if its end is later by now.
        if let Some(sandbox) = self.store.sandbox_expire(id, REASON, now_ms()).await? {
            tracing::info!(sandbox = %id, "its end has come");
            let app = Arc::clone(self);
            // A host that takes its time does not delay the ends of others.
            tokio::spawn(spawn_detached(async move {
                if let Err(error) = app.stop_on_host(&sandbox).await {
                    tracing::info!(sandbox = %sandbox.id, error = error.chain(), "its host will end it later");
                }
                Ok(())
            }));
        }
        Ok(())
    }

    /// Has the host end a sandbox that is `stopped` because its end has come.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached; the store's.
    pub(crate) async fn stop_on_host(&self, sandbox: &Sandbox) -> Result<()> {
        let host = self.find_host(&sandbox.id, sandbox.host_id.as_deref())?;
        let reason = sandbox.reason.as_deref().unwrap_or(REASON);
        let report = host
            .stop_sandbox(&sandbox.id, StopReason::EndTime, reason)
            .await?;
        self.try_apply_response(report).await.map(drop)
    }
}
