//! The row of a sandbox that a host has and the store never knew, or knows no more.

use model::{
    EventKind, SandboxAttributes, SandboxId, SandboxName, SandboxSpec, StopReason, TeamId,
};
use serde_json::json;

use super::events::sandbox_event;
use super::insert::{labels_text, spec_text};
use super::report::printable;
use super::row::{SandboxRow, columns};
use super::{Report, Sandbox};
use crate::db::{one, stored_generation, without_nul};
use crate::transaction::{Transaction, rows_in};
use crate::{Error, NewEvent, Store};

/// A sandbox of a host that gets a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptedSandbox {
    /// Report of its host, whose state the row has.
    pub report: Report,
    pub spec: SandboxSpec,
    pub attributes: SandboxAttributes,
    pub team_id: TeamId,
    /// Id of the key that counts as having asked for it.
    pub key_id: String,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

impl Store {
    /// Records that an operator had a sandbox without a row removed. Returns false if it has got a
    /// row: then nothing is recorded.
    ///
    /// # Errors
    /// The database fails.
    pub async fn orphan_record_deletion(&self, report: &Report, now: i64) -> Result<bool, Error> {
        let event = NewEvent {
            kind: EventKind::SandboxDeleted,
            team_id: None,
            subject: report.id.to_string(),
            sandbox_id: Some(report.id.clone()),
            generation: Some(report.generation),
            data: json!({ "host_id": report.host_id, "orphan": true }),
            now,
        };
        let mut transaction = self.begin("recording the deletion of a sandbox").await?;
        // Events are recorded one after the other, until their transactions end: an adoption that is
        // under way is seen, or sees this event.
        transaction.record(&event).await?;
        let sql = "SELECT id FROM sandboxes WHERE id = $1";
        if !rows_in!(&mut transaction, (String,), sql, report.id.as_str())?.is_empty() {
            transaction.rollback().await?;
            return Ok(false);
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Inserts the row of a sandbox as its host reports it. Returns `None` if there is a row with
    /// its id already.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a living sandbox of the team has its name, or it was deleted;
    /// [`Error::Invalid`] for text with a NUL in it and for a generation over `i64::MAX`; the
    /// database's.
    pub async fn sandbox_adopt(
        &self,
        adopted: &AdoptedSandbox,
        now: i64,
    ) -> Result<Option<Sandbox>, Error> {
        without_nul("key id", &adopted.key_id)?;
        let report = &adopted.report;
        let mut transaction = self.begin("adopting a sandbox").await?;
        let Some(row) = transaction.insert_adopted(adopted, now).await? else {
            transaction.rollback().await?;
            return match self.sandbox_get_any_team(&report.id).await? {
                Some(_) => Ok(None),
                None => Err(Error::Conflict {
                    what: "a living sandbox with this name",
                }),
            };
        };
        let mut event = sandbox_event(EventKind::SandboxCreated, &row, now);
        event.data["adopted"] = json!(true);
        transaction.record(&event).await?;
        // After the event: deletions of orphans are recorded under the same lock.
        if transaction.has_deletion(&row.id).await? {
            transaction.rollback().await?;
            return Err(Error::Conflict {
                what: "the record of its deletion",
            });
        }
        transaction.commit().await?;
        self.changes.publish(&row.id);
        if row.attributes.ends_at.is_some() {
            self.changes.publish_end();
        }
        Ok(Some(row))
    }
}

impl Transaction<'_> {
    /// Inserts the row, unless there is one with its id or name.
    async fn insert_adopted(
        &mut self,
        adopted: &AdoptedSandbox,
        now: i64,
    ) -> Result<Option<Sandbox>, Error> {
        let AdoptedSandbox { report, spec, .. } = adopted;
        let sql = concat!(
            "INSERT INTO sandboxes (id, state, generation, spec, key_id, created_at, last_updated, team_id, template,",
            " name, labels, ends_at, reason, stop_reason, host_id, guest_ip, host_ip, started_at, last_active_at,",
            " disk_backend, disk_mb, disk_used_bytes)",
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)",
            " ON CONFLICT DO NOTHING RETURNING ",
            columns!()
        );
        let disk = report.disk.as_ref();
        one(rows_in!(
            self,
            SandboxRow,
            sql,
            report.id.as_str(),
            report.state.as_str(),
            stored_generation(report.generation)?,
            spec_text(spec)?,
            &adopted.key_id,
            adopted.created_at,
            now,
            adopted.team_id.as_str(),
            spec.template_name(),
            adopted.attributes.name.as_ref().map(SandboxName::as_str),
            labels_text(&adopted.attributes.labels)?,
            adopted.attributes.ends_at,
            report.reason.as_deref().map(printable),
            report.stop_reason.map(StopReason::as_str),
            printable(&report.host_id),
            report.guest_ip.as_deref().map(printable),
            report.host_ip.as_deref().map(printable),
            report.started_at,
            report.last_active_at,
            disk.map(|disk| printable(&disk.backend)),
            disk.map(|disk| i64::from(disk.size_mb)),
            disk.map(|disk| disk.used_bytes)
        )?)
    }

    /// Returns true if an event says that a sandbox was deleted.
    async fn has_deletion(&mut self, id: &SandboxId) -> Result<bool, Error> {
        let sql = "SELECT cursor FROM events WHERE sandbox_id = $1 AND kind = $2 LIMIT 1";
        let kind = EventKind::SandboxDeleted.as_str();
        Ok(!rows_in!(self, (i64,), sql, id.as_str(), kind)?.is_empty())
    }
}
