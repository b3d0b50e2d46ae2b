//! Wakes readers of events.

use tokio::sync::watch;

use crate::Store;

/// Wakes one reader of events after commits that have some: those of this process, and those of
/// others while [`Store::forward_notifications`] runs. Waking is a hint, and may come twice.
#[derive(Debug)]
pub struct EventsWaker {
    /// Keeps the sender.
    _store: Store,
    commits: watch::Receiver<()>,
}

impl Store {
    /// Returns a waker for events that are recorded from now on.
    #[must_use]
    pub fn events_waker(&self) -> EventsWaker {
        EventsWaker {
            _store: self.clone(),
            commits: self.events_recorded.subscribe(),
        }
    }
}

impl EventsWaker {
    /// Waits until there may be new events.
    pub async fn wait(&mut self) {
        // An error would mean that the sender is gone.
        let _ = self.commits.changed().await;
    }
}
