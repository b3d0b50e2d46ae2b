//! Reads the outbox, and bounds it.

use model::{EventKind, SandboxId, TeamId};
use sqlx::AssertSqlSafe;

use super::{Actor, Event};
use crate::db::{all, places, row, rows};
use crate::transaction::rows_in;
use crate::{Error, Store};

/// Most that the clocks of control planes differ, in milliseconds: five minutes, as for Kerberos (RFC
/// 4120, 3.1.3).
const CLOCK_SKEW: i64 = 5 * 60 * 1000;
/// Rows that one transaction deletes: few enough that no writer waits for it.
const TRIM_BATCH: i64 = 1000;

/// Statement of [`Store::cursor_before`].
const CURSOR_BEFORE: &str =
    "SELECT cursor FROM events WHERE created_at < $1 ORDER BY created_at DESC, cursor DESC LIMIT 1";

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
        let begin = match (after, query.since) {
            (Some(after), _) => after,
            (None, Some(since)) => self.cursor_before(since).await?,
            (None, None) => 0,
        };
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
            begin,
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

    /// Returns a cursor behind which all events of a time and later are. Times are not quite in the
    /// order of cursors: each control plane has a clock of its own.
    async fn cursor_before(&self, time: i64) -> Result<i64, Error> {
        let before = time.saturating_sub(CLOCK_SKEW);
        let call = self.read("looking for events of a time");
        let found = rows!(call, (i64,), CURSOR_BEFORE, before)?;
        Ok(found.first().map_or(0, |row| row.0))
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

    /// Deletes events beyond the bound, oldest first, in batches. Returns their number.
    ///
    /// # Errors
    /// The database fails.
    pub async fn event_trim(&self, bound: EventsBound) -> Result<u64, Error> {
        // Once: it may read as many entries of the index as there are events that stay.
        let surplus = self.event_surplus(bound.rows).await?;
        let mut deleted = 0;
        loop {
            let batch = self.trim_batch(surplus, bound.before).await?;
            deleted += batch.unsigned_abs();
            if batch < TRIM_BATCH {
                return Ok(deleted);
            }
        }
    }

    /// Deletes a batch of events up to the cursor `surplus`, or from before a time. Returns their
    /// number.
    async fn trim_batch(&self, surplus: i64, before: i64) -> Result<i64, Error> {
        let mut transaction = self.begin("deleting old events").await?;
        // Up to the first that stays, so that none is missing among those behind the horizon.
        let sql = "WITH batch AS (SELECT cursor, created_at FROM events ORDER BY cursor LIMIT $1) \
                   DELETE FROM events WHERE cursor IN (SELECT cursor FROM batch) \
                   AND cursor < coalesce((SELECT min(cursor) FROM batch \
                   WHERE cursor > $2 AND created_at >= $3), 9223372036854775807) RETURNING cursor";
        let deleted = rows_in!(&mut transaction, (i64,), sql, TRIM_BATCH, surplus, before)?;
        let Some(last) = deleted.iter().map(|row| row.0).max() else {
            transaction.rollback().await?;
            return Ok(0);
        };
        let sql = "UPDATE events_horizon SET cursor = $1 WHERE cursor < $1 RETURNING cursor";
        rows_in!(&mut transaction, (i64,), sql, last)?;
        transaction.commit().await?;
        Ok(deleted.len() as i64)
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{Executor as _, Row as _};

    use super::*;
    use crate::explain::{
        POSTGRES_NUMBERS, SQLITE_NUMBERS, create_postgres, create_sqlite, rows_read,
    };

    fn fill_sql(numbers: &str) -> String {
        format!(
            "INSERT INTO events (kind, team_id, subject, actor, data, created_at) \
             SELECT 'key.created', 'default', 'key', 'system', '{{}}', n * 1000 FROM {numbers}"
        )
    }

    /// Checks that events of a time and later are found, those of clocks that are late included.
    async fn check_since(store: &Store, late_cursor: i64) {
        let query = EventQuery {
            since: Some(9_990_000),
            ..EventQuery::default()
        };
        let Events::Page(events) = store.event_list(&query, None, 100).await.unwrap() else {
            panic!("expired");
        };
        let cursors: Vec<i64> = events.iter().map(|event| event.cursor).collect();
        assert_eq!(cursors.len(), 12);
        assert_eq!(cursors[0], late_cursor);
        assert!(cursors.is_sorted());
        assert!(store.cursor_before(9_990_000).await.unwrap() > 9_600);
        assert_eq!(store.cursor_before(i64::MIN).await.unwrap(), 0);
    }

    const LATE: &str = "UPDATE events SET created_at = 9990001 WHERE cursor = 9800";

    #[tokio::test]
    async fn sqlite_finds_time_by_index() {
        let (_directory, store, mut connection) = create_sqlite().await;
        let fill = AssertSqlSafe(fill_sql(SQLITE_NUMBERS));
        connection.execute(fill).await.unwrap();
        connection.execute(LATE).await.unwrap();
        let sql = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {CURSOR_BEFORE}"));
        let plan = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
        let steps: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
        let by_index = "SEARCH events USING COVERING INDEX events_by_time (created_at<?)";
        assert_eq!(steps, [by_index]);
        check_since(&store, 9800).await;
    }

    #[tokio::test]
    async fn postgres_finds_time_by_index() {
        let (_database, store, mut connection) = create_postgres().await;
        let fill = AssertSqlSafe(fill_sql(POSTGRES_NUMBERS));
        connection.execute(fill).await.unwrap();
        connection.execute(LATE).await.unwrap();
        connection.execute("ANALYZE").await.unwrap();
        let sql = AssertSqlSafe(format!("EXPLAIN (ANALYZE, FORMAT JSON) {CURSOR_BEFORE}"));
        let explain = sqlx::query(sql).bind(9_000_000_i64);
        let plan = explain.fetch_one(&mut connection).await.unwrap();
        let (read, plan) = rows_read(&plan);
        assert!(read <= 1.0, "{read} rows: {plan}");
        check_since(&store, 9800).await;
    }
}
