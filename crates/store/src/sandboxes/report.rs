//! The write that moves a sandbox on: a host's report.

use model::{Generation, NetworkSpec, SandboxAttributes, SandboxId, SandboxState, StopReason};

use super::events::report_events;
use super::row::{SandboxRow, columns};
use super::{Disk, Sandbox};
use crate::db::{one, stored_generation};
use crate::transaction::change;
use crate::{Error, Store};

/// Host's report of a sandbox at some moment. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub id: SandboxId,
    pub host_id: String,
    pub generation: Generation,
    pub state: SandboxState,
    pub reason: Option<String>,
    pub stop_reason: Option<StopReason>,
    pub guest_ip: Option<String>,
    pub host_ip: Option<String>,
    pub started_at: Option<i64>,
    pub last_active_at: Option<i64>,
    pub disk: Option<Disk>,
    /// Rules about where it may connect to; `None`: unchanged.
    pub network: Option<NetworkSpec>,
}

/// Result of applying a report.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one at a time, matched at once")]
pub enum Applied {
    /// The row as it is now.
    Changed(Sandbox),
    /// The row knows something newer, or its state cannot become the reported one.
    Stale,
    /// No such row.
    Unknown,
}

impl Store {
    /// Applies a report if its generation is newer than the row's and the move is legal
    /// ([`SandboxState::can_become`]), or if it was lost and is there again; it has lost its name then
    /// if another one has that. Then the row says what the report says, and no more: a value
    /// that the report leaves out is gone, but for network rules. Late, doubled and reordered
    /// reports change nothing. NULs in its texts become `U+FFFD`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a generation over `i64::MAX`, and as [`Store::sandbox_get`].
    pub async fn sandbox_apply_report(&self, report: &Report, now: i64) -> Result<Applied, Error> {
        stored_generation(report.generation)?;
        loop {
            // Most reports say what is known already, and need no writer.
            let Some(before) = self.sandbox_get_any_team(&report.id).await? else {
                return Ok(Applied::Unknown);
            };
            let is_newer = before.generation < report.generation;
            if !is_newer || !may_follow(&before, report) {
                // Another process may have applied it, and who waits here is to hear of it.
                self.changes.publish(&report.id);
                return Ok(Applied::Stale);
            }
            if let Some(row) = self.replace_reported(&before, report, now).await? {
                return Ok(Applied::Changed(row));
            }
            // Another report came in between.
        }
    }

    /// Puts a report in the place of the one before. Returns `None` if the row has changed since
    /// `before` was read: every such change has another generation or revision, or is the end of the
    /// sandbox.
    async fn replace_reported(
        &self,
        before: &Sandbox,
        report: &Report,
        now: i64,
    ) -> Result<Option<Sandbox>, Error> {
        let sql = concat!(
            "UPDATE sandboxes SET state = $2, generation = $3, reason = $4, host_id = $5, guest_ip = $6, host_ip = $7,",
            " started_at = $8, last_active_at = $9, last_updated = $10,",
            " disk_backend = $12, disk_mb = $13, disk_used_bytes = $14, network = COALESCE($15, network),",
            " stop_reason = $16, name = CASE WHEN $19 THEN NULL ELSE name END, ends_at = $20, pausing_until = $21,",
            // Whoever read the row before writes no end of before.
            " revision = revision + CASE WHEN COALESCE(ends_at, 0) <> COALESCE($20, 0) THEN 1 ELSE 0 END",
            " WHERE id = $1 AND generation = $11 AND state = $17 AND revision = $18 RETURNING ",
            columns!()
        );
        let loses_name = is_return(before, report) && self.is_name_taken(before).await?;
        let mut after = report.applied_to(before, now);
        if loses_name {
            after.attributes.name = None;
        }
        let events = report_events(before, &after, now);
        let changed = one(change!(
            self,
            "applying a host's report",
            SandboxRow,
            &events,
            sql,
            report.id.as_str(),
            report.state.as_str(),
            stored_generation(report.generation)?,
            report.reason.as_deref().map(printable),
            printable(&report.host_id),
            report.guest_ip.as_deref().map(printable),
            report.host_ip.as_deref().map(printable),
            report.started_at,
            report.last_active_at,
            now,
            stored_generation(before.generation)?,
            report.disk.as_ref().map(|disk| printable(&disk.backend)),
            report.disk.as_ref().map(|disk| i64::from(disk.size_mb)),
            report.disk.as_ref().map(|disk| disk.used_bytes),
            report.network.as_ref().map(network_text).transpose()?,
            report.stop_reason.map(StopReason::as_str),
            before.state.as_str(),
            before.revision,
            loses_name,
            after.attributes.ends_at,
            after.pausing_until,
        )?)?;
        if changed.is_some() {
            self.changes.publish(&report.id);
            if after.attributes.ends_at != before.attributes.ends_at {
                self.changes.publish_end();
            }
        }
        Ok(changed)
    }

    /// Returns true if another living sandbox has the name of a row, which was free meanwhile.
    async fn is_name_taken(&self, row: &Sandbox) -> Result<bool, Error> {
        let Some(name) = &row.attributes.name else {
            return Ok(false);
        };
        let found = self.sandbox_get_by_name(&row.team_id, name).await?;
        Ok(found.is_some_and(|found| found.id != row.id))
    }
}

impl Report {
    /// Returns the row that this report makes of `before`.
    fn applied_to(&self, before: &Sandbox, now: i64) -> Sandbox {
        let mut spec = before.spec.clone();
        if let Some(network) = &self.network {
            spec.replace_network(network.clone());
        }
        let is_running = self.state == SandboxState::Running;
        let attributes = SandboxAttributes {
            ends_at: self.end_after(before, now),
            ..before.attributes.clone()
        };
        Sandbox {
            attributes,
            pausing_until: before.pausing_until.filter(|_| is_running),
            state: self.state,
            generation: self.generation,
            reason: self.reason.as_deref().map(printable),
            stop_reason: self.stop_reason,
            spec,
            host_id: Some(printable(&self.host_id)),
            guest_ip: self.guest_ip.as_deref().map(printable),
            host_ip: self.host_ip.as_deref().map(printable),
            started_at: self.started_at,
            last_active_at: self.last_active_at,
            last_updated: now,
            disk: self.disk.as_ref().map(|disk| Disk {
                backend: printable(&disk.backend),
                ..disk.clone()
            }),
            ..before.clone()
        }
    }

    /// Returns the end that a sandbox has after this report. A run begins with a new one; one that is
    /// found again goes on with that which it had.
    fn end_after(&self, before: &Sandbox, now: i64) -> Option<i64> {
        let attributes = &before.attributes;
        if attributes.end_policy.is_stop() {
            return attributes.ends_at;
        }
        let begins = matches!(before.state, SandboxState::Pending | SandboxState::Paused);
        match self.state {
            SandboxState::Paused => None,
            SandboxState::Running if begins => attributes.run_ms.map(|run| now.saturating_add(run)),
            _ => attributes.ends_at,
        }
    }
}

/// Returns true if the sandbox of a row can be as reported. One that was marked as lost is what its
/// host says, if that has it again.
fn may_follow(before: &Sandbox, report: &Report) -> bool {
    before.state.can_become(report.state) || is_return(before, report)
}

fn is_return(before: &Sandbox, report: &Report) -> bool {
    before.stop_reason == Some(StopReason::HostLost) && !report.state.is_terminal()
}

fn network_text(network: &NetworkSpec) -> Result<String, Error> {
    let unreadable = |source: serde_json::Error| Error::Corrupt {
        what: "network rules".to_owned(),
        source: source.into(),
    };
    serde_json::to_string(network).map_err(unreadable)
}

/// Replaces NULs: PostgreSQL holds none in text, and a report must not be refused for one.
pub(super) fn printable(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}
