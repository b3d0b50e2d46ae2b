//! Events of one client: those of the table that it has not seen, then those of the feed.

use std::collections::VecDeque;

use model::{ErrorCode, EventKind};
use store::{Event, EventQuery, Events, Store};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::{FeedMessage, expired, unknown_cursor};
use crate::error::{Error, Result};

/// Rows of the table that one client holds in memory.
const PAGE: u32 = 100;

/// Events of one client, in order, each once.
#[derive(Debug)]
pub struct EventStream {
    store: Store,
    query: EventQuery,
    /// Id of the client's key.
    key_id: String,
    /// Cursor of the last event that was returned, or passed over.
    after: Option<i64>,
    /// Cursor up to which nothing is missing once `pending` is returned.
    passed: Option<i64>,
    /// Events from the table, to be returned.
    pending: VecDeque<Event>,
    live: Receiver<FeedMessage>,
    /// True if all that is missing comes from the feed.
    caught_up: bool,
}

impl EventStream {
    pub(crate) fn new(
        store: Store,
        query: EventQuery,
        key_id: String,
        after: Option<i64>,
        live: Receiver<FeedMessage>,
    ) -> Self {
        Self {
            store,
            query,
            key_id,
            after,
            passed: None,
            pending: VecDeque::new(),
            live,
            caught_up: false,
        }
    }

    /// Reads a page of the table.
    ///
    /// # Errors
    /// `Expired` if events that it would have returned are not kept any more; `Unauthorized` if the
    /// key was revoked; the store's.
    pub(crate) async fn fill(&mut self) -> Result<()> {
        if !self.store.key_exists(&self.key_id).await? {
            return Err(revoked());
        }
        // Before the page: what is recorded later comes from the feed.
        let last = self.store.event_last().await?;
        match self.store.event_list(&self.query, self.after, PAGE).await? {
            Events::Page(events) => {
                self.caught_up = events.len() < PAGE as usize;
                self.passed = self.caught_up.then_some(last);
                self.pending = events.into();
                Ok(())
            }
            Events::Expired => Err(expired()),
            Events::Unknown => Err(unknown_cursor()),
        }
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// As [`EventStream::fill`]; the end of the control plane.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                self.after = Some(event.cursor);
                return Ok(event);
            }
            if !self.caught_up {
                self.fill().await?;
                continue;
            }
            self.after = self.after.max(self.passed.take());
            let message = match self.live.recv().await {
                Ok(message) => message,
                Err(RecvError::Lagged(_)) => FeedMessage::Gap,
                Err(RecvError::Closed) => return Err(Error::shutting_down()),
            };
            match message {
                FeedMessage::Event(event) if self.is_end_of_key(&event) => return Err(revoked()),
                FeedMessage::Event(event)
                    if self.after.is_some_and(|after| event.cursor <= after) => {}
                FeedMessage::Event(event) => {
                    self.after = Some(event.cursor);
                    if self.query.matches(&event) {
                        return Ok(Event::clone(&event));
                    }
                }
                FeedMessage::Gap => self.caught_up = false,
            }
        }
    }

    /// Returns the cursor up to which all was returned or passed over; `None` if nothing was.
    #[must_use]
    pub const fn position(&self) -> Option<i64> {
        self.after
    }

    fn is_end_of_key(&self, event: &Event) -> bool {
        event.kind == EventKind::KeyDeleted.as_str() && event.subject == self.key_id
    }
}

fn revoked() -> Error {
    let text = "the key was revoked; use another one";
    Error::new(ErrorCode::Unauthorized, text)
}
