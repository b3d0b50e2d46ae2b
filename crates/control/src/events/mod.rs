//! Live events.
//!
//! ```text
//! commit ──→ table events ←── EventStream: pages, when it is behind
//!    └ wakes ─→ feed ─ broadcast ─→ EventStream … (one for each client)
//! ```
//!
//! One task of the process, the feed, reads new rows once for all clients: it is woken by commits of
//! this process, by those of others through the database (`LISTEN`), and looks every few seconds in
//! case that both were missed. It hands the rows to all streams by a bounded queue. A client that is
//! too slow for the queue loses nothing: its stream reads the table again from its own cursor, as it
//! does at its beginning. What a stream gets twice it knows by the cursor.
//!
//! A stream ends with its key: the feed passes the event of the deletion, and a stream that reads the
//! table looks for the key.
//!
//! Nothing here is stored: a client that lost its connection comes again with its cursor, to
//! whichever control plane.

mod stream;

use std::sync::Arc;

use model::ErrorCode;
use store::Event;
use tokio::sync::broadcast;

use crate::error::Error;

pub use stream::EventStream;

/// An event on its way to all streams.
pub(crate) type SharedEvent = Arc<Event>;

/// Events that a slow stream may be behind before it reads the table: some hundred KiB, and 8 MiB
/// where all of them are as large as they can be, shared by all streams.
const QUEUE: usize = 1024;

/// Message of the feed to all streams.
#[derive(Debug, Clone)]
pub(crate) enum FeedMessage {
    Event(SharedEvent),
    /// The feed does not know what it has passed over: the table has it.
    Gap,
}

/// Queue from the feed to all streams.
#[derive(Debug)]
pub struct LiveEvents(pub(crate) broadcast::Sender<FeedMessage>);

impl Default for LiveEvents {
    fn default() -> Self {
        Self(broadcast::Sender::new(QUEUE))
    }
}

impl LiveEvents {
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<FeedMessage> {
        self.0.subscribe()
    }
}

/// How much history of events is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventSettings {
    pub keep_days: u32,
    pub max_rows: u64,
}

impl EventSettings {
    /// As long as people look for what happened.
    pub const DEFAULT_KEEP_DAYS: u32 = 30;
    /// Some hundred MiB, with their indexes.
    pub const DEFAULT_MAX_ROWS: u64 = 1_000_000;
    pub const MAX_KEEP_DAYS: u32 = 3650;
    pub const MAX_ROWS: u64 = 1_000_000_000;
}

impl Default for EventSettings {
    fn default() -> Self {
        Self {
            keep_days: Self::DEFAULT_KEEP_DAYS,
            max_rows: Self::DEFAULT_MAX_ROWS,
        }
    }
}

pub(crate) fn expired() -> Error {
    let text = "some of the events behind this cursor are not kept any more; leave out the cursor to begin with the \
                oldest one (CP_EVENTS_KEEP_DAYS and CP_EVENTS_MAX_ROWS say how long they are kept)";
    Error::new(ErrorCode::Expired, text)
}

pub(crate) fn unknown_cursor() -> Error {
    let text = "no event has this cursor: it is of a database that was replaced by an older backup, or of another one; \
                leave out the cursor to begin with the oldest event, and read anew what you keep of sandboxes";
    Error::new(ErrorCode::Expired, text)
}

/// Returns the id of an event, which no other event has, also after an older database was restored.
#[must_use]
pub fn event_id(event: &Event) -> String {
    format!("evt-{:x}-{:x}", event.created_at, event.cursor)
}
