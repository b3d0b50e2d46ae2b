//! Sandboxes as the control plane remembers them: a row each, from the promise to the end of the
//! deletion.
//!
//! - **Insert** makes the row: state pending, [`Generation::FIRST`], no host.
//! - **Reports** of the host that took it move it on. A report applies if its generation is newer
//!   than the row's and the transition is allowed; then it replaces everything that hosts decide,
//!   so rows never mix two reports.
//! - **Updates** by users change spec and attributes, if nobody else did meanwhile (`revision`); the
//!   **end** of a sandbox is one as well, whose condition is that its time has come.
//! - **Adoption** makes the row of a sandbox that a host has and the store knows nothing of, as one
//!   statement with all that its host reports.
//! - **Deletion** has two steps. The wish is durable first (`deleting`); reports still apply, since
//!   the host still owns the sandbox. The row goes once no host has it any more.
//!
//! Calls for users are scoped by their team: a row of another one is as if it were not there.
//! Reconcilers and reports of hosts work on the rows of all teams.
//!
//! Every operation is one statement or one transaction, with the event of the change in it, so dying
//! at any moment leaves the row as it was or as it should be.

mod adopt;
mod events;
mod insert;
mod list;
mod report;
mod row;
mod update;

use model::{
    EventKind, Generation, SandboxAttributes, SandboxId, SandboxName, SandboxSpec, SandboxState,
    StopReason, TeamId,
};
use serde_json::json;
use sqlx::AssertSqlSafe;

use crate::db::{all, one, places, row as row_type, rows};
use crate::transaction::rows_in;
use crate::{Cursor, Error, NewEvent, Store};
use events::sandbox_event;
pub(crate) use row::is_alive;
use row::{SandboxRow, columns};

pub use adopt::AdoptedSandbox;
pub use insert::{Idempotency, Inserted, NewSandbox};
pub use list::SandboxFilter;
pub use report::{Applied, Report};
pub use update::DueSandbox;

/// Row of a sandbox. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    pub id: SandboxId,
    pub team_id: TeamId,
    pub state: SandboxState,
    pub generation: Generation,
    /// Reason why it stopped or failed, in words.
    pub reason: Option<String>,
    /// The same reason, of the closed list.
    pub stop_reason: Option<StopReason>,
    pub spec: SandboxSpec,
    pub attributes: SandboxAttributes,
    /// Number of changes of spec and attributes by users.
    pub revision: i64,
    /// Id of the key that asked for it. That key may be gone.
    pub key_id: String,
    /// The host that reported last; none before the first report.
    pub host_id: Option<String>,
    pub guest_ip: Option<String>,
    pub host_ip: Option<String>,
    pub created_at: i64,
    pub started_at: Option<i64>,
    pub last_active_at: Option<i64>,
    /// Time of the row's last change.
    pub last_updated: i64,
    /// Disk as the host reported it last.
    pub disk: Option<Disk>,
    /// There while a control plane is pausing it, until a report or the host's refusal decides: its end
    /// neither comes nor moves. After this time another control plane takes the pause over.
    pub pausing_until: Option<i64>,
    /// True if its deletion was asked for.
    pub deleting: bool,
}

impl Sandbox {
    /// Returns the cursor of the page that follows this row.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor {
            created_at: self.created_at,
            id: self.id.clone(),
        }
    }

    /// Returns true if a control plane is pausing it, or may be.
    #[must_use]
    pub const fn is_pausing(&self) -> bool {
        self.pausing_until.is_some()
    }
}

/// A root disk on its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Disk backend, by the host's name for it.
    pub backend: String,
    pub size_mb: u32,
    /// Bytes allocated on the host.
    pub used_bytes: i64,
}

impl Store {
    /// Returns a row of the team `team`.
    ///
    /// # Errors
    /// The database fails, or holds a row that this program cannot read.
    pub async fn sandbox_get(
        &self,
        team: &TeamId,
        id: &SandboxId,
    ) -> Result<Option<Sandbox>, Error> {
        let sql = concat!(
            "SELECT ",
            columns!(),
            " FROM sandboxes WHERE id = $1 AND team_id = $2"
        );
        let db = self.read("reading a sandbox");
        one(rows!(db, SandboxRow, sql, id.as_str(), team.as_str())?)
    }

    /// Returns the rows of these ids, as far as there are any, in no order: one statement.
    ///
    /// # Errors
    /// As [`Store::sandbox_get`].
    pub async fn sandboxes_get(
        &self,
        team: &TeamId,
        ids: &[SandboxId],
    ) -> Result<Vec<Sandbox>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT {} FROM sandboxes WHERE team_id = $1 AND id IN ({})",
            columns!(),
            places(2, ids.len())
        );
        // Nothing in it but numbers is made here.
        let sql = AssertSqlSafe(sql);
        let db = self.read("reading sandboxes");
        let ids = ids.iter().map(SandboxId::as_str);
        all(rows!(db, SandboxRow, sql, team.as_str(); each ids)?)
    }

    /// Returns the living row of that name: of those that stopped with it there may be many.
    ///
    /// # Errors
    /// As [`Store::sandbox_get`].
    pub async fn sandbox_get_by_name(
        &self,
        team: &TeamId,
        name: &SandboxName,
    ) -> Result<Option<Sandbox>, Error> {
        let sql = concat!(
            "SELECT ",
            columns!(),
            " FROM sandboxes WHERE team_id = $1 AND name = $2 AND ",
            is_alive!()
        );
        let db = self.read("looking for the name of a sandbox");
        one(rows!(db, SandboxRow, sql, team.as_str(), name.as_str())?)
    }

    /// Returns a row of whichever team: for what no user asked for, or who shows another right to
    /// it.
    ///
    /// # Errors
    /// As [`Store::sandbox_get`].
    pub async fn sandbox_get_any_team(&self, id: &SandboxId) -> Result<Option<Sandbox>, Error> {
        let sql = concat!("SELECT ", columns!(), " FROM sandboxes WHERE id = $1");
        let db = self.read("reading a sandbox");
        one(rows!(db, SandboxRow, sql, id.as_str())?)
    }

    /// Lists all rows in no order, also those that are being deleted: the reconciler compares them
    /// with hosts' reports.
    ///
    /// # Errors
    /// As [`Store::sandbox_get`].
    pub async fn sandbox_list_all(&self) -> Result<Vec<Sandbox>, Error> {
        let sql = concat!("SELECT ", columns!(), " FROM sandboxes");
        all(rows!(self.read("listing all sandboxes"), SandboxRow, sql)?)
    }

    /// Makes the wish for a deletion durable: its first step. `None` if the team has no such row.
    /// Doing it again changes nothing.
    ///
    /// # Errors
    /// As [`Store::sandbox_get`].
    pub async fn sandbox_mark_deleting(
        &self,
        team: &TeamId,
        id: &SandboxId,
        now: i64,
    ) -> Result<Option<Sandbox>, Error> {
        let sql = concat!(
            "UPDATE sandboxes SET deleting = TRUE, last_updated = $2",
            " WHERE id = $1 AND team_id = $3 AND NOT deleting RETURNING ",
            columns!()
        );
        let mut transaction = self.begin("marking a sandbox for deletion").await?;
        let marked = one(rows_in!(
            &mut transaction,
            SandboxRow,
            sql,
            id.as_str(),
            now,
            team.as_str()
        )?)?;
        let Some(row) = marked else {
            transaction.rollback().await?;
            return self.sandbox_get(team, id).await;
        };
        let event = sandbox_event(EventKind::SandboxDeleting, &row, now);
        transaction.record(&event).await?;
        transaction.commit().await?;
        self.changes.publish(id);
        Ok(Some(row))
    }

    /// Marks sandboxes of a single request, whose ids no client has, as being deleted: all at once,
    /// or none of them if all are running or paused already. Returns those that were marked, in any
    /// order. Their idempotency keys are free from then on: the same request makes new ones.
    ///
    /// # Errors
    /// As [`Store::sandbox_get`].
    pub async fn sandboxes_give_up(
        &self,
        ids: &[SandboxId],
        now: i64,
    ) -> Result<Vec<Sandbox>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let places = places(5, ids.len());
        let sql = format!(
            "UPDATE sandboxes SET deleting = TRUE, last_updated = CASE WHEN deleting THEN last_updated ELSE $1 END, \
             idempotency_key = CASE WHEN deleting THEN idempotency_key END, \
             idempotency_fingerprint = CASE WHEN deleting THEN idempotency_fingerprint END \
             WHERE id IN ({places}) AND $2 > (SELECT count(*) FROM sandboxes \
             WHERE id IN ({places}) AND state IN ($3, $4) AND NOT deleting) RETURNING {}",
            columns!()
        );
        // Nothing in it but numbers is made here.
        let sql = AssertSqlSafe(sql);
        let [running, paused] =
            [SandboxState::Running, SandboxState::Paused].map(SandboxState::as_str);
        let call = self.write("giving sandboxes up");
        let all_of_them = i64::try_from(ids.len()).unwrap_or(i64::MAX);
        let ids = ids.iter().map(SandboxId::as_str);
        let given_up: Vec<Sandbox> =
            all(rows!(call, SandboxRow, sql, now, all_of_them, running, paused; each ids)?)?;
        for row in &given_up {
            self.changes.publish(&row.id);
        }
        Ok(given_up)
    }

    /// Removes the row, and its idempotency key with it: the last step of a deletion. Returns false
    /// if there was none.
    ///
    /// # Errors
    /// The database fails.
    pub async fn sandbox_remove(&self, id: &SandboxId, now: i64) -> Result<bool, Error> {
        let mut transaction = self.begin("removing a sandbox").await?;
        let sql = "DELETE FROM open_commands WHERE sandbox_id = $1 RETURNING sandbox_id";
        rows_in!(&mut transaction, (String,), sql, id.as_str())?;
        let sql = "DELETE FROM sandboxes WHERE id = $1 \
                   RETURNING team_id, state, generation, reason, host_id";
        let removed = rows_in!(&mut transaction, RemovedRow, sql, id.as_str())?;
        let Some(row) = removed.into_iter().next() else {
            transaction.rollback().await?;
            return Ok(false);
        };
        transaction.record(&row.event(id, now)).await?;
        transaction.commit().await?;
        self.changes.publish(id);
        Ok(true)
    }
}

row_type! {
    /// What is told of a row that goes, which may be one that cannot be read.
    struct RemovedRow {
        team_id: String,
        state: String,
        generation: i64,
        reason: Option<String>,
        host_id: Option<String>,
    }
}

impl RemovedRow {
    fn event(self, id: &SandboxId, now: i64) -> NewEvent {
        NewEvent {
            kind: EventKind::SandboxDeleted,
            team_id: self.team_id.parse().ok(),
            subject: id.to_string(),
            sandbox_id: Some(id.clone()),
            generation: u64::try_from(self.generation).ok().map(Generation),
            data: json!({
                "state": self.state,
                "reason": self.reason,
                "host_id": self.host_id,
            }),
            now,
        }
    }
}
