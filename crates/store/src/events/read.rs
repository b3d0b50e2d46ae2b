//! Reads the outbox, and bounds it.

use model::{EventKind, SandboxId, TeamId};
use sqlx::AssertSqlSafe;

use super::{Actor, Event};
use crate::db::{row, rows};
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
        let kinds: Vec<String> = (7..7 + query.kinds.len())
            .map(|number| format!("${number}"))
            .collect();
        let kinds = match kinds.is_empty() {
            true => String::new(),
            false => format!(" AND kind IN ({})", kinds.join(", ")),
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
            && after < self.event_horizon().await?
        {
            return Ok(Events::Expired);
        }
        let events: Result<Vec<Event>, Error> = found.into_iter().map(Event::try_from).collect();
        Ok(Events::Page(events?))
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

    /// Returns the cursor of the last event that was deleted for its age; 0: none was.
    async fn event_horizon(&self) -> Result<i64, Error> {
        let sql = "SELECT cursor FROM events_horizon";
        let found = rows!(self.read("looking for the oldest event"), (i64,), sql)?;
        Ok(found.first().map_or(0, |row| row.0))
    }

    /// Deletes a batch of events beyond the bound, oldest first. Returns true if there may be more
    /// of them.
    ///
    /// # Errors
    /// The database fails.
    pub async fn event_trim(&self, bound: EventsBound) -> Result<bool, Error> {
        let rows = i64::try_from(bound.rows).unwrap_or(i64::MAX);
        let surplus = self.event_last().await?.saturating_sub(rows);
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
