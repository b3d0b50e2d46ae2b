//! One round for one host: looks at both sides, then does what `decide` says.
//!
//! Rows are read first, the host second. Every step checks again that it is still right: deletions
//! ask for the row, what is given up must not run, losses carry a generation, evictions look for a
//! row once more.

use std::collections::BTreeSet;
use std::sync::Arc;

use host_rpc as rpc;
use model::SandboxId;
use stdx::time::now_ms;
use store::Sandbox;

use super::decide::{Seen, Step, decide};
use crate::app::report::{self, Reported};
use crate::app::{App, sandbox_delete};
use crate::error::Result;
use crate::hosts::Host;

/// # Errors
/// The store's, or that the host does not answer. What single sandboxes have against their removal
/// is logged.
pub(super) async fn round(app: &App, host: &Arc<Host>, host_id: &str) -> Result<()> {
    // Those that begin later than this have no row yet.
    let creating = app.creating.ids();
    let rows = app.store.sandbox_list_all().await?;
    let listed = host
        .list_sandboxes(rpc::ListSandboxesRequest::default())
        .await?;
    let mut host_has = BTreeSet::new();
    for report in listed.sandboxes {
        match report::check(host_id, report) {
            Ok(Reported::State(report)) => {
                host_has.insert(report.id.clone());
                app.apply(Reported::State(report)).await?;
            }
            Ok(Reported::Removed { .. }) => {}
            Err(error) => tracing::warn!(host_id, %error, "ignoring a report that makes no sense"),
        }
    }
    let all_host_ids = app.hosts.ids();
    let steps = decide(&Seen {
        rows: &rows,
        host_has: &host_has,
        host_id,
        all_host_ids: all_host_ids.as_deref(),
        creating: &creating,
        now: now_ms(),
    });
    for step in steps {
        take(app, host, step).await?;
    }
    Ok(())
}

async fn take(app: &App, host: &Host, step: Step) -> Result<()> {
    match step {
        Step::FinishDeletion(sandbox) => {
            if let Err(error) = sandbox_delete::finish(app, &sandbox).await {
                tracing::warn!(sandbox = %sandbox.id, error = error.chain(), "not deleted yet");
            }
            Ok(())
        }
        Step::GiveUp(id) => {
            sandbox_delete::give_up_unfinished(app, &id, "nobody finished it").await
        }
        Step::Lost(sandbox) => app.lost(sandbox).await,
        Step::HostGone(sandbox) => host_gone(app, sandbox).await,
        Step::Evict(id) => evict(app, host, &id).await,
    }
}

/// The host will not come back, so nothing is waited for.
async fn host_gone(app: &App, sandbox: Sandbox) -> Result<()> {
    if sandbox.deleting {
        app.store.sandbox_remove(&sandbox.id).await?;
        return Ok(());
    }
    let Some(host_id) = sandbox.host_id.clone() else {
        return Ok(());
    };
    tracing::warn!(sandbox = %sandbox.id, host_id, "its host is gone");
    let report = report::gone(
        &sandbox,
        host_id,
        "its host is not part of this installation any more",
    );
    app.store.sandbox_apply_report(&report, now_ms()).await?;
    Ok(())
}

async fn evict(app: &App, host: &Host, id: &SandboxId) -> Result<()> {
    let host_id = host.id();
    let is_ours = |row: &Sandbox| row.host_id.is_none() || row.host_id == host_id;
    // A row may have come since: it is inserted before the host is asked.
    if app
        .store
        .sandbox_get_any_team(id)
        .await?
        .is_some_and(|row| is_ours(&row))
    {
        return Ok(());
    }
    tracing::warn!(sandbox = %id, host = host.url(), "removing what no row knows");
    if let Err(error) = host.remove_sandbox(id).await {
        tracing::warn!(sandbox = %id, error = error.chain(), "not removed yet");
    }
    Ok(())
}
