//! Events of what hosts have: hosts themselves, and background commands. Rows tell what was told
//! already, so that several control planes tell a change once.

use model::{EventKind, SandboxId, TeamId};
use serde_json::{Value, json};

use super::NewEvent;
use crate::db::{row, rows};
use crate::transaction::rows_in;
use crate::{Error, Store};

row! {
    struct HostRow {
        host_id: Option<String>,
    }
}

/// Drain of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostDrain {
    /// It takes new sandboxes.
    None,
    /// It takes none, and some run.
    Draining,
    /// It takes none, and none runs.
    Drained,
}

impl HostDrain {
    const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Draining => "draining",
            Self::Drained => "drained",
        }
    }

    const fn event(self) -> EventKind {
        match self {
            Self::None => EventKind::HostUndrained,
            Self::Draining => EventKind::HostDraining,
            Self::Drained => EventKind::HostDrained,
        }
    }
}

impl Store {
    /// Records that reports come from a host, or come no more. Does nothing if that is known.
    ///
    /// # Errors
    /// The database fails.
    pub async fn host_record(
        &self,
        url: &str,
        host_id: Option<&str>,
        connected: bool,
        reason: Option<&str>,
        now: i64,
    ) -> Result<(), Error> {
        let mut transaction = self.begin("recording the state of a host").await?;
        // A host that was never connected is no loss.
        let sql = "INSERT INTO hosts (url, host_id, connected, changed_at) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (url) DO UPDATE SET connected = excluded.connected, \
                   host_id = coalesce(excluded.host_id, hosts.host_id), changed_at = excluded.changed_at \
                   WHERE hosts.connected <> excluded.connected RETURNING host_id";
        let changed = rows_in!(&mut transaction, HostRow, sql, url, host_id, connected, now)?;
        let Some(row) = changed.into_iter().next() else {
            return transaction.rollback().await;
        };
        if connected || row.host_id.is_some() {
            let event = NewEvent {
                kind: if connected {
                    EventKind::HostConnected
                } else {
                    EventKind::HostLost
                },
                team_id: None,
                subject: row.host_id.unwrap_or_else(|| url.to_owned()),
                sandbox_id: None,
                generation: None,
                data: json!({ "url": url, "reason": reason }),
                now,
            };
            transaction.record(&event).await?;
        }
        transaction.commit().await
    }

    /// Records the drain of a host that was recorded as connected. Does nothing if that is known.
    ///
    /// # Errors
    /// The database fails.
    pub async fn host_drain_record(
        &self,
        url: &str,
        drain: HostDrain,
        running: u32,
        now: i64,
    ) -> Result<(), Error> {
        let sql = "SELECT host_id FROM hosts WHERE url = $1 AND drain <> $2";
        let call = self.read("looking for a host");
        if rows!(call, HostRow, sql, url, drain.as_str())?.is_empty() {
            return Ok(());
        }
        let mut transaction = self.begin("recording the drain of a host").await?;
        let sql = "UPDATE hosts SET drain = $2 WHERE url = $1 AND drain <> $2 RETURNING host_id";
        let changed = rows_in!(&mut transaction, HostRow, sql, url, drain.as_str())?;
        let Some(row) = changed.into_iter().next() else {
            return transaction.rollback().await;
        };
        let event = NewEvent {
            kind: drain.event(),
            team_id: None,
            subject: row.host_id.unwrap_or_else(|| url.to_owned()),
            sandbox_id: None,
            generation: None,
            data: json!({ "url": url, "running": running }),
            now,
        };
        transaction.record(&event).await?;
        transaction.commit().await
    }

    /// Records that a background command was started.
    ///
    /// # Errors
    /// The database fails.
    pub async fn command_started(
        &self,
        team: &TeamId,
        sandbox: &SandboxId,
        command: &str,
        data: Value,
        now: i64,
    ) -> Result<(), Error> {
        let mut transaction = self.begin("recording a command").await?;
        let sql = "INSERT INTO open_commands (sandbox_id, command_id) VALUES ($1, $2) \
                   ON CONFLICT DO NOTHING RETURNING command_id";
        let opened = rows_in!(&mut transaction, (String,), sql, sandbox.as_str(), command)?;
        if opened.is_empty() {
            return transaction.rollback().await;
        }
        let event = command_event(EventKind::CommandStarted, team, sandbox, command, data, now);
        transaction.record(&event).await?;
        transaction.commit().await
    }

    /// Lists the background commands of a sandbox whose start was recorded, and whose end was not.
    ///
    /// # Errors
    /// The database fails.
    pub async fn open_commands(&self, sandbox: &SandboxId) -> Result<Vec<String>, Error> {
        let sql = "SELECT command_id FROM open_commands WHERE sandbox_id = $1";
        let found = rows!(
            self.read("looking for commands"),
            (String,),
            sql,
            sandbox.as_str()
        )?;
        Ok(found.into_iter().map(|row| row.0).collect())
    }

    /// Records that a background command has ended. Does nothing if that is known, or its start is
    /// not.
    ///
    /// # Errors
    /// The database fails.
    pub async fn command_ended(
        &self,
        team: &TeamId,
        sandbox: &SandboxId,
        command: &str,
        data: Value,
        now: i64,
    ) -> Result<(), Error> {
        let sql = "SELECT command_id FROM open_commands WHERE sandbox_id = $1 AND command_id = $2";
        let call = self.read("looking for a command");
        if rows!(call, (String,), sql, sandbox.as_str(), command)?.is_empty() {
            return Ok(());
        }
        let mut transaction = self.begin("recording the end of a command").await?;
        let sql = "DELETE FROM open_commands WHERE sandbox_id = $1 AND command_id = $2 RETURNING command_id";
        let closed = rows_in!(&mut transaction, (String,), sql, sandbox.as_str(), command)?;
        if closed.is_empty() {
            return transaction.rollback().await;
        }
        let event = command_event(EventKind::CommandEnded, team, sandbox, command, data, now);
        transaction.record(&event).await?;
        transaction.commit().await
    }
}

fn command_event(
    kind: EventKind,
    team: &TeamId,
    sandbox: &SandboxId,
    command: &str,
    data: Value,
    now: i64,
) -> NewEvent {
    NewEvent {
        kind,
        team_id: Some(team.clone()),
        subject: command.to_owned(),
        sandbox_id: Some(sandbox.clone()),
        generation: None,
        data,
        now,
    }
}
