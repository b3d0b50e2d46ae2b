//! Makes deliveries of events.

use sqlx::AssertSqlSafe;

use super::NewDelivery;
use crate::db::{places, row, rows};
use crate::events::{Event, EventRow, ROW_COLUMNS};
use crate::transaction::{Transaction, rows_in};
use crate::{Error, Store};

row! {
    struct SubscriptionRow {
        id: String,
        team_id: String,
        with_installation: bool,
        kinds: String,
        after_cursor: i64,
    }
}

/// Events that a webhook gets.
struct Subscription {
    id: String,
    team_id: String,
    with_installation: bool,
    /// Filters; empty: all.
    kinds: Vec<String>,
    after_cursor: i64,
}

impl Subscription {
    /// Reads a row. One that cannot be read must not keep all others, and gets nothing.
    fn from_row(row: SubscriptionRow) -> Option<Self> {
        let kinds = serde_json::from_str(&row.kinds);
        let kinds = kinds.inspect_err(|error| {
            tracing::error!(webhook = row.id, %error, "the filters of a webhook cannot be read: it gets no events");
        });
        Some(Self {
            kinds: kinds.ok()?,
            id: row.id,
            team_id: row.team_id,
            with_installation: row.with_installation,
            after_cursor: row.after_cursor,
        })
    }

    /// Returns true if the webhook gets an event.
    fn wants(&self, event: &Event) -> bool {
        let is_of_team = match &event.team_id {
            Some(team) => team.as_str() == self.team_id,
            None => self.with_installation,
        };
        let is_kind = |filter: &String| match filter.strip_suffix('*') {
            Some(subject) => event.kind.starts_with(subject),
            None => event.kind == *filter,
        };
        is_of_team
            && event.cursor > self.after_cursor
            && (self.kinds.is_empty() || self.kinds.iter().any(is_kind))
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
        let subscriptions: Vec<Subscription> = rows_in!(&mut transaction, SubscriptionRow, sql)?
            .into_iter()
            .filter_map(Subscription::from_row)
            .collect();
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
}

impl Transaction<'_> {
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
