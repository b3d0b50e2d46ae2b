//! The write that moves a sandbox on: a host's report.

use model::{Generation, NetworkSpec, SandboxId, SandboxState};

use super::row::{SandboxRow, columns};
use super::{Disk, Sandbox, one};
use crate::db::{rows, stored_generation};
use crate::{Error, Store};

/// Host's report of a sandbox at some moment. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub id: SandboxId,
    pub host_id: String,
    pub generation: Generation,
    pub state: SandboxState,
    pub reason: Option<String>,
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
    /// ([`SandboxState::can_become`]). Then the row says what the report says, and no more: a value
    /// that the report leaves out is gone, but for network rules. Late, doubled and reordered
    /// reports change nothing. NULs in its texts become `U+FFFD`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a generation over `i64::MAX`, and as [`Store::sandbox_get`].
    pub async fn sandbox_apply_report(&self, report: &Report, now: i64) -> Result<Applied, Error> {
        let sql = concat!(
            "UPDATE sandboxes SET state = $2, generation = $3, reason = $4, host_id = $5, guest_ip = $6, host_ip = $7,",
            " started_at = $8, last_active_at = $9, last_updated = $10,",
            " disk_backend = $16, disk_mb = $17, disk_used_bytes = $18, network = COALESCE($19, network)",
            " WHERE id = $1 AND generation < $3 AND state IN ($11, $12, $13, $14, $15) RETURNING ",
            columns!()
        );
        let [from0, from1, from2, from3, from4] = predecessors(report.state);
        let changed = one(rows!(
            self.write("applying a host's report"),
            SandboxRow,
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
            from0,
            from1,
            from2,
            from3,
            from4,
            report.disk.as_ref().map(|disk| printable(&disk.backend)),
            report.disk.as_ref().map(|disk| i64::from(disk.size_mb)),
            report.disk.as_ref().map(|disk| disk.used_bytes),
            report.network.as_ref().map(network_text).transpose()?
        )?)?;
        match changed {
            Some(row) => Ok(Applied::Changed(row)),
            None if self.sandbox_exists(&report.id).await? => Ok(Applied::Stale),
            None => Ok(Applied::Unknown),
        }
    }

    async fn sandbox_exists(&self, id: &SandboxId) -> Result<bool, Error> {
        let sql = "SELECT id FROM sandboxes WHERE id = $1";
        Ok(!rows!(
            self.read("looking for a sandbox"),
            (String,),
            sql,
            id.as_str()
        )?
        .is_empty())
    }
}

fn network_text(network: &NetworkSpec) -> Result<String, Error> {
    let unreadable = |source: serde_json::Error| Error::Corrupt {
        what: "network rules".to_owned(),
        source: source.into(),
    };
    serde_json::to_string(network).map_err(unreadable)
}

/// Returns the states that can become `next`, as an array with a place for each state. Every state
/// can become itself, so `next` stands in for those that cannot.
fn predecessors(next: SandboxState) -> [&'static str; SandboxState::ALL.len()] {
    SandboxState::ALL.map(|state| {
        if state.can_become(next) {
            state.as_str()
        } else {
            next.as_str()
        }
    })
}

/// Replaces NULs: PostgreSQL holds none in text, and a report must not be refused for one.
fn printable(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}
