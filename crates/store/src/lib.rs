//! Remembers sandboxes, API keys, events and webhooks, in SQLite or PostgreSQL. Decides nothing; nothing else in
//! Wrenn names SQL.
//!
//! - Times are `i64` milliseconds since the Unix epoch. The caller brings them: the store has no
//!   clock. Only leases are timed by the database, whose clock all control planes share.
//! - A write that was acknowledged is on disk. SQLite runs with `synchronous=FULL`; PostgreSQL with
//!   its own settings, which are safe by default.
//! - Every change is recorded as an event in its own transaction: see `events`.
//! - Every operation is one statement or one transaction. A process that is killed in the middle
//!   leaves the old row or the new one. A caller that stops waiting does not know which.
//! - Order between writers comes from generations, never from time: see
//!   [`Store::sandbox_apply_report`].
//! - The schema is the folder `migrations/`, one file a step, for each backend the same numbers.
//!   Steps only add.

mod backup;
mod changes;
mod cursor;
mod db;
mod error;
mod events;
#[cfg(test)]
mod explain;
mod keys;
mod notifications;
mod postgres;
mod sandboxes;
mod schema;
mod secrets;
mod snapshots;
mod sqlite;
mod transaction;
mod webhooks;

use std::sync::Arc;

use tokio::sync::watch;

use changes::Changes;
use db::{Call, Pool};
use postgres::Postgres;
use sqlite::Sqlite;

pub use backup::{RESTORED_END_GRACE_MS, Restored};
pub use changes::ChangeWaiter;
pub use cursor::Cursor;
pub use db::STATEMENT_DURATION;
pub use error::Error;
pub use events::{Actor, Event, EventQuery, Events, EventsBound, EventsWaker, HostDrain, NewEvent};
pub use keys::{Key, NewKey};
pub use sandboxes::{
    AdoptedSandbox, Applied, Disk, DueSandbox, Idempotency, Inserted, NewSandbox, Report, Sandbox,
    SandboxFilter,
};
pub use snapshots::{MAX_SNAPSHOT_LEASE, SnapshotClaim};
pub use webhooks::{
    Attempt, AttemptNote, Delivery, DueDelivery, NewDelivery, NewWebhook, Noted, VisibleDeliveries,
    WaitingWebhook, Webhook, WebhookBacklog, WebhookBound, WebhookChange, WebhookTurn,
};

/// An open database. Cheap to clone; all clones share their connections.
#[derive(Debug, Clone)]
pub struct Store {
    backend: Backend,
    /// Who makes the changes of this handle.
    actor: Arc<Actor>,
    /// Notified after each commit with an event.
    events_recorded: watch::Sender<()>,
    changes: Changes,
}

#[derive(Debug, Clone)]
enum Backend {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

/// Connections of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    pub in_use: usize,
    pub idle: usize,
    /// Number that there may be.
    pub most: usize,
}

impl Connections {
    pub(crate) fn of_pool<D: sqlx::Database>(pool: &sqlx::Pool<D>) -> Self {
        // Counted one after the other, while connections come and go.
        let idle = pool.num_idle();
        Self {
            in_use: (pool.size() as usize).saturating_sub(idle),
            idle,
            most: pool.options().get_max_connections() as usize,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            in_use: self.in_use + other.in_use,
            idle: self.idle + other.idle,
            most: self.most + other.most,
        }
    }
}

impl Store {
    /// Opens `sqlite:///absolute/path` (made if missing, mode 0600) or `postgres://…`, and checks
    /// that it answers. Changes no tables: see [`Store::migrate`] and [`Store::check_migrated`].
    ///
    /// # Errors
    /// The URL is wrong, or the database cannot be reached.
    pub async fn open(url: &str) -> Result<Self, Error> {
        Self::open_as(url, postgres::APPLICATION).await
    }

    /// Opens it under a name that other users of PostgreSQL see.
    async fn open_as(url: &str, application: &str) -> Result<Self, Error> {
        let backend = match url.split_once("://").map_or("", |(scheme, _)| scheme) {
            "sqlite" => Backend::Sqlite(Sqlite::open(url).await?),
            "postgres" | "postgresql" => Backend::Postgres(Postgres::open(url, application).await?),
            // The URL itself may hold a password, and stays out of the text.
            _ => {
                let problem = "must begin with sqlite:// or postgres://".to_owned();
                return Err(Error::InvalidUrl { problem });
            }
        };
        Ok(Self {
            backend,
            actor: Arc::new(Actor::local(Actor::SYSTEM)),
            events_recorded: watch::Sender::new(()),
            changes: Changes::default(),
        })
    }

    /// Brings the schema to what this program needs; does nothing if it is there. Two processes can
    /// do it at once.
    ///
    /// # Errors
    /// [`Error::NotMigrated`] if the schema is newer than this program, [`Error::Migrate`] if a
    /// step fails; it is undone then.
    pub async fn migrate(&self) -> Result<(), Error> {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.migrate().await,
            Backend::Postgres(postgres) => postgres.migrate().await,
        }
    }

    /// Returns `sqlite` or `postgres`.
    #[must_use]
    pub const fn backend(&self) -> &'static str {
        match self.backend {
            Backend::Sqlite(_) => "sqlite",
            Backend::Postgres(_) => "postgres",
        }
    }

    /// Returns the connections that there are now.
    #[must_use]
    pub fn connections(&self) -> Connections {
        match &self.backend {
            Backend::Sqlite(sqlite) => {
                Connections::of_pool(&sqlite.writer).plus(Connections::of_pool(&sqlite.readers))
            }
            Backend::Postgres(postgres) => postgres.connections(),
        }
    }

    /// Waits for the calls in flight, then closes every connection. Later calls fail.
    pub async fn close(&self) {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.close().await,
            Backend::Postgres(postgres) => postgres.close().await,
        }
    }

    fn read(&self, doing: &'static str) -> Call<'_> {
        match &self.backend {
            Backend::Sqlite(sqlite) => Call {
                pool: Pool::Sqlite(&sqlite.readers),
                place: &sqlite.place,
                doing,
            },
            Backend::Postgres(postgres) => postgres.call(doing),
        }
    }

    fn write(&self, doing: &'static str) -> Call<'_> {
        match &self.backend {
            Backend::Sqlite(sqlite) => Call {
                pool: Pool::Sqlite(&sqlite.writer),
                place: &sqlite.place,
                doing,
            },
            Backend::Postgres(postgres) => postgres.call(doing),
        }
    }
}
