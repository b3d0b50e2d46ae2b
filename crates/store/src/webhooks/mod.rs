//! Webhooks: receivers of events, and the queue of what is sent to them.
//!
//! ```text
//! events ── fan out ──→ webhook_deliveries: pending ── attempt ──→ delivered
//!  (outbox)                         ↑         └ back-off ┘    └──→ dead
//!                                   └───────── by hand ────────────┘
//! ```
//!
//! - **Nothing is lost.** Deliveries of a page of events are made in the transaction that moves
//!   `webhook_progress` behind it ([`Store::webhook_fan_out`]). A process that dies before it
//!   has noted the result of an attempt ([`Store::webhook_note`]) makes its attempt again, or another
//!   process does: at least once, with the same id.
//! - **One sender.** A webhook is leased to one sender at a time ([`Store::webhook_lease`]), which
//!   sends what is due in order. Control planes that share a PostgreSQL pass over rows that another
//!   one has locked (`SKIP LOCKED`). A lease is renewed by each note and ends by itself; who lost one
//!   can note nothing. Leases and due times are by the database's clock, which all control planes
//!   share; a lease that ends much later than any that begins now was set before that clock was set
//!   back, and counts as ended.
//!   A webhook that leads elsewhere, signs otherwise or is disabled from now on loses its lease, so that
//!   nothing but what is under way goes the old way; the result of that is not noted.
//! - **Receivers are left alone** for a time after a failed attempt (`not_before`): what waits for one
//!   that is down costs an attempt for each pause, and not one for each message.
//! - **Two lanes.** Webhooks whose last attempt failed or took long, or that were never served, are
//!   leased apart from the others, so that they cannot take the places of those. The sender chooses
//!   among those that wait ([`Store::webhook_waiting`]), since it knows how many places a team has.
//! - **Bounded.** What waits for one webhook, and what was delivered or given up, is bounded by
//!   number, and the latter by age ([`Store::webhook_trim`]).
//!
//! A webhook gets events behind `after_cursor`, which is set when it is made or enabled: what
//! happens while it is disabled is not sent. What was waiting stays, and goes on when it is enabled.

mod deliveries;
mod fan_out;
mod queue;

use std::fmt;

use model::{EventKind, TeamId, WebhookId};
use serde_json::json;

use crate::db::{all, one, row, rows, single_count, without_nul};
use crate::transaction::{Transaction, rows_in};
use crate::{Backend, Error, NewEvent, Store};

pub use deliveries::{Delivery, NewDelivery, VisibleDeliveries, WebhookBacklog, WebhookBound};
pub use queue::{Attempt, AttemptNote, DueDelivery, Noted, WaitingWebhook, WebhookTurn};

/// A webhook to make.
#[derive(Clone, PartialEq, Eq)]
pub struct NewWebhook {
    pub id: WebhookId,
    pub team_id: TeamId,
    /// True if it gets events of the installation, too.
    pub with_installation: bool,
    pub url: String,
    pub description: String,
    /// Filters of kinds, such as `sandbox.*`; empty: all.
    pub kinds: Vec<String>,
    pub secret: String,
    /// Milliseconds since the Unix epoch.
    pub now: i64,
}

/// A webhook as it is remembered.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    pub id: WebhookId,
    pub team_id: TeamId,
    pub with_installation: bool,
    pub url: String,
    pub description: String,
    pub kinds: Vec<String>,
    pub secret: String,
    /// The secret before, and the time until which it signs as well.
    pub previous_secret: Option<(String, i64)>,
    pub enabled: bool,
    pub disabled_reason: Option<String>,
    /// Time of the first attempt that failed since one that did not.
    pub failing_since: Option<i64>,
    /// Time before which nothing is sent to it.
    pub not_before: i64,
    pub created_at: i64,
}

/// Changes of a webhook; `None` leaves a setting as it is.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct WebhookChange {
    pub url: Option<String>,
    pub description: Option<String>,
    pub kinds: Option<Vec<String>>,
    pub enabled: Option<bool>,
    /// True: it gets no events of the installation any more.
    pub without_installation: bool,
    /// A new secret, and the time until which the one before signs as well.
    pub secret: Option<(String, i64)>,
}

impl WebhookChange {
    /// Returns true if the webhook leads elsewhere afterwards.
    fn moves(&self, before: &Webhook) -> bool {
        self.url.as_ref().is_some_and(|url| *url != before.url)
    }

    /// Returns true if another secret signs afterwards, or if it is enabled or disabled.
    fn changes_secret_or_state(&self, before: &Webhook) -> bool {
        self.secret.is_some() || self.enabled.is_some_and(|it| it != before.enabled)
    }
}

/// Without secrets, and without the URL, which may have one in it.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("id", &self.id)
            .field("team_id", &self.team_id)
            .field("enabled", &self.enabled)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for NewWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewWebhook")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for WebhookChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookChange")
            .field("enabled", &self.enabled)
            .finish_non_exhaustive()
    }
}

row! {
    pub(crate) struct WebhookRow {
        id: String,
        team_id: String,
        with_installation: bool,
        url: String,
        description: String,
        kinds: String,
        secret: String,
        previous_secret: Option<String>,
        previous_expires_at: Option<i64>,
        enabled: bool,
        disabled_reason: Option<String>,
        failing_since: Option<i64>,
        not_before: i64,
        created_at: i64,
    }
}

/// Columns of [`WebhookRow`].
macro_rules! webhook_columns {
    () => {
        "id, team_id, with_installation, url, description, kinds, secret, previous_secret, \
         previous_expires_at, enabled, disabled_reason, failing_since, not_before, created_at"
    };
}
use webhook_columns;

impl TryFrom<WebhookRow> for Webhook {
    type Error = Error;

    fn try_from(row: WebhookRow) -> Result<Self, Error> {
        let unreadable = |source: Box<dyn std::error::Error + Send + Sync>| Error::Corrupt {
            what: format!("webhook {:?}", row.id),
            source,
        };
        Ok(Self {
            id: row
                .id
                .parse()
                .map_err(|e: model::InvalidValue| unreadable(e.into()))?,
            team_id: row
                .team_id
                .parse()
                .map_err(|e: model::InvalidValue| unreadable(e.into()))?,
            kinds: serde_json::from_str(&row.kinds).map_err(|e| unreadable(e.into()))?,
            with_installation: row.with_installation,
            url: row.url,
            description: row.description,
            secret: row.secret,
            previous_secret: row.previous_secret.zip(row.previous_expires_at),
            enabled: row.enabled,
            disabled_reason: row.disabled_reason,
            failing_since: row.failing_since,
            not_before: row.not_before,
            created_at: row.created_at,
        })
    }
}

impl Store {
    /// Inserts a webhook, unless its team has `max` of them: false.
    ///
    /// # Errors
    /// Text with a NUL in it; the database fails.
    pub async fn webhook_insert(&self, new: &NewWebhook, max: u64) -> Result<bool, Error> {
        without_nul("url", &new.url)?;
        without_nul("description", &new.description)?;
        let mut transaction = self.begin("inserting a webhook").await?;
        let after = transaction.begin_sending().await?;
        let sql = "SELECT count(*) FROM webhooks WHERE team_id = $1";
        let count = rows_in!(&mut transaction, (i64,), sql, new.team_id.as_str())?;
        if single_count(count)? >= max {
            transaction.rollback().await?;
            return Ok(false);
        }
        let sql = "INSERT INTO webhooks (id, team_id, with_installation, url, description, kinds, after_cursor, \
                   secret, enabled, is_slow, leased_until, served_at, created_at) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0, 0, $11) RETURNING id";
        rows_in!(
            &mut transaction,
            (String,),
            sql,
            new.id.as_str(),
            new.team_id.as_str(),
            new.with_installation,
            &new.url,
            &new.description,
            json!(new.kinds).to_string(),
            after,
            &new.secret,
            true,
            true,
            new.now
        )?;
        let event = webhook_event(EventKind::WebhookCreated, &new.team_id, &new.id, new.now);
        transaction.record(&event).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Finds a webhook of a team.
    ///
    /// # Errors
    /// The database fails, or holds a row that this program cannot read.
    pub async fn webhook_find(
        &self,
        team: &TeamId,
        id: &WebhookId,
    ) -> Result<Option<Webhook>, Error> {
        let sql = concat!(
            "SELECT ",
            webhook_columns!(),
            " FROM webhooks WHERE id = $1 AND team_id = $2"
        );
        let db = self.read("looking for a webhook");
        one(rows!(db, WebhookRow, sql, id.as_str(), team.as_str())?)
    }

    /// Lists the webhooks of a team, oldest first.
    ///
    /// # Errors
    /// As [`Store::webhook_find`].
    pub async fn webhook_list(&self, team: &TeamId) -> Result<Vec<Webhook>, Error> {
        let sql = concat!(
            "SELECT ",
            webhook_columns!(),
            " FROM webhooks WHERE team_id = $1 ORDER BY created_at, id"
        );
        let db = self.read("listing webhooks");
        all(rows!(db, WebhookRow, sql, team.as_str())?)
    }

    /// Changes a webhook of a team, and returns it as it is then; `None`: there is none. One that is
    /// enabled or leads elsewhere gets what waits at once; one that is enabled gets events from now on.
    ///
    /// # Errors
    /// As [`Store::webhook_find`]; text with a NUL in it.
    pub async fn webhook_update(
        &self,
        team: &TeamId,
        id: &WebhookId,
        change: &WebhookChange,
        now: i64,
    ) -> Result<Option<Webhook>, Error> {
        for (field, text) in [("url", &change.url), ("description", &change.description)] {
            without_nul(field, text.as_deref().unwrap_or_default())?;
        }
        let mut transaction = self.begin("changing a webhook").await?;
        let after = transaction.begin_sending().await?;
        let Some(before) = transaction.lock_webhook(team, id).await? else {
            transaction.rollback().await?;
            return Ok(None);
        };
        let is_enabled_anew = change.enabled == Some(true) && !before.enabled;
        let is_moved = change.moves(&before);
        let is_lease_ended = is_moved || change.changes_secret_or_state(&before);
        let sql = concat!(
            "UPDATE webhooks SET url = coalesce($3, url), description = coalesce($4, description), \
             kinds = coalesce($5, kinds), enabled = coalesce($6, enabled), \
             disabled_reason = CASE WHEN coalesce($6, enabled) THEN NULL ELSE disabled_reason END, \
             after_cursor = coalesce($7, after_cursor), \
             failing_since = CASE WHEN $11 THEN NULL ELSE failing_since END, \
             not_before = CASE WHEN $11 THEN 0 ELSE not_before END, is_slow = is_slow OR $11, \
             lease = CASE WHEN $12 THEN NULL ELSE lease END, \
             leased_until = CASE WHEN $12 THEN 0 ELSE leased_until END, \
             previous_secret = CASE WHEN $8 IS NULL THEN previous_secret ELSE secret END, \
             previous_expires_at = coalesce($9, previous_expires_at), secret = coalesce($8, secret), \
             with_installation = with_installation AND NOT $10 \
             WHERE id = $1 AND team_id = $2 RETURNING ",
            webhook_columns!()
        );
        let changed = rows_in!(
            &mut transaction,
            WebhookRow,
            sql,
            id.as_str(),
            team.as_str(),
            change.url.as_deref(),
            change.description.as_deref(),
            change.kinds.as_ref().map(|kinds| json!(kinds).to_string()),
            change.enabled,
            is_enabled_anew.then_some(after),
            change.secret.as_ref().map(|(secret, _)| secret.as_str()),
            change.secret.as_ref().map(|(_, until)| *until),
            change.without_installation,
            is_enabled_anew || is_moved,
            is_lease_ended
        )?;
        if change.without_installation {
            transaction.delete_installation_deliveries(id).await?;
        }
        if is_enabled_anew || is_moved {
            transaction.make_due(id).await?;
        }
        let mut event = webhook_event(EventKind::WebhookUpdated, team, id, now);
        event.data = json!({
            "enabled": change.enabled.unwrap_or(before.enabled),
            "secret_rotated": change.secret.is_some(),
        });
        transaction.record(&event).await?;
        transaction.commit().await?;
        one(changed)
    }

    /// Deletes a webhook of a team with all its deliveries. Returns false if there is none.
    ///
    /// # Errors
    /// The database fails.
    pub async fn webhook_remove(
        &self,
        team: &TeamId,
        id: &WebhookId,
        now: i64,
    ) -> Result<bool, Error> {
        let mut transaction = self.begin("deleting a webhook").await?;
        // Otherwise a fan-out that has read the row fails to insert what it refers to.
        transaction.lock_progress().await?;
        let sql = "DELETE FROM webhooks WHERE id = $1 AND team_id = $2 RETURNING id";
        let deleted = rows_in!(&mut transaction, (String,), sql, id.as_str(), team.as_str())?;
        if deleted.is_empty() {
            transaction.rollback().await?;
            return Ok(false);
        }
        let event = webhook_event(EventKind::WebhookDeleted, team, id, now);
        transaction.record(&event).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Returns the present time as the database computes it, in milliseconds since the Unix epoch: the
    /// same throughout a statement, so that an index can find what is due.
    const fn database_clock(&self) -> &'static str {
        match self.backend {
            Backend::Sqlite(_) => "CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER)",
            Backend::Postgres(_) => {
                "CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT)"
            }
        }
    }

    /// Returns the name of the function of the database for the larger of two numbers.
    const fn larger_of(&self) -> &'static str {
        match self.backend {
            Backend::Sqlite(_) => "max",
            Backend::Postgres(_) => "greatest",
        }
    }

    /// Returns the name of the function of the database for the smaller of two numbers.
    const fn smaller_of(&self) -> &'static str {
        match self.backend {
            Backend::Sqlite(_) => "min",
            Backend::Postgres(_) => "least",
        }
    }
}

impl Transaction<'_> {
    /// Locks the progress of all webhooks, so that no events are passed over while one is made or
    /// enabled. Returns the cursor of the last event. Where no webhook was enabled, the events up to
    /// it are passed over: there may be many.
    async fn begin_sending(&mut self) -> Result<i64, Error> {
        self.lock_progress().await?;
        let sql = "SELECT coalesce(max(cursor), (SELECT cursor FROM events_horizon)) FROM events";
        let last = rows_in!(self, (i64,), sql)?;
        let last = last.first().map_or(0, |row| row.0);
        let sql = "UPDATE webhook_progress SET cursor = $1 \
                   WHERE NOT EXISTS (SELECT 1 FROM webhooks WHERE enabled) RETURNING cursor";
        rows_in!(self, (i64,), sql, last)?;
        Ok(last)
    }

    /// Locks the progress of all webhooks until the end of the transaction, and returns it.
    async fn lock_progress(&mut self) -> Result<i64, Error> {
        let sql = "UPDATE webhook_progress SET cursor = cursor RETURNING cursor";
        let locked = rows_in!(self, (i64,), sql)?;
        Ok(locked.first().map_or(0, |row| row.0))
    }

    async fn lock_webhook(
        &mut self,
        team: &TeamId,
        id: &WebhookId,
    ) -> Result<Option<Webhook>, Error> {
        let sql = concat!(
            "UPDATE webhooks SET enabled = enabled WHERE id = $1 AND team_id = $2 RETURNING ",
            webhook_columns!()
        );
        one(rows_in!(self, WebhookRow, sql, id.as_str(), team.as_str())?)
    }

    /// Deletes deliveries of events that a webhook gets no more.
    async fn delete_installation_deliveries(&mut self, id: &WebhookId) -> Result<(), Error> {
        let sql = "DELETE FROM webhook_deliveries WHERE webhook_id = $1 AND is_installation RETURNING position";
        rows_in!(self, (i64,), sql, id.as_str()).map(drop)
    }

    /// Ends the pause of a receiver, since a user asks for an attempt.
    pub(super) async fn end_pause(&mut self, id: &WebhookId) -> Result<(), Error> {
        let sql = "UPDATE webhooks SET not_before = 0 WHERE id = $1 RETURNING id";
        rows_in!(self, (String,), sql, id.as_str()).map(drop)
    }

    /// Has all that waits for a webhook sent at once.
    async fn make_due(&mut self, id: &WebhookId) -> Result<(), Error> {
        let sql = "UPDATE webhook_deliveries SET due_at = 0 WHERE webhook_id = $1 AND state = 'pending' \
                   RETURNING position";
        rows_in!(self, (i64,), sql, id.as_str()).map(drop)
    }
}

pub(crate) fn webhook_event(kind: EventKind, team: &TeamId, id: &WebhookId, now: i64) -> NewEvent {
    NewEvent {
        kind,
        team_id: Some(team.clone()),
        subject: id.to_string(),
        sandbox_id: None,
        generation: None,
        data: json!({}),
        now,
    }
}
