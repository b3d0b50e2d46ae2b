//! What hosts say of sandboxes, checked, and what it does to their rows.
//!
//! Reports carry generations that only grow, so late and doubled ones change nothing, whichever way
//! they come: as the answer to a call, over the watch, or in a list.

use host_rpc as rpc;
use model::{ErrorCode, Generation, InvalidValue, SandboxId, SandboxState};
use stdx::time::now_ms;
use store::{Applied, Disk, Report, Sandbox};

use super::{App, sandbox_delete};
use crate::error::{Error, Result};
use crate::hosts::Host;

/// A report that makes sense.
#[derive(Debug, Clone)]
pub enum Reported {
    State(Box<Report>),
    /// The host has nothing of it any more.
    Removed {
        id: SandboxId,
        host_id: String,
    },
}

/// Checks a report of the host `host_id`.
///
/// # Errors
/// Which field is wrong.
pub fn check(
    host_id: &str,
    report: rpc::SandboxReport,
) -> std::result::Result<Reported, InvalidValue> {
    let id: SandboxId = report.sandbox_id.parse()?;
    let state = match report.state.as_known() {
        Some(rpc::SandboxState::SANDBOX_STATE_REMOVED) => {
            return Ok(Reported::Removed {
                id,
                host_id: host_id.to_owned(),
            });
        }
        Some(rpc::SandboxState::SANDBOX_STATE_PENDING) => SandboxState::Pending,
        Some(rpc::SandboxState::SANDBOX_STATE_RUNNING) => SandboxState::Running,
        Some(rpc::SandboxState::SANDBOX_STATE_PAUSED) => SandboxState::Paused,
        Some(rpc::SandboxState::SANDBOX_STATE_STOPPED) => SandboxState::Stopped,
        Some(rpc::SandboxState::SANDBOX_STATE_ERROR) => SandboxState::Error,
        Some(rpc::SandboxState::SANDBOX_STATE_UNSPECIFIED) | None => {
            return Err(InvalidValue::new(
                "state",
                "is none that this version knows",
            ));
        }
    };
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    let time = |time: i64| Some(time).filter(|&time| time > 0);
    let disk = report.disk.into_option();
    // A host of an earlier version knows of none.
    let network = report
        .spec
        .into_option()
        .and_then(|spec| spec.network.into_option());
    let network = network
        .map(|rules| rpc::network::of_message(Some(&rules)))
        .transpose()?;
    Ok(Reported::State(Box::new(Report {
        id,
        host_id: host_id.to_owned(),
        generation: Generation(report.generation),
        state,
        reason: text(report.reason),
        guest_ip: text(report.guest_ip),
        host_ip: text(report.host_ip),
        started_at: time(report.started_at_ms),
        last_active_at: time(report.last_active_at_ms),
        disk: disk.map(|disk| Disk {
            backend: disk.backend,
            size_mb: disk.size_mb,
            used_bytes: i64::try_from(disk.used_bytes).unwrap_or(i64::MAX),
        }),
        network,
    })))
}

impl App {
    /// Applies what a host says. A sandbox that only the host knows is left to `tasks::converge`.
    ///
    /// # Errors
    /// The store's.
    pub async fn apply(&self, reported: Reported) -> Result<()> {
        match reported {
            Reported::State(report) => {
                if let Applied::Changed(sandbox) =
                    self.store.sandbox_apply_report(&report, now_ms()).await?
                {
                    tracing::info!(sandbox = %sandbox.id, state = %sandbox.state, reason = sandbox.reason, "changed");
                }
                Ok(())
            }
            Reported::Removed { id, host_id } => {
                match self.store.sandbox_get_any_team(&id).await? {
                    // What was a double on another host is no loss.
                    Some(sandbox)
                        if sandbox
                            .host_id
                            .as_ref()
                            .is_some_and(|owner| *owner != host_id) =>
                    {
                        Ok(())
                    }
                    Some(sandbox) => self.lost(sandbox).await,
                    None => Ok(()),
                }
            }
        }
    }

    /// Applies what a host answers to a call about this sandbox. The row as it is then; `None` if
    /// the sandbox was deleted meanwhile.
    ///
    /// # Errors
    /// The store's; `AgentError` for an answer that makes no sense; that the host does not say who
    /// it is.
    pub async fn settle(&self, host: &Host, answer: rpc::SandboxReport) -> Result<Option<Sandbox>> {
        self.ports.guest_tokens.note_report(&answer);
        let nonsense = |cause| {
            Error::new(
                ErrorCode::AgentError,
                "the host agent's answer makes no sense",
            )
            .because(cause)
        };
        // The only host is asked before it has said who it is.
        let host_id = match host.id() {
            Some(id) => id,
            None => host.connect().await?.host_id,
        };
        let report = match check(&host_id, answer).map_err(nonsense)? {
            Reported::State(report) => *report,
            Reported::Removed { .. } => return Ok(None),
        };
        let row = match self.store.sandbox_apply_report(&report, now_ms()).await? {
            Applied::Changed(sandbox) => Some(sandbox),
            // The same report came over the watch before.
            Applied::Stale => self.store.sandbox_get_any_team(&report.id).await?,
            Applied::Unknown => None,
        };
        Ok(row.filter(|sandbox| !sandbox.deleting))
    }

    /// The host of this row has nothing of its sandbox.
    ///
    /// # Errors
    /// The store's.
    pub async fn lost(&self, sandbox: Sandbox) -> Result<()> {
        let id = &sandbox.id;
        if sandbox.deleting {
            tracing::info!(sandbox = %id, "deleted");
            self.store.sandbox_remove(id).await?;
        } else if sandbox.state == SandboxState::Pending {
            sandbox_delete::give_up_unfinished(self, id, "it was never finished").await?;
        } else if !sandbox.state.is_terminal() {
            let Some(host_id) = sandbox.host_id.clone() else {
                return Ok(());
            };
            let report = gone(&sandbox, host_id, "the host no longer knows it");
            self.store.sandbox_apply_report(&report, now_ms()).await?;
            tracing::warn!(sandbox = %id, "the host no longer knows it");
        }
        Ok(())
    }
}

/// An error that no host reports, one generation after what the row has: a newer report of a host
/// outranks it.
#[must_use]
pub fn gone(sandbox: &Sandbox, host_id: String, reason: &str) -> Report {
    Report {
        id: sandbox.id.clone(),
        host_id,
        generation: sandbox.generation.next(),
        state: SandboxState::Error,
        reason: Some(reason.to_owned()),
        guest_ip: None,
        host_ip: None,
        started_at: sandbox.started_at,
        last_active_at: sandbox.last_active_at,
        disk: sandbox.disk.clone(),
        network: None,
    }
}
