//! Events of one client: those of the table that it has not seen, then those of the feed.

use std::collections::VecDeque;

use store::{Event, EventQuery, Events, Store};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::{SharedEvent, expired};
use crate::error::{Error, Result};

/// Rows of the table that one client holds in memory.
const PAGE: u32 = 100;

/// Events of one client, in order, each once.
#[derive(Debug)]
pub struct EventStream {
    store: Store,
    query: EventQuery,
    /// Cursor of the last event that was returned, or passed over.
    after: Option<i64>,
    /// Events from the table, to be returned.
    pending: VecDeque<Event>,
    live: Receiver<SharedEvent>,
    /// True if all that is missing comes from the feed.
    caught_up: bool,
}

impl EventStream {
    pub(crate) fn new(
        store: Store,
        query: EventQuery,
        after: Option<i64>,
        live: Receiver<SharedEvent>,
    ) -> Self {
        Self {
            store,
            query,
            after,
            pending: VecDeque::new(),
            live,
            caught_up: false,
        }
    }

    /// Reads a page of the table.
    ///
    /// # Errors
    /// `Expired` if events that it would have returned are not kept any more; the store's.
    pub(crate) async fn fill(&mut self) -> Result<()> {
        match self.store.event_list(&self.query, self.after, PAGE).await? {
            Events::Page(events) => {
                self.caught_up = events.len() < PAGE as usize;
                self.pending = events.into();
                Ok(())
            }
            Events::Expired => Err(expired()),
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
            match self.live.recv().await {
                Ok(event) if self.after.is_some_and(|after| event.cursor <= after) => {}
                Ok(event) => {
                    self.after = Some(event.cursor);
                    if self.query.matches(&event) {
                        return Ok(Event::clone(&event));
                    }
                }
                Err(RecvError::Lagged(_)) => self.caught_up = false,
                Err(RecvError::Closed) => return Err(Error::shutting_down()),
            }
        }
    }
}
