//! The row of a sandbox that a host has and the store never knew, or knows no more.

use model::{EventKind, SandboxAttributes, SandboxName, SandboxSpec, StopReason, TeamId};
use serde_json::json;

use super::events::sandbox_event;
use super::insert::{labels_text, spec_text};
use super::report::printable;
use super::row::{SandboxRow, columns};
use super::{Report, Sandbox};
use crate::db::{one, stored_generation, without_nul};
use crate::transaction::rows_in;
use crate::{Error, Store};

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
    /// Inserts the row of a sandbox as its host reports it. Returns `None` if there is a row with
    /// its id already.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a living sandbox of the team has its name; [`Error::Invalid`] for text
    /// with a NUL in it and for a generation over `i64::MAX`; the database's.
    pub async fn sandbox_adopt(
        &self,
        adopted: &AdoptedSandbox,
        now: i64,
    ) -> Result<Option<Sandbox>, Error> {
        without_nul("key id", &adopted.key_id)?;
        let AdoptedSandbox { report, spec, .. } = adopted;
        let sql = concat!(
            "INSERT INTO sandboxes (id, state, generation, spec, key_id, created_at, last_updated, team_id, template,",
            " name, labels, ends_at, reason, stop_reason, host_id, guest_ip, host_ip, started_at, last_active_at,",
            " disk_backend, disk_mb, disk_used_bytes)",
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)",
            " ON CONFLICT DO NOTHING RETURNING ",
            columns!()
        );
        let mut transaction = self.begin("adopting a sandbox").await?;
        let disk = report.disk.as_ref();
        let inserted = one(rows_in!(
            &mut transaction,
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
        )?)?;
        let Some(row) = inserted else {
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
        transaction.commit().await?;
        self.changes.publish(&row.id);
        if row.attributes.ends_at.is_some() {
            self.changes.publish_end();
        }
        Ok(Some(row))
    }
}
