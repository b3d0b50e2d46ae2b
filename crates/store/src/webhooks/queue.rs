//! The queue: leases webhooks to senders, and notes what came of it.

use std::time::Duration;

use model::EventKind;
use serde_json::json;
use sqlx::AssertSqlSafe;

use super::{Webhook, WebhookRow, webhook_columns, webhook_event};
use crate::db::{places, row, rows};
use crate::transaction::{Transaction, rows_in};
use crate::{Backend, Error, Store};

/// A webhook that is leased to this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookTurn {
    pub webhook: Webhook,
    /// Text that no other lease has.
    lease: String,
}

row! {
    /// A delivery whose time has come.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct DueDelivery {
        pub position: i64,
        pub message_id: String,
        pub payload: String,
        /// Attempts that were noted.
        pub attempts: i64,
    }
}

/// Result of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    Delivered,
    /// To be sent again after this time.
    Retry(Duration),
    /// Given up.
    Dead,
    /// Given up, and the webhook is disabled: its receiver is gone.
    Gone,
}

/// What is noted of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptNote {
    pub attempt: Attempt,
    /// Status that the receiver answered.
    pub status: Option<u16>,
    /// Why it failed.
    pub error: Option<String>,
    /// True if the receiver took long.
    pub is_slow: bool,
    /// Milliseconds since the Unix epoch.
    pub now: i64,
    /// A webhook that fails since before this time is disabled.
    pub disable_before: i64,
    /// Time for which a receiver that failed is left alone: as long as it has failed, within these
    /// bounds.
    pub min_pause: Duration,
    pub max_pause: Duration,
    /// Duration for which the lease is renewed.
    pub lease: Duration,
}

/// Answer to a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// The lease is renewed.
    GoOn,
    /// The webhook is disabled.
    Disabled,
    /// The lease is lost: nothing was noted.
    LeaseLost,
}

row! {
    /// A webhook that something is due for, and that no sender has.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct WaitingWebhook {
        pub id: String,
        pub team_id: String,
    }
}

impl Store {
    /// Lists webhooks of a lane that something is due for and that no sender has, those served longest
    /// ago first. `lease` is the time for which senders lease.
    ///
    /// # Errors
    /// The database fails.
    pub async fn webhook_waiting(
        &self,
        is_slow: bool,
        limit: u32,
        lease: Duration,
    ) -> Result<Vec<WaitingWebhook>, Error> {
        let sql = format!(
            "SELECT id, team_id FROM webhooks WHERE is_slow = $1 AND {} \
             AND EXISTS (SELECT 1 FROM webhook_deliveries WHERE webhook_id = webhooks.id \
             AND state = 'pending' AND due_at <= {}) ORDER BY served_at, created_at LIMIT $3",
            self.leasable("$2"),
            self.database_clock()
        );
        let db = self.read("looking for webhooks to serve");
        rows!(
            db,
            WaitingWebhook,
            AssertSqlSafe(sql),
            is_slow,
            stored_duration(lease),
            i64::from(limit)
        )
    }

    /// Leases those of the webhooks `ids` that no other sender has leased since.
    ///
    /// # Errors
    /// The database fails.
    pub async fn webhook_lease(
        &self,
        ids: &[&str],
        lease: Duration,
        token: &str,
    ) -> Result<Vec<WebhookTurn>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.database_clock();
        let skip_locked = match self.backend {
            Backend::Sqlite(_) => "",
            // A fan-out holds the keys of webhooks, which is no reason to pass them over.
            Backend::Postgres(_) => "FOR NO KEY UPDATE SKIP LOCKED",
        };
        let sql = format!(
            "WITH chosen AS MATERIALIZED (SELECT id FROM webhooks WHERE id IN ({}) AND {} {skip_locked}) \
             UPDATE webhooks SET lease = $2, leased_until = {now} + $1, served_at = {now} \
             WHERE id IN (SELECT id FROM chosen) RETURNING {}",
            places(3, ids.len()),
            self.leasable("$1"),
            webhook_columns!()
        );
        let leased = rows!(
            self.write("leasing webhooks"),
            WebhookRow,
            AssertSqlSafe(sql),
            stored_duration(lease),
            token;
            each ids.iter().copied()
        )?;
        let mut turns = Vec::new();
        for row in leased {
            let id = row.id.clone();
            match Webhook::try_from(row) {
                Ok(webhook) => turns.push(WebhookTurn {
                    webhook,
                    lease: token.to_owned(),
                }),
                // It must not keep all others.
                Err(error) => {
                    tracing::error!(webhook = id, %error, "a webhook is disabled: its row cannot be read");
                    if let Err(error) = self.disable_unreadable(&id).await {
                        tracing::error!(webhook = id, %error, "it is not disabled yet");
                    }
                }
            }
        }
        Ok(turns)
    }

    /// Returns the condition for a webhook to be leased; `lease` is the place of the parameter.
    fn leasable(&self, lease: &str) -> String {
        let now = self.database_clock();
        format!(
            "enabled AND not_before <= {now} AND (leased_until <= {now} OR leased_until > {now} + 2 * {lease})"
        )
    }

    async fn disable_unreadable(&self, id: &str) -> Result<(), Error> {
        let sql = format!(
            "UPDATE webhooks SET enabled = $2, disabled_reason = $3, lease = NULL, leased_until = 0 \
             WHERE id = $1 RETURNING team_id, {}",
            self.database_clock()
        );
        let reason = "its row cannot be read; the log of the control plane has more";
        let mut transaction = self.begin("disabling a webhook").await?;
        let disabled = rows_in!(
            &mut transaction,
            (String, i64),
            AssertSqlSafe(sql),
            id,
            false,
            reason
        )?;
        for (team, now) in disabled {
            // Where its ids are what cannot be read, there is nobody to tell.
            if let (Ok(team), Ok(webhook)) = (team.parse(), id.parse()) {
                let mut event = webhook_event(EventKind::WebhookDisabled, &team, &webhook, now);
                event.data = json!({ "reason": reason });
                transaction.record(&event).await?;
            }
        }
        transaction.commit().await
    }

    /// Lists what is due for a leased webhook, oldest first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn webhook_due(
        &self,
        turn: &WebhookTurn,
        limit: u32,
    ) -> Result<Vec<DueDelivery>, Error> {
        let sql = self.due_sql();
        let id = turn.webhook.id.as_str();
        let db = self.write("looking for deliveries");
        rows!(db, DueDelivery, AssertSqlSafe(sql), id, i64::from(limit))
    }

    /// Returns the statement of [`Store::webhook_due`]. Both of its halves end at their limit in the
    /// order of an index, however many deliveries wait: new ones are due at 0.
    fn due_sql(&self) -> String {
        const COLUMNS: &str = "position, message_id, payload, attempts";
        let half = |is_due: &str, order: &str| {
            format!(
                "SELECT {COLUMNS} FROM (SELECT {COLUMNS} FROM webhook_deliveries WHERE webhook_id = $1 \
                 AND state = 'pending' AND {is_due} ORDER BY {order} LIMIT $2) AS half"
            )
        };
        let again = format!("due_at > 0 AND due_at <= {}", self.database_clock());
        format!(
            "{} UNION ALL {} ORDER BY position LIMIT $2",
            half("due_at = 0", "position"),
            half(&again, "due_at, position")
        )
    }

    /// Notes the result of an attempt, and renews the lease. A delivery that was given up or is to be
    /// sent again since the attempt began stays as it is.
    ///
    /// # Errors
    /// The database fails.
    pub async fn webhook_note(
        &self,
        turn: &WebhookTurn,
        delivery: &DueDelivery,
        note: &AttemptNote,
    ) -> Result<Noted, Error> {
        let mut transaction = self.begin("noting an attempt").await?;
        let Some(disabled) = transaction.note_webhook(turn, note).await? else {
            transaction.rollback().await?;
            return Ok(Noted::LeaseLost);
        };
        let state = match note.attempt {
            Attempt::Delivered => "delivered",
            Attempt::Retry(_) => "pending",
            Attempt::Dead | Attempt::Gone => "dead",
        };
        let wait = match note.attempt {
            Attempt::Retry(wait) => stored_duration(wait),
            _ => 0,
        };
        let sql = format!(
            "UPDATE webhook_deliveries SET state = $2, attempts = attempts + 1, due_at = {} + $3, \
             last_attempt_at = $4, last_status = $5, last_error = $6 WHERE position = $1 \
             AND state = 'pending' AND attempts = $7 RETURNING position",
            self.database_clock()
        );
        rows_in!(
            &mut transaction,
            (i64,),
            AssertSqlSafe(sql),
            delivery.position,
            state,
            wait,
            note.now,
            note.status.map(i64::from),
            note.error.as_deref(),
            delivery.attempts
        )?;
        if let Some(reason) = &disabled {
            let webhook = &turn.webhook;
            let mut event = webhook_event(
                EventKind::WebhookDisabled,
                &webhook.team_id,
                &webhook.id,
                note.now,
            );
            event.data = json!({ "reason": reason, "last_error": note.error });
            transaction.record(&event).await?;
        }
        transaction.commit().await?;
        Ok(match disabled {
            Some(_) => Noted::Disabled,
            None => Noted::GoOn,
        })
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// The database fails.
    pub async fn webhook_release(&self, turn: &WebhookTurn) -> Result<(), Error> {
        let sql = "UPDATE webhooks SET lease = NULL, leased_until = 0 WHERE id = $1 AND lease = $2 RETURNING id";
        let db = self.write("ending the lease of a webhook");
        rows!(db, (String,), sql, turn.webhook.id.as_str(), &turn.lease).map(drop)
    }

    /// Returns the time until the next delivery of a webhook that is not leased is due; `None`: there
    /// is none.
    ///
    /// # Errors
    /// The database fails.
    pub async fn webhook_next_due(&self) -> Result<Option<Duration>, Error> {
        let now = self.database_clock();
        let sql = format!(
            "SELECT min({later}(not_before, due_at)) - {now} FROM (SELECT not_before, \
             (SELECT min(due_at) FROM webhook_deliveries WHERE webhook_id = webhooks.id \
             AND state = 'pending') AS due_at FROM webhooks WHERE enabled AND leased_until <= {now}) \
             AS receivers WHERE due_at IS NOT NULL",
            later = self.larger_of()
        );
        let db = self.read("looking for the next delivery");
        let found = rows!(db, (Option<i64>,), AssertSqlSafe(sql))?;
        let wait = found.first().and_then(|row| row.0);
        Ok(wait.map(|ms| Duration::from_millis(ms.max(0).unsigned_abs())))
    }
}

impl Transaction<'_> {
    /// Notes an attempt in the row of its webhook. Returns `None` if the lease is lost, and the
    /// reason if the webhook is disabled by it.
    async fn note_webhook(
        &mut self,
        turn: &WebhookTurn,
        note: &AttemptNote,
    ) -> Result<Option<Option<String>>, Error> {
        let is_failure = note.attempt != Attempt::Delivered;
        let now = self.store.database_clock();
        let (larger, smaller) = (self.store.larger_of(), self.store.smaller_of());
        // An answer that is good ends no pause: it is of an attempt beside the one that failed.
        let sql = format!(
            "UPDATE webhooks SET leased_until = {now} + $3, is_slow = $4, \
             failing_since = CASE WHEN $5 THEN coalesce(failing_since, $6) END, \
             not_before = CASE WHEN $5 THEN {larger}(not_before, {now} + \
             {larger}($7, {smaller}($8, $6 - coalesce(failing_since, $6)))) ELSE not_before END \
             WHERE id = $1 AND lease = $2 RETURNING {}",
            webhook_columns!()
        );
        let noted = rows_in!(
            self,
            WebhookRow,
            AssertSqlSafe(sql),
            turn.webhook.id.as_str(),
            &turn.lease,
            stored_duration(note.lease),
            is_failure || note.is_slow,
            is_failure,
            note.now,
            stored_duration(note.min_pause),
            stored_duration(note.max_pause)
        )?;
        let Some(row) = noted.into_iter().next() else {
            return Ok(None);
        };
        let webhook = Webhook::try_from(row)?;
        let fails_for_days = webhook
            .failing_since
            .is_some_and(|since| since <= note.disable_before);
        let reason = match note.attempt {
            Attempt::Gone => "the receiver answered 410: it is gone",
            _ if fails_for_days => "every attempt failed for days",
            _ => "",
        };
        if reason.is_empty() || !webhook.enabled {
            return Ok(Some(None));
        }
        let sql =
            "UPDATE webhooks SET enabled = $2, disabled_reason = $3 WHERE id = $1 RETURNING id";
        rows_in!(
            self,
            (String,),
            sql,
            turn.webhook.id.as_str(),
            false,
            reason
        )?;
        Ok(Some(Some(reason.to_owned())))
    }
}

fn stored_duration(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use sqlx::{Executor as _, Row as _};

    use super::*;
    use crate::explain::{
        POSTGRES_NUMBERS, SQLITE_NUMBERS, create_postgres, create_sqlite, rows_read,
    };

    /// A webhook with two deliveries that are due, among 10,000 that are not.
    fn fill_sql(numbers: &str) -> [String; 2] {
        [
            "INSERT INTO webhooks (id, team_id, with_installation, url, description, kinds, after_cursor, secret, \
             enabled, is_slow, leased_until, served_at, created_at) VALUES \
             ('wh-0123456789abcdef', 'default', FALSE, '', '', '[]', 0, '', TRUE, TRUE, 0, 0, 1)"
                .to_owned(),
            format!(
                "INSERT INTO webhook_deliveries \
                 (webhook_id, message_id, kind, payload, state, attempts, due_at, created_at) \
                 SELECT 'wh-0123456789abcdef', 'evt-' || n, 'key.created', '{{}}', 'pending', 0, \
                 CASE n WHEN 9000 THEN 0 WHEN 9001 THEN 1 ELSE 9000000000000 END, 1 FROM {numbers}"
            ),
        ]
    }

    #[tokio::test]
    async fn sqlite_finds_due_by_index() {
        let (_directory, store, mut connection) = create_sqlite().await;
        for sql in fill_sql(SQLITE_NUMBERS) {
            connection.execute(AssertSqlSafe(sql)).await.unwrap();
        }
        let sql = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", store.due_sql()));
        let plan = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
        let steps: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
        let searches = steps
            .iter()
            .filter(|step| step.contains("webhook_deliveries"));
        let by_index = searches
            .clone()
            .filter(|step| step.contains("webhook_deliveries_due (webhook_id=? AND due_at"));
        assert_eq!((searches.count(), by_index.count()), (2, 2), "{steps:?}");
    }

    #[tokio::test]
    async fn postgres_finds_due_by_index() {
        let (_database, store, mut connection) = create_postgres().await;
        for sql in fill_sql(POSTGRES_NUMBERS) {
            connection.execute(AssertSqlSafe(sql)).await.unwrap();
        }
        connection.execute("ANALYZE").await.unwrap();
        let sql = format!("EXPLAIN (ANALYZE, FORMAT JSON) {}", store.due_sql());
        let explain = sqlx::query(AssertSqlSafe(sql));
        let explain = explain.bind("wh-0123456789abcdef").bind(8_i64);
        let plan = explain.fetch_one(&mut connection).await.unwrap();
        let (read, plan) = rows_read(&plan);
        assert!(read <= 10.0, "{read} rows: {plan}");
        let turn = store
            .webhook_waiting(true, 1, Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(turn.len(), 1);
    }
}
