//! Ends sandboxes whose end has come (`ends_at`), whatever they do, or pauses them, as their
//! `EndPolicy` says.
//!
//! The store owns the end, not the host: a renewal can be answered while the host is away, and one
//! statement with a condition decides between a renewal and an expiry at the same moment. The row
//! is `stopped` from then on; a host that still runs it is told, and is told again by
//! `tasks::reconcile` until it reports an end.
//!
//! A pause is claimed first ([`super::claimed_pause`]). Pauses whose control plane died, or does not know
//! what became of them, are taken over here.
//!
//! Every control plane looks, so that one that dies makes no sandbox late: once a second, and at
//! the moment of the next end that it knows of. While none runs nothing ends; the next one ends
//! what is due when it starts.

use std::sync::Arc;
use std::time::Duration;

use model::{EndPolicy, SandboxId, SandboxState, StopReason};
use stdx::time::now_ms;
use store::Sandbox;

use super::{App, spawn_detached};
use crate::error::Result;

/// Longest time between two looks: what another control plane was told is not known otherwise.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Sandboxes of one look. More are due at once only after a long absence.
const BATCH: u32 = 100;
const REASON: &str = "its end (ends_at) has come";
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
        self.take_over_pauses().await?;
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
        // It may have been renewed since it was listed.
        let row = self.store.sandbox_get_any_team(id).await?;
        let is_due = |row: &Sandbox| {
            row.state == SandboxState::Running
                && row.attributes.end_policy == EndPolicy::PauseRunning
                && row.attributes.ends_at.is_some_and(|end| end <= now_ms())
                && !row.is_pausing()
        };
        match row.filter(is_due) {
            Some(row) => {
                self.begin_pause(&row, "its end has come: it is paused")
                    .await
            }
            None => Ok(()),
        }
    }

    /// Takes over pauses whose lease has run out.
    async fn take_over_pauses(self: &Arc<Self>) -> Result<()> {
        for row in self.store.sandbox_list_claimed(now_ms(), BATCH).await? {
            self.begin_pause(&row, "its pause is taken over").await?;
        }
        Ok(())
    }

    /// Begins a pause, unless the row has changed since it was read.
    async fn begin_pause(self: &Arc<Self>, row: &Sandbox, why: &str) -> Result<()> {
        let Some(claim) = self.claim_pause(row).await? else {
            return Ok(());
        };
        tracing::info!(sandbox = %row.id, "{why}");
        let app = Arc::clone(self);
        tokio::spawn(spawn_detached(async move {
            app.pause_claimed(claim).await.map(drop)
        }));
        Ok(())
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
