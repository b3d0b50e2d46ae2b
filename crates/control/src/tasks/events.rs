//! The task that reads new events for all streams, and deletes old ones.

use std::sync::Arc;
use std::time::Duration;

use stdx::time::now_ms;
use store::{EventQuery, Events, EventsBound, EventsWaker};

use crate::app::App;
use crate::error::Result;
use crate::events::{EventSettings, FeedMessage};

/// Rows read at once.
const PAGE: u32 = 500;
/// Interval of looks for events that nothing woke us for: of other programs over SQLite, or while
/// the connection that listens is being made again.
const POLL: Duration = Duration::from_secs(5);
/// Interval of deletions of old events.
const TRIM_EVERY: Duration = Duration::from_secs(600);
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Feeds `app.events` until the end of the process.
pub(super) async fn run_feed(app: Arc<App>, settings: EventSettings) {
    let work = async {
        tokio::join!(feed(&app), trim(&app, settings));
    };
    tokio::select! {
        () = work => {}
        () = app.shutdown.cancelled() => {}
    }
}

async fn feed(app: &App) {
    let mut waker = app.store.events_waker();
    let mut position = None;
    let mut is_failing = false;
    loop {
        match send_new(app, position).await {
            Ok(reached) => {
                position = Some(reached);
                is_failing = false;
            }
            Err(error) if !is_failing => {
                tracing::warn!(error = error.chain(), "new events cannot be read");
                is_failing = true;
            }
            Err(_) => {}
        }
        wait(&mut waker).await;
    }
}

async fn wait(waker: &mut EventsWaker) {
    let _ = tokio::time::timeout(POLL, waker.wait()).await;
}

/// Sends the events behind `position` to all streams. Returns the last cursor.
async fn send_new(app: &App, position: Option<i64>) -> Result<i64> {
    // At the start: streams read what was before from the table.
    let Some(mut position) = position else {
        return skip_to_last(app).await;
    };
    loop {
        let query = EventQuery::default();
        match app.store.event_list(&query, Some(position), PAGE).await? {
            Events::Page(events) => {
                let is_last = events.len() < PAGE as usize;
                for event in events {
                    position = event.cursor;
                    // An error: nobody listens.
                    let _ = app.events.0.send(FeedMessage::Event(Arc::new(event)));
                }
                if is_last {
                    return Ok(position);
                }
            }
            // Too slow for the bound; streams that miss the events are told by the table.
            Events::Expired | Events::Unknown => return skip_to_last(app).await,
        }
    }
}

/// Returns the last cursor. Streams that have read the table before read it again.
async fn skip_to_last(app: &App) -> Result<i64> {
    let last = app.store.event_last().await?;
    let _ = app.events.0.send(FeedMessage::Gap);
    Ok(last)
}

/// Deletes old events from time to time. Several control planes may do it at once.
async fn trim(app: &App, settings: EventSettings) {
    loop {
        if let Err(error) = trim_all(app, settings).await {
            tracing::warn!(error = error.chain(), "old events are not deleted");
        }
        tokio::time::sleep(TRIM_EVERY).await;
    }
}

async fn trim_all(app: &App, settings: EventSettings) -> Result<()> {
    let bound = EventsBound {
        before: now_ms() - i64::from(settings.keep_days) * DAY_MS,
        rows: settings.max_rows,
    };
    app.store.event_trim(bound).await?;
    Ok(())
}
