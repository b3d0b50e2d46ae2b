//! A row of the table `sandboxes` as it lies there, and the check that makes it a [`Sandbox`].

use model::{Generation, SandboxAttributes, SandboxId, SandboxSpec};

use super::{Disk, Sandbox};
use crate::Error;
use crate::db::row;

/// The columns of [`SandboxRow`]. Named one by one: `*` would change under prepared statements when
/// a migration adds one.
macro_rules! columns {
    () => {
        "id, team_id, state, generation, reason, spec, key_id, host_id, guest_ip, host_ip, \
         created_at, started_at, last_active_at, last_updated, deleting, \
         disk_backend, disk_mb, disk_used_bytes, network, \
         name, labels, ends_at, stop_reason, revision, end_policy, run_ms, pausing_until"
    };
}
pub(super) use columns;

/// The condition of a row that lives and is not being deleted, in the words of the indexes for it.
macro_rules! is_alive {
    () => {
        "NOT deleting AND state IN ('pending', 'running', 'paused')"
    };
}
pub(crate) use is_alive;

row! {
    pub(super) struct SandboxRow {
        id: String,
        team_id: String,
        state: String,
        generation: i64,
        reason: Option<String>,
        spec: String,
        key_id: String,
        host_id: Option<String>,
        guest_ip: Option<String>,
        host_ip: Option<String>,
        created_at: i64,
        started_at: Option<i64>,
        last_active_at: Option<i64>,
        last_updated: i64,
        deleting: bool,
        disk_backend: Option<String>,
        disk_mb: Option<i64>,
        disk_used_bytes: Option<i64>,
        network: Option<String>,
        name: Option<String>,
        labels: String,
        ends_at: Option<i64>,
        stop_reason: Option<String>,
        revision: i64,
        end_policy: String,
        run_ms: Option<i64>,
        pausing_until: Option<i64>,
    }
}

impl TryFrom<SandboxRow> for Sandbox {
    type Error = Error;

    fn try_from(row: SandboxRow) -> Result<Self, Error> {
        let unreadable = |source| Error::Corrupt {
            what: format!("sandbox {:?}", row.id),
            source,
        };
        let disk = match (row.disk_backend, row.disk_mb) {
            (Some(backend), Some(size)) => Some(Disk {
                backend,
                size_mb: u32::try_from(size).map_err(|e| unreadable(e.into()))?,
                used_bytes: row.disk_used_bytes.unwrap_or_default(),
            }),
            _ => None,
        };
        let mut spec: SandboxSpec =
            serde_json::from_str(&row.spec).map_err(|e| unreadable(e.into()))?;
        if let Some(network) = row.network {
            spec.replace_network(serde_json::from_str(&network).map_err(|e| unreadable(e.into()))?);
        }
        let attributes = attributes_from(
            (row.name, &row.labels),
            (row.ends_at, &row.end_policy, row.run_ms),
        );
        let stop_reason = row.stop_reason.map(|reason| reason.parse()).transpose();
        let invalid = |e: model::InvalidValue| unreadable(e.into());
        Ok(Self {
            attributes: attributes.map_err(unreadable)?,
            pausing_until: row.pausing_until,
            stop_reason: stop_reason.map_err(invalid)?,
            revision: row.revision,
            id: row
                .id
                .parse::<SandboxId>()
                .map_err(|e| unreadable(e.into()))?,
            team_id: row
                .team_id
                .parse()
                .map_err(|e: model::InvalidValue| unreadable(e.into()))?,
            state: row
                .state
                .parse()
                .map_err(|e: model::InvalidValue| unreadable(e.into()))?,
            generation: Generation(
                u64::try_from(row.generation).map_err(|e| unreadable(e.into()))?,
            ),
            spec,
            reason: row.reason,
            key_id: row.key_id,
            host_id: row.host_id,
            guest_ip: row.guest_ip,
            host_ip: row.host_ip,
            created_at: row.created_at,
            started_at: row.started_at,
            last_active_at: row.last_active_at,
            last_updated: row.last_updated,
            deleting: row.deleting,
            disk,
        })
    }
}

/// Error of a column that cannot be read.
type ColumnError = Box<dyn std::error::Error + Send + Sync>;

fn attributes_from(
    (name, labels): (Option<String>, &str),
    (ends_at, end_policy, run_ms): (Option<i64>, &str, Option<i64>),
) -> Result<SandboxAttributes, ColumnError> {
    Ok(SandboxAttributes {
        name: name.map(|name| name.parse()).transpose()?,
        labels: serde_json::from_str(labels)?,
        ends_at,
        end_policy: end_policy.parse()?,
        run_ms,
    })
}
