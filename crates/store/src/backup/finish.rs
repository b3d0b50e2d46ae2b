//! What a restored database is told, whichever way it was restored:
//!
//! - **Cursors of events** go on far above any that was given out, so that none of them comes twice,
//!   however often one backup is restored: a client that has one from after the backup is told
//!   ([`crate::Events::Unknown`]).
//! - **Ends of sandboxes** that have passed, or are about to, are put off by
//!   [`RESTORED_END_GRACE_MS`]: they may have been moved since the backup.
//! - **Webhooks** are disabled: one may have been deleted since, its URL may belong to somebody else,
//!   and a secret that was replaced is in the backup as the one that signs. What waits for it is kept.
//!
//! A database of PostgreSQL comes from programs that go on after errors unless they are told not to,
//! and that leave tables alone which the backup does not know. What that breaks is refused.

use std::time::Duration;

use model::{EventKind, TeamId, WebhookId};
use serde_json::json;

use super::{BUSY_LIMIT, RESTORER, Restored};
use crate::db::rows;
use crate::postgres::APPLICATION;
use crate::sandboxes::is_alive;
use crate::transaction::{Transaction, rows_in};
use crate::webhooks::webhook_event;
use crate::{Actor, Backend, Error, Store};

/// Time that restored sandboxes live at least, in milliseconds: for an operator to see that their
/// ends are those of the backup.
pub const RESTORED_END_GRACE_MS: i64 = 60 * 60 * 1000;
/// Distance of the next cursor from the last one of a backup: more events than are made in years.
const CURSOR_JUMP: i64 = 1 << 32;
/// Cursors a millisecond by which the first one after a restore grows with the time of the restore.
/// A later restore of the same backup goes on above all that were given out after an earlier one, as
/// long as there are fewer than a million events a second. Below the largest whole number of JSON
/// until 2248.
const CURSORS_PER_MS: i64 = 1024;
/// Reason for a webhook that was disabled.
const DISABLED: &str =
    "a backup was restored: check URL and secret, which are those of the backup, then enable it";

/// Tables with a primary key, those that matter most. `pg_restore` makes keys after rows, so that one
/// is missing where it has failed on the way.
const KEYED_TABLES: [&str; 12] = [
    "events",
    "hosts",
    "keys",
    "open_commands",
    "sandbox_labels",
    "sandboxes",
    "secrets",
    "snapshot_locks",
    "snapshots",
    "webhook_deliveries",
    "webhooks",
    "_sqlx_migrations",
];

impl Store {
    pub(super) async fn finish(&self, now: i64) -> Result<Restored, Error> {
        let found = self.schema().await?;
        if found == 0 {
            let needed = crate::schema::needed_version();
            return Err(Error::NotMigrated { found, needed });
        }
        self.wait_until_unused().await?;
        self.migrate_restored().await?;
        let operator = self.acting_for(Actor::local(Actor::OPERATOR));
        let mut transaction = operator.begin("finishing a restore").await?;
        transaction.check_whole().await?;
        // Before anything that is an event.
        transaction.jump_cursor(now).await?;
        let restored = Restored {
            before: None,
            postponed_ends: transaction.postpone_ends(now).await?,
            disabled_webhooks: transaction.disable_webhooks(now).await?,
        };
        transaction.commit().await?;
        Ok(restored)
    }

    async fn migrate_restored(&self) -> Result<(), Error> {
        match (self.migrate().await, &self.backend) {
            // A table of a later step is there already: it is of the database from before.
            (Err(Error::Migrate { source, .. }), Backend::Postgres(_)) => Err(Error::NotWhole {
                problem: format!("its schema is not that of one version ({source})"),
            }),
            (migrated, _) => migrated,
        }
    }

    /// Waits a moment until no restore of a database of PostgreSQL is being finished. A restore
    /// looks for control planes once it is connected, and a control plane does this once it is:
    /// whichever is second sees the other.
    ///
    /// # Errors
    /// [`Error::BeingRestored`]; the database's.
    pub(crate) async fn wait_until_restored(&self) -> Result<(), Error> {
        match self.wait_until_gone(RESTORER).await? {
            true => Ok(()),
            false => Err(Error::BeingRestored {
                place: self.read("").place.to_owned(),
            }),
        }
    }

    /// Waits a moment until no other process has a database of PostgreSQL open as a control plane.
    async fn wait_until_unused(&self) -> Result<(), Error> {
        match self.wait_until_gone(APPLICATION).await? {
            true => Ok(()),
            false => Err(Error::InUse {
                place: self.read("").place.to_owned(),
            }),
        }
    }

    /// Waits a moment until a database of PostgreSQL has no connections of that name. Returns false
    /// if it still has some.
    async fn wait_until_gone(&self, application: &str) -> Result<bool, Error> {
        let Backend::Postgres(_) = &self.backend else {
            return Ok(true);
        };
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND application_name = $1";
        let gone = async {
            loop {
                let call = self.read("looking for other users");
                let others = rows!(call, (i64,), sql, application)?;
                if others.first().is_none_or(|row| row.0 == 0) {
                    return Ok(true);
                }
                // Connections that were closed are listed for a moment longer.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let waited = tokio::time::timeout(BUSY_LIMIT, gone).await;
        waited.unwrap_or(Ok(false))
    }
}

impl Transaction<'_> {
    /// Checks what a restore that went on after errors leaves out.
    async fn check_whole(&mut self) -> Result<(), Error> {
        let is_postgres = matches!(self.store.backend, Backend::Postgres(_));
        if is_postgres {
            let sql = "SELECT relname::TEXT FROM pg_class JOIN pg_index ON indrelid = pg_class.oid \
                       WHERE indisprimary AND pg_table_is_visible(pg_class.oid)";
            let found = rows_in!(self, (String,), sql)?;
            for table in KEYED_TABLES {
                if !found.iter().any(|row| row.0 == table) {
                    return Err(not_whole(format!("the table {table} has no primary key")));
                }
            }
        }
        // Migrations insert them, and nothing ever deletes them.
        let sql =
            "SELECT (SELECT count(*) FROM events_horizon), (SELECT count(*) FROM webhook_progress)";
        let single = rows_in!(self, (i64, i64), sql)?;
        if single != [(1, 1)] {
            return Err(not_whole("rows are missing".to_owned()));
        }
        if is_postgres {
            let sql = "SELECT last_value FROM events_cursor \
                       WHERE last_value < (SELECT max(cursor) FROM events)";
            if !rows_in!(self, (i64,), sql)?.is_empty() {
                return Err(not_whole("cursors of events begin anew".to_owned()));
            }
        }
        Ok(())
    }

    /// Lets the next event have a cursor that none had before.
    async fn jump_cursor(&mut self, now: i64) -> Result<(), Error> {
        let first = now.saturating_mul(CURSORS_PER_MS);
        match &self.store.backend {
            Backend::Sqlite(_) => {
                // There is no row before the first event.
                let sql = "INSERT INTO sqlite_sequence (name, seq) SELECT 'events', 0 \
                           WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'events') RETURNING seq";
                rows_in!(self, (i64,), sql)?;
                let sql = "UPDATE sqlite_sequence SET seq = max(seq + $1, $2) \
                           WHERE name = 'events' RETURNING seq";
                rows_in!(self, (i64,), sql, CURSOR_JUMP, first).map(drop)
            }
            Backend::Postgres(_) => {
                let sql = "SELECT setval('events_cursor', greatest(last_value + $1, $2)) FROM events_cursor";
                rows_in!(self, (i64,), sql, CURSOR_JUMP, first).map(drop)
            }
        }
    }

    /// Puts ends off that are near, and returns their number.
    async fn postpone_ends(&mut self, now: i64) -> Result<u64, Error> {
        let sql = concat!(
            "UPDATE sandboxes SET ends_at = CASE WHEN ends_at < $1 THEN $1 ELSE ends_at END,",
            // The control plane that was pausing it is gone.
            " pausing_until = NULL, revision = revision + 1",
            " WHERE (ends_at < $1 OR pausing_until IS NOT NULL) AND ",
            is_alive!(),
            " RETURNING id"
        );
        let end = now + RESTORED_END_GRACE_MS;
        Ok(rows_in!(self, (String,), sql, end)?.len() as u64)
    }

    /// Disables all webhooks, and returns their number.
    async fn disable_webhooks(&mut self, now: i64) -> Result<u64, Error> {
        let sql = "UPDATE webhooks SET enabled = FALSE, disabled_reason = $1, lease = NULL, leased_until = 0 \
                   WHERE enabled RETURNING id, team_id";
        let disabled = rows_in!(self, (String, String), sql, DISABLED)?;
        for (id, team) in &disabled {
            let unreadable = |source: model::InvalidValue| Error::Corrupt {
                what: format!("webhook {id}"),
                source: source.into(),
            };
            let team: TeamId = team.parse().map_err(unreadable)?;
            let webhook: WebhookId = id.parse().map_err(unreadable)?;
            let mut event = webhook_event(EventKind::WebhookDisabled, &team, &webhook, now);
            event.data = json!({ "reason": DISABLED });
            self.record(&event).await?;
        }
        Ok(disabled.len() as u64)
    }
}

fn not_whole(problem: String) -> Error {
    Error::NotWhole { problem }
}
