//! The outbox: a row for every change, written in the transaction of the change.
//!
//! - **Nothing is lost or made up.** A change and its event commit together, or neither does. What
//!   only hosts know (checkpoints, snapshots, commands) has no row here that changes: its event is a
//!   transaction of its own, after the host has said that it is done.
//! - **Cursors are in the order in which readers see them.** Whoever has read up to a cursor never
//!   misses a lower one. SQLite has one writer, so the order of row ids is that of commits. The
//!   sequences of PostgreSQL are not: a transaction that took its number first may commit last. So a
//!   number is taken under an advisory lock that the transaction keeps until it has committed
//!   (`next_event_cursor` in the migration). Events are recorded last, just before the commit, so the
//!   lock is held for a commit and no longer; no transaction that has it waits for a row. Reading
//!   below the oldest transaction that runs (`pg_snapshot_xmin`) would need no lock, but then any
//!   transaction of any database on that server holds up all events, and numbers of transactions
//!   begin anew when a dump is restored.
//! - **History is bounded** by age and by number: the oldest rows are deleted in batches, and
//!   `events_horizon` has the last cursor that went. A reader from before it is told
//!   ([`Events::Expired`]), and never skips rows without knowing.
//! - **Readers are woken** by [`EventsWaker`]: by commits of this process, and by those of others
//!   through a channel of PostgreSQL (`notifications`). Waking is a hint: what counts is the cursor.
//!
//! An event says who changed what, from where and when: an [`Actor`] belongs to a handle of the
//! store ([`Store::acting_for`]), so that no write can forget it.

mod hosts;
mod read;
mod waker;

use std::sync::Arc;

use model::{EventKind, Generation, SandboxId, TeamId};
use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::db::{places, stored_generation, wait_for_statement};
use crate::transaction::{Connection, Transaction};
use crate::{Error, Store};

pub use hosts::HostDrain;
pub use read::{EventQuery, Events, EventsBound};
pub(crate) use read::{EventRow, ROW_COLUMNS};
pub use waker::EventsWaker;

/// Maximum length of an event's data, in bytes of JSON.
const MAX_DATA: usize = 8 * 1024;
/// Maximum length of a field of data that is over [`MAX_DATA`].
const MAX_FIELD: usize = 256;

/// Who makes changes, and how that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// Id of an API key, [`Actor::OPERATOR`] or [`Actor::SYSTEM`].
    pub id: String,
    /// Network address of the client.
    pub address: Option<String>,
    pub request_id: Option<String>,
}

impl Actor {
    /// The control plane itself, or a host.
    pub const SYSTEM: &str = "system";
    /// The user of `wrenn-cp` on the server.
    pub const OPERATOR: &str = "operator";

    /// Creates an actor without a request.
    #[must_use]
    pub fn local(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            address: None,
            request_id: None,
        }
    }
}

/// An event to record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub kind: EventKind,
    /// `None`: of the installation, for operators alone.
    pub team_id: Option<TeamId>,
    /// Id or name of what changed.
    pub subject: String,
    pub sandbox_id: Option<SandboxId>,
    /// Generation of the sandbox after the change.
    pub generation: Option<Generation>,
    /// What else there is to tell: an object.
    pub data: Value,
    /// Milliseconds since the Unix epoch.
    pub now: i64,
}

/// An event as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Position in the order of all events.
    pub cursor: i64,
    /// An [`EventKind`] of this version or another one.
    pub kind: String,
    pub team_id: Option<TeamId>,
    pub subject: String,
    pub sandbox_id: Option<String>,
    pub generation: Option<i64>,
    pub actor: Actor,
    pub data: Value,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

impl Store {
    /// Returns a handle whose changes are made by `actor`.
    #[must_use]
    pub fn acting_for(&self, actor: Actor) -> Self {
        Self {
            actor: Arc::new(actor),
            ..self.clone()
        }
    }

    /// Records an event of a change that only a host has.
    ///
    /// # Errors
    /// The database fails.
    pub async fn event_record(&self, event: &NewEvent) -> Result<(), Error> {
        let mut transaction = self.begin("recording an event").await?;
        transaction.record(event).await?;
        transaction.commit().await
    }
}

/// An event as its columns in [`COLUMNS`] hold it.
pub(crate) struct EventColumns {
    pub(crate) kind: &'static str,
    pub(crate) team_id: String,
    pub(crate) subject: String,
    pub(crate) sandbox_id: Option<String>,
    pub(crate) generation: Option<i64>,
    pub(crate) actor: Arc<Actor>,
    pub(crate) data: String,
    pub(crate) created_at: i64,
}

/// The columns of an event that are not given by the database.
const COLUMNS: &str =
    "kind, team_id, subject, sandbox_id, generation, actor, address, request_id, data, created_at";
const COLUMN_COUNT: usize = 10;

/// Binds [`EventColumns`] to the next places of a query.
macro_rules! bind_event {
    ($query:expr, $columns:expr) => {{
        let columns: $crate::events::EventColumns = $columns;
        $query
            .bind(columns.kind)
            .bind(columns.team_id)
            .bind(columns.subject)
            .bind(columns.sandbox_id)
            .bind(columns.generation)
            .bind(columns.actor.id.clone())
            .bind(columns.actor.address.clone())
            .bind(columns.actor.request_id.clone())
            .bind(columns.data)
            .bind(columns.created_at)
    }};
}
pub(crate) use bind_event;

/// Returns the statement of PostgreSQL that does what `sql` does, and records an event if that gives
/// a row. The columns of the event come after the `bound` parameters of `sql`.
pub(crate) fn with_event(sql: &str, bound: usize) -> String {
    let places = places(bound + 1, COLUMN_COUNT);
    format!(
        "WITH changed AS ({sql}), recorded AS \
         (INSERT INTO events ({COLUMNS}) SELECT {places} FROM changed) SELECT * FROM changed"
    )
}

impl Store {
    pub(crate) fn event_columns(&self, event: &NewEvent) -> Result<EventColumns, Error> {
        Ok(EventColumns {
            kind: event.kind.as_str(),
            team_id: event
                .team_id
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            subject: printable(&event.subject),
            sandbox_id: event.sandbox_id.as_ref().map(ToString::to_string),
            generation: event.generation.map(stored_generation).transpose()?,
            actor: Arc::clone(&self.actor),
            // NULs are escaped in it, which PostgreSQL takes in text.
            data: bounded_text(&event.data),
            created_at: event.now,
        })
    }
}

impl Transaction<'_> {
    /// Records an event of the transaction's change. Comes last in a transaction: what it locks keeps
    /// all other writers of events waiting.
    pub(crate) async fn record(&mut self, event: &NewEvent) -> Result<(), Error> {
        let places = places(1, COLUMN_COUNT);
        let sql = AssertSqlSafe(format!("INSERT INTO events ({COLUMNS}) VALUES ({places})"));
        let columns = self.store.event_columns(event)?;
        match &mut self.connection {
            Connection::Sqlite(begun) => {
                let query = bind_event!(sqlx::query(sql), columns);
                wait_for_statement(&self.call, query.execute(&mut *begun.connection)).await?;
            }
            Connection::Postgres(begun) => {
                let query = bind_event!(sqlx::query(sql), columns);
                wait_for_statement(&self.call, query.execute(&mut **begun)).await?;
            }
        }
        self.has_events = true;
        Ok(())
    }
}

/// Returns the text of an event's data: without its large fields if it is over [`MAX_DATA`], since
/// readers hold many events at a time.
fn bounded_text(data: &Value) -> String {
    let text = data.to_string();
    if text.len() <= MAX_DATA {
        return text;
    }
    let fields = data.as_object().into_iter().flatten();
    let mut kept: serde_json::Map<String, Value> = fields
        .filter(|(_, value)| value.to_string().len() <= MAX_FIELD)
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    kept.insert("truncated".to_owned(), Value::Bool(true));
    Value::Object(kept).to_string()
}

/// Replaces NULs, which PostgreSQL holds in no text.
fn printable(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}
