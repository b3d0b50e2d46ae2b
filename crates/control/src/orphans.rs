//! Sandboxes of a host that the store has no row of.
//!
//! There are two reasons for one. Its row has gone: the deletion passed by the host while that was
//! away. Or the store never had one, or has it no more, because it is older than the sandbox: a
//! backup was restored, or `DATABASE_URL` leads to another database. The events tell which, since
//! every row that goes leaves one in the same transaction. So the reconciler removes only sandboxes
//! that an event calls deleted, and holds all others for an operator: they run on, cannot be reached,
//! and lose nothing. That needs no mark on a restored database, and holds whichever program restored
//! it.
//!
//! A sandbox whose deletion is no longer among the events that are kept is held as well.
//!
//! To remove one is to record its deletion: if the host is away, the reconciler does it later. What was
//! deleted is never adopted, and nothing that has a row gets the record of a deletion: the store sees
//! to that, also while both happen at once.

use model::{ErrorCode, SandboxAttributes, SandboxId, TeamId};
use stdx::time::now_ms;
use store::{Actor, AdoptedSandbox, Sandbox, Store};

use crate::error::{Error, Result};
use crate::hosts::{Host, HostRecord};

/// A sandbox that only its host knows.
#[derive(Debug, Clone)]
pub struct Orphan {
    pub record: HostRecord,
    /// True if the reconciler leaves it alone.
    pub is_held: bool,
}

/// Lists the sandboxes of a host that have no row.
///
/// # Errors
/// The host's; the store's.
pub async fn list_orphans(store: &Store, host: &Host) -> Result<Vec<Orphan>> {
    host.connect().await?;
    let mut orphans = Vec::new();
    for record in host.list_records().await? {
        let id = &record.report.id;
        if store.sandbox_get_any_team(id).await?.is_none() {
            let is_held = !store.sandbox_was_deleted(id).await?;
            orphans.push(Orphan { record, is_held });
        }
    }
    Ok(orphans)
}

/// Finds the record of a sandbox of a host that has no row.
async fn find_orphan(store: &Store, host: &Host, id: &SandboxId) -> Result<HostRecord> {
    host.connect().await?;
    let mut records = host.list_records().await?.into_iter();
    match records.find(|record| record.report.id == *id) {
        Some(record) if store.sandbox_get_any_team(id).await?.is_none() => Ok(record),
        _ => Err(no_orphan(id)),
    }
}

/// Gives a sandbox of a host a row, as one of `team`.
///
/// # Errors
/// `NotFound` if the host has no such sandbox, or it has a row; `Conflict` if it was deleted;
/// `AgentError` if this version cannot read its record; the host's; the store's.
pub async fn adopt_orphan(
    store: &Store,
    host: &Host,
    id: &SandboxId,
    team: &TeamId,
) -> Result<Sandbox> {
    let HostRecord {
        report,
        spec,
        created_at,
    } = find_orphan(store, host, id).await?;
    if store.sandbox_was_deleted(id).await? {
        let text = format!("sandbox {id} was deleted: the control plane removes it from its host");
        return Err(Error::new(ErrorCode::Conflict, text));
    }
    let spec = spec.ok_or_else(|| {
        let text = format!("the host's record of sandbox {id} cannot be read by this version");
        Error::new(ErrorCode::AgentError, text)
    })?;
    let adopted = AdoptedSandbox {
        report,
        spec,
        attributes: SandboxAttributes::default(),
        team_id: team.clone(),
        key_id: Actor::OPERATOR.to_owned(),
        created_at,
    };
    let row = store.sandbox_adopt(&adopted, now_ms()).await?;
    row.ok_or_else(|| no_orphan(id))
}

/// Removes a sandbox without a row from its host, with everything in it.
///
/// # Errors
/// `NotFound` if the host has no such sandbox, or it has a row; the host's; the store's. The removal
/// is noted once the store has answered, and carried out later if the host fails.
pub async fn remove_orphan(store: &Store, host: &Host, id: &SandboxId) -> Result<()> {
    let report = find_orphan(store, host, id).await?.report;
    if !store.orphan_record_deletion(&report, now_ms()).await? {
        return Err(no_orphan(id));
    }
    host.remove_sandbox(id)
        .await
        .map_err(|error| error.and("the removal is noted, and the control plane will carry it out"))
}

fn no_orphan(id: &SandboxId) -> Error {
    let text = format!(
        "the host has no sandbox {id} that the database does not know; `wrenn-cp orphans list` shows those"
    );
    Error::new(ErrorCode::NotFound, text)
}
