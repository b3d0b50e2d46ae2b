//! The queue: makes deliveries of events, leases webhooks to senders, and notes what came of it.

use std::time::Duration;

use model::EventKind;
use serde_json::json;
use sqlx::AssertSqlSafe;

use super::{NewDelivery, Webhook, WebhookRow, webhook_columns, webhook_event};
use crate::db::{places, row, rows};
use crate::events::{Event, EventRow, ROW_COLUMNS};
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
    struct Subscription {
        id: String,
        team_id: String,
        with_installation: bool,
        kinds: String,
        after_cursor: i64,
    }
}

impl Subscription {
    /// Returns true if the webhook gets an event.
    fn wants(&self, event: &Event) -> bool {
        let kinds: Vec<String> = serde_json::from_str(&self.kinds).unwrap_or_default();
        let is_kind = |filter: &String| match filter.strip_suffix('*') {
            Some(subject) => event.kind.starts_with(subject),
            None => event.kind == *filter,
        };
        let is_of_team = match &event.team_id {
            Some(team) => team.as_str() == self.team_id,
            None => self.with_installation,
        };
        is_of_team
            && event.cursor > self.after_cursor
            && (kinds.is_empty() || kinds.iter().any(is_kind))
    }
}

impl Store {
    /// Makes deliveries of the next events, at most `limit`. `render` makes the message of an event,
    /// if there is to be one. Returns true if there may be more.
    ///
    /// # Errors
    /// The database fails.
    pub async fn webhook_fan_out(
        &self,
        limit: u32,
        render: impl Fn(Event) -> Option<NewDelivery> + Send,
    ) -> Result<bool, Error> {
        // Most of the time there is nothing to lock for.
        let sql = "SELECT cursor FROM webhook_progress WHERE EXISTS (SELECT 1 FROM webhooks WHERE enabled) \
                   AND EXISTS (SELECT 1 FROM events WHERE events.cursor > webhook_progress.cursor)";
        if rows!(self.read("looking for events to send"), (i64,), sql)?.is_empty() {
            return Ok(false);
        }
        let mut transaction = self.begin("making deliveries").await?;
        let position = transaction.lock_progress().await?;
        let sql = "SELECT id, team_id, with_installation, kinds, after_cursor FROM webhooks WHERE enabled";
        let subscriptions = rows_in!(&mut transaction, Subscription, sql)?;
        let sql =
            format!("SELECT {ROW_COLUMNS} FROM events WHERE cursor > $1 ORDER BY cursor LIMIT $2");
        let events = rows_in!(
            &mut transaction,
            EventRow,
            AssertSqlSafe(sql),
            position,
            i64::from(limit)
        )?;
        let Some(last) = events.last().map(|row| row.cursor) else {
            transaction.rollback().await?;
            return Ok(false);
        };
        let is_full = events.len() == limit as usize;
        for row in events {
            // One that cannot be read must not keep all others.
            let Ok(event) = Event::try_from(row) else {
                continue;
            };
            let wanted = subscriptions.iter().filter(|it| it.wants(&event));
            let receivers: Vec<&str> = wanted.map(|it| it.id.as_str()).collect();
            if receivers.is_empty() {
                continue;
            }
            if let Some(delivery) = render(event) {
                transaction.insert_deliveries(&receivers, &delivery).await?;
            }
        }
        let sql = "UPDATE webhook_progress SET cursor = $1 RETURNING cursor";
        rows_in!(&mut transaction, (i64,), sql, last)?;
        transaction.commit().await?;
        Ok(is_full)
    }

    /// Leases webhooks that something is due for, those served longest ago first.
    ///
    /// # Errors
    /// The database fails, or holds a row that this program cannot read.
    pub async fn webhook_lease(
        &self,
        is_slow: bool,
        limit: u32,
        lease: Duration,
        token: &str,
    ) -> Result<Vec<WebhookTurn>, Error> {
        let now = self.database_clock();
        let skip_locked = match self.backend {
            Backend::Sqlite(_) => "",
            // A fan-out holds the keys of webhooks, which is no reason to pass them over.
            Backend::Postgres(_) => "FOR NO KEY UPDATE SKIP LOCKED",
        };
        let sql = format!(
            "WITH chosen AS MATERIALIZED (SELECT id FROM webhooks WHERE enabled AND is_slow = $1 \
             AND (leased_until <= {now} OR leased_until > {now} + 2 * $3) AND not_before <= {now} \
             AND EXISTS (SELECT 1 FROM webhook_deliveries WHERE webhook_id = webhooks.id \
             AND state = 'pending' AND due_at <= {now}) ORDER BY served_at LIMIT $2 {skip_locked}) \
             UPDATE webhooks SET lease = $4, leased_until = {now} + $3, served_at = {now} \
             WHERE id IN (SELECT id FROM chosen) RETURNING {}",
            webhook_columns!()
        );
        let leased = rows!(
            self.write("leasing webhooks"),
            WebhookRow,
            AssertSqlSafe(sql),
            is_slow,
            i64::from(limit),
            stored_duration(lease),
            token
        )?;
        let turn = |row| {
            Ok(WebhookTurn {
                webhook: Webhook::try_from(row)?,
                lease: token.to_owned(),
            })
        };
        leased.into_iter().map(turn).collect()
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
        let now = self.database_clock();
        let sql = format!(
            "SELECT position, message_id, payload, attempts FROM webhook_deliveries \
             WHERE webhook_id = $1 AND state = 'pending' AND due_at <= {now} ORDER BY position LIMIT $2"
        );
        let id = turn.webhook.id.as_str();
        let db = self.write("looking for deliveries");
        rows!(db, DueDelivery, AssertSqlSafe(sql), id, i64::from(limit))
    }

    /// Notes the result of an attempt, and renews the lease.
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
             last_attempt_at = $4, last_status = $5, last_error = $6 WHERE position = $1 RETURNING position",
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
            note.error.as_deref()
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

    /// Inserts deliveries of one message to several webhooks.
    pub(super) async fn insert_deliveries(
        &mut self,
        receivers: &[&str],
        delivery: &NewDelivery,
    ) -> Result<(), Error> {
        let sql = format!(
            "INSERT INTO webhook_deliveries (webhook_id, message_id, kind, payload, state, attempts, due_at, created_at, is_installation) \
             SELECT id, $1, $2, $3, 'pending', 0, 0, $4, $5 FROM webhooks WHERE id IN ({}) \
             ON CONFLICT DO NOTHING RETURNING position",
            places(6, receivers.len())
        );
        rows_in!(
            self,
            (i64,),
            AssertSqlSafe(sql),
            delivery.id.as_str(),
            &delivery.kind,
            &delivery.payload,
            delivery.created_at,
            delivery.is_installation;
            each receivers.iter().copied()
        )
        .map(drop)
    }
}

fn stored_duration(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
