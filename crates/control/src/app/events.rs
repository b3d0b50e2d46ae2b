//! Events: records those of changes that only hosts have, and reads them all.

use model::{EventKind, Resource, SandboxId};
use serde_json::Value;
use stdx::time::now_ms;
use store::{Event, EventQuery, Events, NewEvent};

use super::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::events::{EventStream, expired, unknown_cursor};

/// Selection of events by a user.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Empty: all.
    pub kinds: Vec<EventKind>,
    pub sandbox: Option<SandboxId>,
    /// Time of the oldest one, in milliseconds since the Unix epoch.
    pub since: Option<i64>,
}

/// Events of one page.
#[derive(Debug)]
pub struct EventPage {
    pub events: Vec<Event>,
    /// Cursor behind which the next ones come, now or later.
    pub next: i64,
}

impl App {
    /// Returns events of the team behind a cursor, oldest first; operators also see those of the
    /// installation.
    ///
    /// # Errors
    /// `Expired` if some of them are not kept any more, or the cursor is of none.
    pub async fn list_events(
        &self,
        principal: &Principal,
        filter: EventFilter,
        after: Option<i64>,
        limit: u32,
    ) -> Result<EventPage> {
        principal.require_read(Resource::Events)?;
        let query = visible(principal, filter);
        // Before the page: what is recorded later is behind it.
        let last = self.store.event_last().await?;
        let events = match self.store.event_list(&query, after, limit).await? {
            Events::Page(events) => events,
            Events::Expired => return Err(expired()),
            Events::Unknown => return Err(unknown_cursor()),
        };
        let is_full = events.len() == limit as usize;
        let end = events.last().map(|event| event.cursor);
        let next = match end {
            Some(end) if is_full => end,
            // Nothing between is selected, so the next page need not look there again.
            end => last.max(end.unwrap_or(0)).max(after.unwrap_or(0)),
        };
        Ok(EventPage { events, next })
    }

    /// Returns the events behind a cursor and then those that come; without a cursor, or a time to
    /// begin at, the latter alone.
    ///
    /// # Errors
    /// `Expired` if some of them are not kept any more, or the cursor is of none; the store's.
    pub async fn follow_events(
        &self,
        principal: &Principal,
        filter: EventFilter,
        after: Option<i64>,
    ) -> Result<EventStream> {
        principal.require_read(Resource::Events)?;
        let from_oldest = filter.since.is_some();
        let query = visible(principal, filter);
        // Subscribed first: what is recorded from now on is in one or the other.
        let live = self.events.subscribe();
        let after = match after {
            Some(after) => Some(after),
            None if from_oldest => None,
            None => Some(self.store.event_last().await?),
        };
        let mut stream = EventStream::new(
            self.store.clone(),
            query,
            principal.key_id.clone(),
            after,
            live,
        );
        stream.fill().await?;
        Ok(stream)
    }

    /// Records an event of a change that a host has made. The change is made, so that a failure is
    /// logged and no more.
    pub(super) async fn record_event(
        &self,
        principal: &Principal,
        kind: EventKind,
        subject: &str,
        sandbox: Option<&SandboxId>,
        data: Value,
    ) {
        let event = NewEvent {
            kind,
            team_id: Some(principal.team_id.clone()),
            subject: subject.to_owned(),
            sandbox_id: sandbox.cloned(),
            generation: None,
            data,
            now: now_ms(),
        };
        let store = self.store.acting_for(principal.actor());
        if let Err(error) = store.event_record(&event).await {
            let error = Error::from(error);
            tracing::warn!(%kind, subject, error = error.chain(), "an event is not recorded");
        }
    }
}

/// Returns the query for what a caller may see of a selection.
fn visible(principal: &Principal, filter: EventFilter) -> EventQuery {
    EventQuery {
        team: Some(principal.team_id.clone()),
        with_installation: principal.is_operator(),
        kinds: filter.kinds,
        sandbox: filter.sandbox,
        since: filter.since,
    }
}
