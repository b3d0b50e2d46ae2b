//! Lock on the name of a snapshot. Creates and deletions of one name come one after the other,
//! whichever control plane they were sent to: a deletion between the two steps of a create would
//! leave a snapshot that belongs to no team.
//!
//! The lock is a row of the database with a lease that its holder renews. If the control plane dies,
//! the lease ends, and the next request goes on; the host may still be busy with the first one then.
//! A holder that cannot renew in time releases no claim any more (`store::snapshots`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use model::{ErrorCode, TeamId, TemplateName};
use store::Store;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::error::{Error, Result};

/// Time after which the lock of a control plane that died is free: several times what a database
/// that is busy takes for a statement.
const LEASE: Duration = Duration::from_secs(5);
/// Time between two renewals: some may fail before the lease ends.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Time that a request waits for the one before it: longer than a lease, so that no request is
/// refused because of a control plane that died.
const WAIT: Duration = Duration::from_secs(8);
/// Time between two tries. Nothing tells a waiter that the lock is free.
const TRY_EVERY: Duration = Duration::from_millis(50);

/// Lock on a name, until it is released. One that is dropped instead ends with its lease.
#[derive(Debug)]
pub(super) struct SnapshotLock {
    store: Store,
    name: TemplateName,
    holder: String,
    is_lost: Arc<AtomicBool>,
    renewal: JoinHandle<()>,
}

impl SnapshotLock {
    /// Waits until no other request holds the name.
    ///
    /// # Errors
    /// `Conflict` if it takes too long; the store's.
    pub(super) async fn acquire(store: &Store, name: &TemplateName) -> Result<Self> {
        let holder = stdx::random::hex::<16>();
        let deadline = Instant::now() + WAIT;
        while !store.snapshot_lock(name, &holder, LEASE).await? {
            if Instant::now() >= deadline {
                let text = format!(
                    "another request creates or deletes the snapshot {name}; try again when it has ended"
                );
                return Err(Error::new(ErrorCode::Conflict, text));
            }
            tokio::time::sleep(TRY_EVERY).await;
        }
        let is_lost = Arc::default();
        let renewal = renew(
            store.clone(),
            name.clone(),
            holder.clone(),
            Arc::clone(&is_lost),
        );
        Ok(Self {
            store: store.clone(),
            name: name.clone(),
            holder,
            is_lost,
            renewal: tokio::spawn(renewal),
        })
    }

    /// Returns true if another request may have taken the name since.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    /// Releases the claim of a team on the name. A claim that cannot be released stays: its team can
    /// use the name, and no other one.
    pub(super) async fn release_claim(&self, team: &TeamId) {
        let released = self.store.snapshot_release(team, &self.name, &self.holder);
        if let Err(error) = released.await {
            let error = Error::from(error);
            tracing::warn!(template = %self.name, error = error.chain(), "a claim on a name stays");
        }
    }

    /// Unlocks the name.
    pub(super) async fn release(self) {
        self.renewal.abort();
        if let Err(error) = self.store.snapshot_unlock(&self.name, &self.holder).await {
            let error = Error::from(error);
            tracing::warn!(template = %self.name, error = error.chain(), "a lock ends with its lease");
        }
    }
}

impl Drop for SnapshotLock {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Renews a lock until it is lost.
async fn renew(store: Store, name: TemplateName, holder: String, is_lost: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        match store.snapshot_lock_renew(&name, &holder, LEASE).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                let error = Error::from(error);
                tracing::warn!(template = %name, error = error.chain(), "a lock was not renewed");
            }
        }
    }
    tracing::warn!(template = %name, "another request took the lock on a name");
    is_lost.store(true, Ordering::Relaxed);
}
