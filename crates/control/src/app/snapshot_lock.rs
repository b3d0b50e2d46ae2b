//! Lock on the name of a snapshot. Creates and deletions of one name come one after the other,
//! whichever control plane they were sent to: a deletion between the two steps of a create would
//! leave a snapshot that belongs to no team.
//!
//! The lock is a row of the database with a lease that its holder renews. If the control plane dies,
//! the lease ends, and the next request goes on; the host may still be busy with the first one then.
//! A lock whose host did not say what became of the call ends with its lease, too. A holder that
//! cannot renew in time releases no claim any more (`store::snapshots`).

use std::time::Duration;

use model::{ErrorCode, TeamId, TemplateName};
use store::Store;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::hosts;

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
                    "another request creates or deletes the template {name}; try again when it has ended"
                );
                return Err(Error::new(ErrorCode::Conflict, text));
            }
            tokio::time::sleep(TRY_EVERY).await;
        }
        let renewal = renew(store.clone(), name.clone(), holder.clone());
        Ok(Self {
            store: store.clone(),
            name: name.clone(),
            holder,
            renewal: tokio::spawn(renewal),
        })
    }

    /// Renews the lock. Returns false if another request may have taken the name since.
    pub(super) async fn is_held(&self) -> bool {
        try_renew(&self.store, &self.name, &self.holder).await == Some(true)
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

    /// Unlocks the name after a call to a host failed: at once if the host refused, otherwise when
    /// the lease ends, since the host may still be busy with it.
    pub(super) async fn release_after(self, error: &Error) {
        if hosts::is_refusal(error) {
            return self.release().await;
        }
        self.renewal.abort();
        try_renew(&self.store, &self.name, &self.holder).await;
        tracing::warn!(template = %self.name, "a host may be busy with a snapshot; its lock ends with its lease");
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
async fn renew(store: Store, name: TemplateName, holder: String) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        if try_renew(&store, &name, &holder).await == Some(false) {
            break;
        }
    }
    tracing::warn!(template = %name, "another request took the lock on a name");
}

/// Renews a lock once. Returns false if it is lost, `None` if the database does not tell.
async fn try_renew(store: &Store, name: &TemplateName, holder: &str) -> Option<bool> {
    match store.snapshot_lock_renew(name, holder, LEASE).await {
        Ok(is_held) => Some(is_held),
        Err(error) => {
            let error = Error::from(error);
            tracing::warn!(template = %name, error = error.chain(), "a lock was not renewed");
            None
        }
    }
}
