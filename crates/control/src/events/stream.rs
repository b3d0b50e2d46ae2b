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

/// Where the next events come from, once those in memory are returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// A reading of the table, which has not begun.
    Table,
    /// The next page of a reading that began when `last` was the cursor of the last event.
    NextPage { last: i64 },
    /// The feed. Of what lies up to `passed` nothing is missing.
    Feed { passed: i64 },
}

/// Events of one client, in order, each once.
#[derive(Debug)]
pub struct EventStream {
    store: Store,
    query: EventQuery,
    /// Id of the client's key.
    key_id: String,
    /// Cursor of the last event that was returned, or passed over.
    after: Option<i64>,
    /// Events from the table, to be returned.
    pending: VecDeque<Event>,
    live: Receiver<FeedMessage>,
    source: Source,
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
            pending: VecDeque::new(),
            live,
            source: Source::Table,
        }
    }

    /// Reads a page of the table.
    ///
    /// # Errors
    /// `Expired` if events that it would have returned are not kept any more; `Unauthorized` if the
    /// key was revoked; the store's.
    pub(crate) async fn fill(&mut self) -> Result<()> {
        let (last, is_first) = match self.source {
            Source::NextPage { last } => (last, false),
            Source::Table | Source::Feed { .. } => {
                self.check_key().await?;
                // Before the first page: what is recorded later is on a page or comes from the feed.
                (self.store.event_last().await?, true)
            }
        };
        let events = match self.store.event_list(&self.query, self.after, PAGE).await? {
            Events::Page(events) => events,
            Events::Expired => return Err(expired()),
            Events::Unknown => return Err(unknown_cursor()),
        };
        let is_last = events.len() < PAGE as usize;
        if is_last && !is_first {
            // It may be long since the first page.
            self.check_key().await?;
        }
        self.source = match is_last {
            true => Source::Feed { passed: last },
            false => Source::NextPage { last },
        };
        self.pending = events.into();
        Ok(())
    }

    async fn check_key(&self) -> Result<()> {
        match self.store.key_exists(&self.key_id).await? {
            true => Ok(()),
            false => Err(revoked()),
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
            let Source::Feed { passed } = self.source else {
                self.fill().await?;
                continue;
            };
            self.after = self.after.max(Some(passed));
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
                FeedMessage::Gap => self.source = Source::Table,
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

#[cfg(test)]
mod tests {
    use store::Actor;

    use super::*;
    use crate::auth;
    use crate::events::LiveEvents;

    async fn stream_of(store: &Store, live: &LiveEvents, key_id: &str) -> EventStream {
        let query = EventQuery::default();
        let last = store.event_last().await.unwrap();
        let receiver = live.subscribe();
        EventStream::new(
            store.clone(),
            query,
            key_id.to_owned(),
            Some(last),
            receiver,
        )
    }

    /// Records events, and sends them as the feed does.
    async fn record(store: &Store, live: &LiveEvents, count: usize) -> Vec<i64> {
        let after = store.event_last().await.unwrap();
        for _ in 0..count {
            auth::create_key(store, "of an event").await.unwrap();
        }
        let query = EventQuery::default();
        let limit = u32::try_from(count).unwrap();
        let found = store.event_list(&query, Some(after), limit).await.unwrap();
        let Events::Page(events) = found else {
            panic!("expired");
        };
        let cursors = events.iter().map(|event| event.cursor).collect();
        for event in events {
            live.0.send(FeedMessage::Event(event.into())).unwrap();
        }
        cursors
    }

    async fn store() -> (tempfile::TempDir, Store, String) {
        let directory = tempfile::tempdir().unwrap();
        let url = crate::config::sqlite_in(directory.path());
        let store = Store::open(&url).await.unwrap();
        store.migrate().await.unwrap();
        let store = store.acting_for(Actor::local(Actor::OPERATOR));
        let (key, _) = auth::create_key(&store, "of the stream").await.unwrap();
        (directory, store, key.id)
    }

    #[tokio::test]
    async fn lagged_stream_reads_table_once() {
        let (_directory, store, key) = store().await;
        // Shorter than what comes, of which the table has several pages.
        let live = LiveEvents(tokio::sync::broadcast::Sender::new(16));
        let mut stream = stream_of(&store, &live, &key).await;
        stream.fill().await.unwrap();
        assert!(matches!(stream.source, Source::Feed { .. }));
        let cursors = record(&store, &live, 3 * PAGE as usize + 7).await;
        let mut got = Vec::new();
        for _ in &cursors {
            got.push(stream.next().await.unwrap().cursor);
        }
        assert_eq!(got, cursors);
        // Events that are still in the queue are not returned again.
        let later = record(&store, &live, 1).await;
        assert_eq!(stream.next().await.unwrap().cursor, later[0]);
    }

    #[tokio::test]
    async fn lagged_stream_ends_with_key() {
        let (_directory, store, key) = store().await;
        let live = LiveEvents(tokio::sync::broadcast::Sender::new(1));
        let mut stream = stream_of(&store, &live, &key).await;
        stream.fill().await.unwrap();
        // The last key cannot be revoked.
        auth::create_key(&store, "another one").await.unwrap();
        auth::revoke_key(&store, &key).await.unwrap();
        // The event of the deletion is pushed out of the queue.
        record(&store, &live, 3).await;
        let error = stream.next().await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Unauthorized);
    }
}
