//! Changes of sandboxes, for those who wait for them: a wake-up for the id, and no more. Whoever is
//! woken reads the row.
//!
//! Each write of this process wakes at once. Those of other control planes come from PostgreSQL:
//! see `notifications`.

use std::collections::HashMap;
use std::sync::Arc;

use model::SandboxId;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::Store;

/// Everyone in this process who waits for a change.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes(Arc<Waiters>);

#[derive(Debug)]
struct Waiters {
    by_id: Mutex<HashMap<SandboxId, watch::Sender<()>>>,
    ends: watch::Sender<()>,
}

impl Default for Waiters {
    fn default() -> Self {
        Self {
            by_id: Mutex::default(),
            ends: watch::Sender::new(()),
        }
    }
}

/// A wait for changes of one sandbox.
#[derive(Debug)]
pub struct ChangeWaiter {
    id: SandboxId,
    changes: Changes,
    receiver: watch::Receiver<()>,
}

impl ChangeWaiter {
    /// Waits for a change since the last call, or since the waiter was made.
    pub async fn changed(&mut self) {
        // The sender lives as long as its entry, which this waiter keeps.
        let _ = self.receiver.changed().await;
    }
}

impl Drop for ChangeWaiter {
    fn drop(&mut self) {
        let mut by_id = self.changes.0.by_id.lock();
        // This receiver is one of those that are counted.
        if by_id
            .get(&self.id)
            .is_some_and(|sender| sender.receiver_count() <= 1)
        {
            by_id.remove(&self.id);
        }
    }
}

impl Changes {
    pub(crate) fn publish(&self, id: &SandboxId) {
        if let Some(sender) = self.0.by_id.lock().get(id) {
            sender.send_replace(());
        }
    }

    /// Wakes the waiter for ends: this process gave a sandbox another one.
    pub(crate) fn publish_end(&self) {
        self.0.ends.send_replace(());
    }

    /// Wakes all: what changed is not known.
    pub(crate) fn publish_all(&self) {
        for sender in self.0.by_id.lock().values() {
            sender.send_replace(());
        }
    }
}

impl Store {
    /// Begins to wait for changes of a sandbox: its row is read after this.
    #[must_use]
    pub fn watch_sandbox(&self, id: &SandboxId) -> ChangeWaiter {
        let mut by_id = self.changes.0.by_id.lock();
        let sender = by_id
            .entry(id.clone())
            .or_insert_with(|| watch::Sender::new(()));
        ChangeWaiter {
            id: id.clone(),
            receiver: sender.subscribe(),
            changes: self.changes.clone(),
        }
    }

    /// Returns a receiver that changes whenever this process gives a sandbox another end.
    #[must_use]
    pub fn watch_ends(&self) -> watch::Receiver<()> {
        self.changes.0.ends.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiters_leave_no_entry_behind() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/wrenn.db", directory.path().display());
        let store = Store::open(&url).await.unwrap();
        let id = SandboxId::random();
        let mut first = store.watch_sandbox(&id);
        let second = store.watch_sandbox(&id);
        store.changes.publish(&id);
        first.changed().await;
        drop(second);
        store.changes.publish(&id);
        first.changed().await;
        drop(first);
        assert!(store.changes.0.by_id.lock().is_empty());
    }
}
