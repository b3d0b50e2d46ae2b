//! What other processes have changed, as PostgreSQL notifies: one connection listens to all
//! channels, and wakes those who wait in this process. A database file of SQLite has one control
//! plane, and nothing to listen to.
//!
//! Waking is a hint. Notifications are missed while there is no connection; after each new one, all
//! are woken, and look.

use std::time::Duration;

use crate::postgres::Postgres;
use crate::{Backend, Store};

/// Channel with ids of sandboxes, which triggers of the schema notify.
const SANDBOXES: &str = "wrenn_sandboxes";
/// Channel that each new event notifies.
const EVENTS: &str = "wrenn_events";
/// Time between two attempts to listen.
const RETRY: Duration = Duration::from_secs(1);

impl Store {
    /// Wakes those who wait for changes and events of other processes, for ever. With SQLite there
    /// are no others.
    pub async fn forward_notifications(&self) {
        let Backend::Postgres(postgres) = &self.backend else {
            return std::future::pending().await;
        };
        loop {
            if let Err(error) = self.forward_once(postgres).await {
                tracing::debug!(%error, "cannot listen for changes");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Listens until the connection breaks for longer than the driver tries.
    async fn forward_once(&self, postgres: &Postgres) -> Result<(), sqlx::Error> {
        let mut listener = postgres.listen(&[SANDBOXES, EVENTS]).await?;
        self.wake_all();
        loop {
            match listener.try_recv().await? {
                Some(notification) if notification.channel() == EVENTS => {
                    self.events_recorded.send_replace(());
                }
                Some(notification) => match notification.payload().parse() {
                    Ok(id) => self.changes.publish(&id),
                    Err(_) => self.changes.publish_all(),
                },
                // The connection broke, and there is another one.
                None => self.wake_all(),
            }
        }
    }

    fn wake_all(&self) {
        self.changes.publish_all();
        self.events_recorded.send_replace(());
    }
}
