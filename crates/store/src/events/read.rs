//! Reads the outbox, and bounds it.

use model::{EventKind, SandboxId, TeamId};
use sqlx::AssertSqlSafe;

use super::{Actor, Event};
use crate::db::{all, places, row, rows};
use crate::transaction::rows_in;
use crate::{Error, Store};

/// Rows that one transaction deletes: few enough that no writer waits for it.
const TRIM_BATCH: i64 = 1000;

row! {
    pub(crate) struct EventRow {
        pub(crate) cursor: i64,
        kind: String,
        team_id: String,
        subject: String,
        sandbox_id: Option<String>,
        generation: Option<i64>,
        actor: String,
        address: Option<String>,
        request_id: Option<String>,
        data: String,
        created_at: i64,
    }
}

pub(crate) const ROW_COLUMNS: &str = "cursor, kind, team_id, subject, sandbox_id, generation, actor, address, \
                       request_id, data, created_at";

impl TryFrom<EventRow> for Event {
    type Error = Error;

    fn try_from(row: EventRow) -> Result<Self, Error> {
        let unreadable = |source| Error::Corrupt {
            what: format!("event {}", row.cursor),
            source,
        };
        let team = Some(row.team_id.as_str()).filter(|team| !team.is_empty());
        let team: Result<Option<TeamId>, _> = team.map(str::parse).transpose();
        Ok(Self {
            cursor: row.cursor,
            team_id: team.map_err(|e: model::InvalidValue| unreadable(e.into()))?,
            data: serde_json::from_str(&row.data).map_err(|e| unreadable(e.into()))?,
            kind: row.kind,
            subject: row.subject,
            sandbox_id: row.sandbox_id,
            generation: row.generation,
            actor: Actor {
                id: row.actor,
                address: row.address,
                request_id: row.request_id,
            },
            created_at: row.created_at,
        })
    }
}

/// Selection of events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Team whose events are read; `None`: of all teams and of the installation.
    pub team: Option<TeamId>,
    /// With `team`: also events of the installation.
    pub with_installation: bool,
    /// Kinds to read; empty: all.
    pub kinds: Vec<EventKind>,
    pub sandbox: Option<SandboxId>,
    /// Time of the oldest one, in milliseconds since the Unix epoch.
    pub since: Option<i64>,
}

impl EventQuery {
    /// Returns true if an event is selected.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        let is_of_team = match (&self.team, &event.team_id) {
            (None, _) => true,
            (Some(team), Some(owner)) => team == owner,
            (Some(_), None) => self.with_installation,
        };
        let is_kind = |kind: &EventKind| kind.as_str() == event.kind;
        let sandbox = self.sandbox.as_ref().map(SandboxId::as_str);
        is_of_team
            && (self.kinds.is_empty() || self.kinds.iter().any(is_kind))
            && (sandbox.is_none() || event.sandbox_id.as_deref() == sandbox)
            && self.since.is_none_or(|since| event.created_at >= since)
    }
}

/// Events behind a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Events {
    Page(Vec<Event>),
    /// Some are not kept any more.
    Expired,
    /// No event of this database has or had the cursor: an older one was restored since.
    Unknown,
}

/// How much history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventsBound {
    /// Time before which events go, in milliseconds since the Unix epoch.
    pub before: i64,
    /// Number of events that stay.
    pub rows: u64,
}

impl Store {
    /// Returns at most `limit` events behind `after`, oldest first; without `after` from the oldest
    /// that is kept.
    ///
    /// # Errors
    /// The database fails, or holds a row that this program cannot read.
    pub async fn event_list(
        &self,
        query: &EventQuery,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Events, Error> {
        let kinds = match query.kinds.len() {
            0 => String::new(),
            count => format!(" AND kind IN ({})", places(7, count)),
        };
        let team = query.team.as_ref().map(|_| {
            if query.with_installation {
                " AND team_id IN ($2, $3)"
            } else {
                // In the order of its index.
                " AND team_id = $2"
            }
        });
        let sandbox = query.sandbox.as_ref().map(|_| " AND sandbox_id = $4");
        // Parameters that a query has no use for keep their numbers: PostgreSQL wants their types.
        let sql = format!(
            "SELECT {ROW_COLUMNS} FROM events WHERE cursor > $1{}{}{kinds} AND created_at >= $5 \
             AND (CAST($2 AS TEXT) IS NULL OR TRUE) AND (CAST($3 AS TEXT) IS NULL OR TRUE) \
             AND (CAST($4 AS TEXT) IS NULL OR TRUE) ORDER BY cursor LIMIT $6",
            team.unwrap_or_default(),
            sandbox.unwrap_or_default()
        );
        // Nothing in it but numbers is made here.
        let sql = AssertSqlSafe(sql);
        let team = query.team.as_ref().map(TeamId::as_str);
        let installation = if query.with_installation {
            Some("")
        } else {
            team
        };
        let found = rows!(
            self.read("listing events"),
            EventRow,
            sql,
            after.unwrap_or(0),
            team,
            installation,
            query.sandbox.as_ref().map(SandboxId::as_str),
            query.since.unwrap_or(i64::MIN),
            i64::from(limit);
            each query.kinds.iter().map(|kind| kind.as_str())
        )?;
        // Read after the page: what was deleted in between was missed.
        if let Some(after) = after
            && let Some(refusal) = self.check_cursor(after).await?
        {
            return Ok(refusal);
        }
        Ok(Events::Page(all(found)?))
    }

    /// Returns the cursor of the newest event; 0: there was none.
    ///
    /// # Errors
    /// The database fails.
    pub async fn event_last(&self) -> Result<i64, Error> {
        let sql = "SELECT coalesce(max(cursor), (SELECT cursor FROM events_horizon)) FROM events";
        let found = rows!(self.read("looking for the last event"), (i64,), sql)?;
        Ok(found.first().map_or(0, |row| row.0))
    }

    /// Returns the refusal of a cursor from which nothing can be read; `None` if it is good. Readers
    /// have only cursors of events that were there.
    async fn check_cursor(&self, after: i64) -> Result<Option<Events>, Error> {
        let sql = "SELECT cursor, (SELECT count(*) FROM events WHERE events.cursor = $1) FROM events_horizon";
        let call = self.read("looking for the oldest event");
        let found = rows!(call, (i64, i64), sql, after)?;
        let (horizon, is_there) = found.first().copied().unwrap_or_default();
        Ok(match after {
            _ if is_there > 0 || after == horizon => None,
            _ if after < horizon => Some(Events::Expired),
            _ => Some(Events::Unknown),
        })
    }

    /// Returns true if an event says that nothing of a sandbox is left: its row was here, or an
    /// operator had it removed.
    ///
    /// # Errors
    /// The database fails.
    pub async fn sandbox_was_deleted(&self, id: &SandboxId) -> Result<bool, Error> {
        let sql = "SELECT cursor FROM events WHERE sandbox_id = $1 AND kind = $2 LIMIT 1";
        let call = self.read("looking for the deletion of a sandbox");
        let kind = EventKind::SandboxDeleted.as_str();
        Ok(!rows!(call, (i64,), sql, id.as_str(), kind)?.is_empty())
    }

    /// Returns the cursor of the newest event that is too many; 0: none is.
    async fn event_surplus(&self, rows: u64) -> Result<i64, Error> {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        // There are no more events than numbers.
        if self.event_last().await? <= rows {
            return Ok(0);
        }
        // Counted, since a restore leaves a gap in the numbers.
        let sql = "SELECT cursor FROM events ORDER BY cursor DESC LIMIT 1 OFFSET $1";
        let found = rows!(self.read("counting events"), (i64,), sql, rows)?;
        Ok(found.first().map_or(0, |row| row.0))
    }

    /// Deletes a batch of events beyond the bound, oldest first. Returns true if there may be more
    /// of them.
    ///
    /// # Errors
    /// The database fails.
    pub async fn event_trim(&self, bound: EventsBound) -> Result<bool, Error> {
        let surplus = self.event_surplus(bound.rows).await?;
        let mut transaction = self.begin("deleting old events").await?;
        // Up to the first that stays, so that none is missing among those behind the horizon.
        let sql = "WITH batch AS (SELECT cursor, created_at FROM events ORDER BY cursor LIMIT $1) \
                   DELETE FROM events WHERE cursor IN (SELECT cursor FROM batch) \
                   AND cursor < coalesce((SELECT min(cursor) FROM batch \
                   WHERE cursor > $2 AND created_at >= $3), 9223372036854775807) RETURNING cursor";
        let deleted = rows_in!(
            &mut transaction,
            (i64,),
            sql,
            TRIM_BATCH,
            surplus,
            bound.before
        )?;
        let Some(last) = deleted.iter().map(|row| row.0).max() else {
            transaction.rollback().await?;
            return Ok(false);
        };
        let sql = "UPDATE events_horizon SET cursor = $1 WHERE cursor < $1 RETURNING cursor";
        rows_in!(&mut transaction, (i64,), sql, last)?;
        transaction.commit().await?;
        Ok(deleted.len() as i64 == TRIM_BATCH)
    }
}
