//! Wakes readers of events.

use sqlx::postgres::PgListener;
use tokio::sync::watch;

use crate::{Backend, Store};

/// Channel of PostgreSQL that the migration notifies.
const CHANNEL: &str = "wrenn_events";

/// Wakes one reader of events after commits that have some. Waking is a hint: it may come twice, and
/// that of another process is missed while there is no connection to the database.
#[derive(Debug)]
pub struct EventsWaker {
    store: Store,
    commits: watch::Receiver<()>,
    listener: Option<PgListener>,
}

impl Store {
    /// Returns a waker for events that are recorded from now on.
    #[must_use]
    pub fn events_waker(&self) -> EventsWaker {
        EventsWaker {
            store: self.clone(),
            commits: self.events_recorded.subscribe(),
            listener: None,
        }
    }
}

impl EventsWaker {
    /// Waits until there may be new events. Over SQLite only commits of this process are noticed.
    pub async fn wait(&mut self) {
        let Self {
            store,
            commits,
            listener,
        } = self;
        tokio::select! {
            // An error would mean that the sender is gone, which is in `store`.
            _ = commits.changed() => {}
            () = notified(store, listener) => {}
        }
    }
}

/// Waits for a notification of PostgreSQL, on a connection that is kept for the next time.
async fn notified(store: &Store, listener: &mut Option<PgListener>) {
    let Backend::Postgres(postgres) = &store.backend else {
        return std::future::pending().await;
    };
    if listener.is_none() {
        match postgres.listen(CHANNEL).await {
            // What was notified before is to be looked for.
            Ok(connected) => *listener = Some(connected),
            Err(error) => {
                tracing::debug!(%error, "not listening for events");
                return std::future::pending().await;
            }
        }
        return;
    }
    let Some(connected) = listener else {
        return;
    };
    // It connects again by itself, and returns then, too: something may have been missed.
    if let Err(error) = connected.try_recv().await {
        tracing::debug!(%error, "not listening for events");
        *listener = None;
        std::future::pending().await
    }
}
