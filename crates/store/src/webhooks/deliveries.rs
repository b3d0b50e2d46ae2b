//! Deliveries as users see them, and their bounds.

use model::{DeliveryId, DeliveryState, TeamId, WebhookId};
use sqlx::AssertSqlSafe;

use crate::db::{all, one, row, rows};
use crate::transaction::rows_in;
use crate::{Error, Store};

/// Rows that one statement deletes: few enough that no writer waits for it.
const TRIM_BATCH: i64 = 1000;

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDelivery {
    pub id: DeliveryId,
    pub kind: String,
    /// Body of the request: JSON.
    pub payload: String,
    /// Time of the event, in milliseconds since the Unix epoch.
    pub created_at: i64,
    /// True if the event is of the installation, which operators alone see.
    pub is_installation: bool,
}

/// Deliveries of a webhook that a caller may see, who has checked whose it is.
#[derive(Debug, Clone, Copy)]
pub struct VisibleDeliveries<'a> {
    pub webhook: &'a WebhookId,
    /// Those of events of the installation, too.
    pub with_installation: bool,
}

/// A message and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Place in the order of all deliveries.
    pub position: i64,
    pub id: String,
    pub kind: String,
    pub payload: String,
    pub state: DeliveryState,
    pub attempts: i64,
    /// Time of the next attempt, if it is pending.
    pub due_at: i64,
    pub last_attempt_at: Option<i64>,
    pub last_status: Option<i64>,
    pub last_error: Option<String>,
    /// Time of the event.
    pub created_at: i64,
}

row! {
    struct DeliveryRow {
        position: i64,
        message_id: String,
        kind: String,
        payload: String,
        state: String,
        attempts: i64,
        due_at: i64,
        last_attempt_at: Option<i64>,
        last_status: Option<i64>,
        last_error: Option<String>,
        created_at: i64,
    }
}

/// Columns of [`DeliveryRow`].
const DELIVERY_COLUMNS: &str = "position, message_id, kind, payload, state, attempts, due_at, last_attempt_at, \
                                last_status, last_error, created_at";

impl TryFrom<DeliveryRow> for Delivery {
    type Error = Error;

    fn try_from(row: DeliveryRow) -> Result<Self, Error> {
        let state = row.state.parse();
        let state = state.map_err(|source: model::InvalidValue| Error::Corrupt {
            what: format!("delivery {}", row.position),
            source: source.into(),
        })?;
        Ok(Self {
            position: row.position,
            id: row.message_id,
            kind: row.kind,
            payload: row.payload,
            state,
            attempts: row.attempts,
            due_at: row.due_at,
            last_attempt_at: row.last_attempt_at,
            last_status: row.last_status,
            last_error: row.last_error,
            created_at: row.created_at,
        })
    }
}

/// How much is kept for one webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebhookBound {
    /// Number that waits; beyond it the oldest are given up.
    pub pending: u32,
    /// Number of those that were delivered, and of those that were given up.
    pub finished: u32,
    /// Events before this time are not kept after they were delivered or given up.
    pub before: i64,
}

/// Deliveries of all webhooks that have not arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WebhookBacklog {
    /// Time of the oldest event that an enabled webhook has not got.
    pub oldest: Option<i64>,
    /// Deliveries that were given up.
    pub dead: u64,
}

impl Store {
    /// Lists deliveries of a webhook before a position, newest first.
    ///
    /// # Errors
    /// The database fails, or holds a row that this program cannot read.
    pub async fn delivery_list(
        &self,
        visible: VisibleDeliveries<'_>,
        state: Option<DeliveryState>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Delivery>, Error> {
        let states = match state {
            Some(state) => format!("'{}'", state.as_str()),
            None => "'pending', 'delivered', 'dead'".to_owned(),
        };
        let sql = format!(
            "SELECT {DELIVERY_COLUMNS} FROM webhook_deliveries WHERE webhook_id = $1 AND state IN ({states}) \
             AND position < $2 AND ($4 OR NOT is_installation) ORDER BY position DESC LIMIT $3"
        );
        let before = before.unwrap_or(i64::MAX);
        let limit = i64::from(limit);
        let db = self.read("listing deliveries");
        all(rows!(
            db,
            DeliveryRow,
            AssertSqlSafe(sql),
            visible.webhook.as_str(),
            before,
            limit,
            visible.with_installation
        )?)
    }

    /// Finds a delivery of a webhook.
    ///
    /// # Errors
    /// As [`Store::delivery_list`].
    pub async fn delivery_find(
        &self,
        visible: VisibleDeliveries<'_>,
        id: &DeliveryId,
    ) -> Result<Option<Delivery>, Error> {
        let sql = format!(
            "SELECT {DELIVERY_COLUMNS} FROM webhook_deliveries WHERE webhook_id = $1 AND message_id = $2 \
             AND ($3 OR NOT is_installation)"
        );
        let db = self.read("looking for a delivery");
        one(rows!(
            db,
            DeliveryRow,
            AssertSqlSafe(sql),
            visible.webhook.as_str(),
            id.as_str(),
            visible.with_installation
        )?)
    }

    /// Inserts a delivery that is of no event. Returns false if the team has no such webhook.
    ///
    /// # Errors
    /// The database fails.
    pub async fn delivery_insert(
        &self,
        team: &TeamId,
        webhook: &WebhookId,
        delivery: &NewDelivery,
    ) -> Result<bool, Error> {
        let mut transaction = self.begin("inserting a delivery").await?;
        let sql = "SELECT id FROM webhooks WHERE id = $1 AND team_id = $2";
        let found = rows_in!(
            &mut transaction,
            (String,),
            sql,
            webhook.as_str(),
            team.as_str()
        )?;
        if found.is_empty() {
            transaction.rollback().await?;
            return Ok(false);
        }
        transaction
            .insert_deliveries(&[webhook.as_str()], delivery)
            .await?;
        transaction.end_pause(webhook).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Has a delivery sent again, with the same id and as many attempts as a new one. Returns it;
    /// `None`: there is none.
    ///
    /// # Errors
    /// As [`Store::delivery_list`].
    pub async fn delivery_send_again(
        &self,
        visible: VisibleDeliveries<'_>,
        id: &DeliveryId,
    ) -> Result<Option<Delivery>, Error> {
        let sql = format!(
            "UPDATE webhook_deliveries SET state = 'pending', attempts = 0, due_at = 0 \
             WHERE webhook_id = $1 AND message_id = $2 AND ($3 OR NOT is_installation) \
             RETURNING {DELIVERY_COLUMNS}"
        );
        let mut transaction = self.begin("sending a delivery again").await?;
        transaction.end_pause(visible.webhook).await?;
        let sent = rows_in!(
            &mut transaction,
            DeliveryRow,
            AssertSqlSafe(sql),
            visible.webhook.as_str(),
            id.as_str(),
            visible.with_installation
        )?;
        transaction.commit().await?;
        one(sent)
    }

    /// Has all deliveries of a webhook that were given up sent again. Returns their number.
    ///
    /// # Errors
    /// The database fails.
    pub async fn delivery_send_dead_again(
        &self,
        visible: VisibleDeliveries<'_>,
    ) -> Result<u64, Error> {
        let sql = "UPDATE webhook_deliveries SET state = 'pending', attempts = 0, due_at = 0 \
                   WHERE webhook_id = $1 AND state = 'dead' AND ($2 OR NOT is_installation) \
                   RETURNING position";
        let mut transaction = self.begin("sending deliveries again").await?;
        transaction.end_pause(visible.webhook).await?;
        let sent = rows_in!(
            &mut transaction,
            (i64,),
            sql,
            visible.webhook.as_str(),
            visible.with_installation
        )?;
        transaction.commit().await?;
        Ok(sent.len() as u64)
    }

    /// Gives up and deletes what is beyond the bound, of every webhook.
    ///
    /// # Errors
    /// The database fails.
    pub async fn webhook_trim(&self, bound: WebhookBound) -> Result<(), Error> {
        let sql = "SELECT id FROM webhooks";
        let webhooks = rows!(self.read("looking for webhooks"), (String,), sql)?;
        for (id,) in webhooks {
            self.give_up_surplus(&id, bound.pending).await?;
            for state in ["delivered", "dead"] {
                while self.delete_finished(&id, state, bound).await? == TRIM_BATCH {}
            }
        }
        Ok(())
    }

    async fn give_up_surplus(&self, webhook: &str, most: u32) -> Result<(), Error> {
        let sql = "UPDATE webhook_deliveries SET state = 'dead', last_error = $3 \
                   WHERE webhook_id = $1 AND state = 'pending' AND position <= \
                   (SELECT position FROM webhook_deliveries WHERE webhook_id = $1 AND state = 'pending' \
                   ORDER BY position DESC LIMIT 1 OFFSET $2) RETURNING position";
        let error = format!("more than {most} events waited for this webhook");
        let db = self.write("giving up deliveries");
        let given_up = rows!(db, (i64,), sql, webhook, i64::from(most), &error)?;
        if !given_up.is_empty() {
            tracing::warn!(
                webhook,
                number = given_up.len(),
                "{error}: the oldest are dead letters"
            );
        }
        Ok(())
    }

    async fn delete_finished(
        &self,
        webhook: &str,
        state: &str,
        bound: WebhookBound,
    ) -> Result<i64, Error> {
        let sql = "DELETE FROM webhook_deliveries WHERE position IN (SELECT position FROM webhook_deliveries \
                   WHERE webhook_id = $1 AND state = $2 AND (created_at < $3 OR position <= \
                   (SELECT position FROM webhook_deliveries WHERE webhook_id = $1 AND state = $2 \
                   ORDER BY position DESC LIMIT 1 OFFSET $4)) ORDER BY position LIMIT $5) RETURNING position";
        let db = self.write("deleting deliveries");
        let kept = i64::from(bound.finished);
        let deleted = rows!(
            db,
            (i64,),
            sql,
            webhook,
            state,
            bound.before,
            kept,
            TRIM_BATCH
        )?;
        Ok(deleted.len() as i64)
    }

    /// Returns what waits for all webhooks.
    ///
    /// # Errors
    /// The database fails.
    pub async fn webhook_backlog(&self) -> Result<WebhookBacklog, Error> {
        let sql = "SELECT min((SELECT created_at FROM webhook_deliveries WHERE webhook_id = webhooks.id \
                   AND state = 'pending' ORDER BY position LIMIT 1)), \
                   (SELECT count(*) FROM webhook_deliveries WHERE state = 'dead') \
                   FROM webhooks WHERE enabled";
        let db = self.read("looking for what waits");
        let found = rows!(db, (Option<i64>, i64), sql)?;
        let (oldest, dead) = found.into_iter().next().unwrap_or_default();
        Ok(WebhookBacklog {
            oldest,
            dead: u64::try_from(dead).unwrap_or_default(),
        })
    }
}
