//! Reconciliation of a host: reads both sides, then carries out the plan.
//!
//! Rows are read first, the host second. Every step checks again that it is still right: deletions
//! ask for the row, a sandbox that is rolled back must not run, losses carry a generation, removals
//! of orphans look for a row once more, and for the record of its deletion: without that they are held
//! ([`crate::orphans`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::SandboxId;
use stdx::time::now_ms;
use store::Sandbox;

use super::plan::{HostSandbox, Observation, Step, plan_steps};
use crate::app::App;
use crate::error::Result;
use crate::hosts::{Host, HostInfo, SandboxReport};

/// Reconciles the sandboxes of a host with the store.
///
/// # Errors
/// The store's, or that the host does not answer. Failures to remove single sandboxes are logged.
pub(super) async fn reconcile_host(app: &App, host: &Arc<Host>, host_id: &str) -> Result<()> {
    // A host whose templates cannot be listed still has its sandboxes reconciled.
    match host.refresh_inventory().await {
        Ok(inventory) => record_drain(app, host, &inventory.info).await?,
        Err(error) => {
            host.forget_inventory();
            tracing::warn!(
                host = host.url(),
                error = error.chain(),
                "templates of the host are not known"
            );
        }
    }
    // Creates that begin later than this have no row yet.
    let in_flight = app.in_flight_creates.ids();
    let rows = app.store.sandbox_list_all().await?;
    let mut host_has = BTreeMap::new();
    for report in host.list_sandboxes().await? {
        if let SandboxReport::Present {
            report: state,
            settings,
            ..
        } = &report
        {
            let sandbox = HostSandbox {
                is_over: state.state.is_terminal(),
                settings: *settings,
            };
            host_has.insert(state.id.clone(), sandbox);
            app.apply_report(report).await?;
        }
    }
    let all_host_ids = app.hosts.ids();
    let steps = plan_steps(&Observation {
        rows: &rows,
        host_has: &host_has,
        host_id,
        all_host_ids: all_host_ids.as_deref(),
        in_flight: &in_flight,
        now: now_ms(),
    });
    let mut held = BTreeSet::new();
    for step in steps {
        carry_out(app, host, step, &mut held).await?;
    }
    app.held_sandboxes.replace(host_id, held);
    Ok(())
}

/// Records whether the host is being drained. Another control plane may have done so.
async fn record_drain(app: &App, host: &Host, info: &HostInfo) -> Result<()> {
    let drain = info.drain();
    let recorded = app
        .store
        .host_drain_record(host.url(), drain, info.running, now_ms());
    Ok(recorded.await?)
}

/// Carries out one step. A sandbox that cannot be removed now is removed in a later round; one that
/// must not be is added to `held`.
async fn carry_out(
    app: &App,
    host: &Host,
    step: Step,
    held: &mut BTreeSet<SandboxId>,
) -> Result<()> {
    match step {
        Step::FinishDeletion(sandbox) => {
            if let Err(error) = app.finish_deletion(&sandbox).await {
                tracing::warn!(sandbox = %sandbox.id, error = error.chain(), "not deleted yet");
            }
            Ok(())
        }
        Step::Rollback(id) => {
            app.rollback_unfinished(&id, "its creation was never finished")
                .await
        }
        Step::MarkLost(sandbox) => app.mark_lost(sandbox).await,
        Step::MarkHostGone(sandbox) => app.mark_host_gone(sandbox).await,
        Step::Stop(sandbox) => {
            let stopped = app.stop_on_host(&sandbox).await;
            log_failure(&sandbox.id, stopped, "not ended yet");
            Ok(())
        }
        Step::TellSettings(id) => {
            // As the row is now: what was read before may be outdated.
            if let Some(row) = app.store.sandbox_get_any_team(&id).await? {
                let told = app.tell_idle_settings(&row).await;
                log_failure(&id, told, "its host does not know its settings yet");
            }
            Ok(())
        }
        Step::RecordPolicy(row, policy) => {
            // Nothing happens if a user has changed it since.
            app.record_policy(&row, policy).await.map(drop)
        }
        Step::RemoveOrphan(id) => {
            if remove_orphan(app, host, &id).await? == Orphan::Held {
                held.insert(id);
            }
            Ok(())
        }
    }
}

/// Logs what a later round tries again.
fn log_failure(id: &SandboxId, outcome: Result<()>, what: &str) {
    if let Err(error) = outcome {
        tracing::warn!(sandbox = %id, error = error.chain(), "{what}");
    }
}

/// Result for a sandbox without a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Orphan {
    Done,
    /// It stays: see [`crate::orphans`].
    Held,
}

/// Removes a sandbox from its host, unless it has got a row since, or nothing says that it was
/// deleted.
async fn remove_orphan(app: &App, host: &Host, id: &SandboxId) -> Result<Orphan> {
    let host_id = host.id();
    let is_ours = |row: &Sandbox| row.host_id.is_none() || row.host_id == host_id;
    // A row may have come since: it is inserted before the host is asked.
    match app.store.sandbox_get_any_team(id).await? {
        Some(row) if is_ours(&row) => return Ok(Orphan::Done),
        // A double of a sandbox on another host.
        Some(_) => {}
        None if !app.store.sandbox_was_deleted(id).await? => return Ok(Orphan::Held),
        None => {}
    }
    tracing::warn!(sandbox = %id, host = host.url(), "removing a sandbox that has no row");
    if let Err(error) = host.remove_sandbox(id).await {
        tracing::warn!(sandbox = %id, error = error.chain(), "not removed yet");
    }
    Ok(Orphan::Done)
}
