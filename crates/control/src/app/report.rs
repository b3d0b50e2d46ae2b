//! Applies reports of hosts about sandboxes to their rows.
//!
//! Reports carry generations that only grow, so late and doubled ones change nothing, whichever way
//! they come: as the answer to a call, over the watch, or in a list.

use model::{SandboxId, SandboxState, StopReason};
use stdx::time::now_ms;
use store::{Applied, Report, Sandbox};

use super::App;
use crate::error::{Error, Result};
use crate::hosts::SandboxReport;

impl App {
    /// Applies a report. A sandbox that only the host knows is left to `tasks::reconcile`.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn apply_report(&self, report: SandboxReport) -> Result<()> {
        self.ports.guest_tokens.note_report(&report);
        match report {
            SandboxReport::Present { report, .. } => {
                let applied = self
                    .store_of(&report.id)
                    .sandbox_apply_report(&report, now_ms())
                    .await?;
                if let Applied::Changed(sandbox) = applied {
                    tracing::info!(sandbox = %sandbox.id, state = %sandbox.state, reason = sandbox.reason, "changed");
                }
                Ok(())
            }
            SandboxReport::Removed { id, host_id } => {
                let row = self.store.sandbox_get_any_team(&id).await?;
                // A double on a host that does not own it is no loss.
                let is_owner =
                    |row: &Sandbox| row.host_id.as_ref().is_none_or(|owner| *owner == host_id);
                match row.filter(is_owner) {
                    Some(row) => self.mark_lost(row).await,
                    None => Ok(()),
                }
            }
        }
    }

    /// Applies the report in a host's answer to a call about a sandbox, and returns the row as it is
    /// then.
    ///
    /// # Errors
    /// `NotFound` if the sandbox was deleted in between; the store's.
    pub(super) async fn apply_response(
        &self,
        id: &SandboxId,
        report: SandboxReport,
    ) -> Result<Sandbox> {
        self.try_apply_response(report)
            .await?
            .ok_or_else(|| Error::no_sandbox(id))
    }

    /// Does the same as [`Self::apply_response`], but returns `None` if the sandbox was deleted in
    /// between.
    pub(super) async fn try_apply_response(
        &self,
        report: SandboxReport,
    ) -> Result<Option<Sandbox>> {
        self.ports.guest_tokens.note_report(&report);
        let SandboxReport::Present { report, .. } = report else {
            return Ok(None);
        };
        let store = self.store_of(&report.id);
        let row = match store.sandbox_apply_report(&report, now_ms()).await? {
            Applied::Changed(sandbox) => Some(sandbox),
            // The same report came over the watch before.
            Applied::Stale => self.store.sandbox_get_any_team(&report.id).await?,
            Applied::Unknown => None,
        };
        Ok(row.filter(|sandbox| !sandbox.deleting))
    }

    /// Records that the host of a row has nothing of its sandbox.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn mark_lost(&self, sandbox: Sandbox) -> Result<()> {
        let id = &sandbox.id;
        if sandbox.deleting {
            tracing::info!(sandbox = %id, "deleted");
            self.store_of(id).sandbox_remove(id, now_ms()).await?;
        } else if sandbox.state == SandboxState::Pending {
            self.rollback_unfinished(id, "its creation was never finished")
                .await?;
        } else if !sandbox.state.is_terminal() {
            let Some(host_id) = sandbox.host_id.clone() else {
                return Ok(());
            };
            let report = lost_report(&sandbox, host_id, "the host no longer knows it");
            self.store.sandbox_apply_report(&report, now_ms()).await?;
            tracing::warn!(sandbox = %id, "the host no longer knows it");
        }
        Ok(())
    }

    /// Records that the host of a row does not belong to this installation any more.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn mark_host_gone(&self, sandbox: Sandbox) -> Result<()> {
        if sandbox.deleting {
            self.store_of(&sandbox.id)
                .sandbox_remove(&sandbox.id, now_ms())
                .await?;
            return Ok(());
        }
        let Some(host_id) = sandbox.host_id.clone() else {
            return Ok(());
        };
        tracing::warn!(sandbox = %sandbox.id, host_id, "its host is gone");
        let reason = "its host is not part of this installation any more";
        let report = lost_report(&sandbox, host_id, reason);
        self.store.sandbox_apply_report(&report, now_ms()).await?;
        Ok(())
    }
}

/// Returns an error that no host reports, one generation after the row's: a newer report of a host
/// outranks it.
fn lost_report(sandbox: &Sandbox, host_id: String, reason: &str) -> Report {
    Report {
        id: sandbox.id.clone(),
        host_id,
        generation: sandbox.generation.next(),
        state: SandboxState::Error,
        reason: Some(reason.to_owned()),
        stop_reason: Some(StopReason::HostLost),
        guest_ip: None,
        host_ip: None,
        started_at: sandbox.started_at,
        last_active_at: sandbox.last_active_at,
        disk: sandbox.disk.clone(),
        network: None,
    }
}
