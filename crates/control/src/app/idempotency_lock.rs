//! Serializes requests with one idempotency key, so that each finds what the one before it has left,
//! whole or not at all. Together, one could fail and remove what the other was just told of, or each
//! could choose another host.
//!
//! Requests of one control plane only: those of another one, and of one that died, meet each other's
//! rows, and what runs is not rolled back (`sandbox_delete`).

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use store::Idempotency;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Id of the API key, and the idempotency key.
type Key = (String, String);

/// Locks of requests that are being carried out.
#[derive(Debug, Default)]
pub struct IdempotencyLocks(Mutex<BTreeMap<Key, Weak<AsyncMutex<()>>>>);

impl IdempotencyLocks {
    /// Waits until no earlier request with this key is under way; later ones wait until the guard is
    /// dropped. `None` without a key.
    pub async fn acquire(
        &self,
        key_id: &str,
        idempotency: Option<&Idempotency>,
    ) -> Option<OwnedMutexGuard<()>> {
        let lock = self.lock_for((key_id.to_owned(), idempotency?.key.clone()));
        Some(lock.lock_owned().await)
    }

    fn lock_for(&self, key: Key) -> Arc<AsyncMutex<()>> {
        let mut keys = self.0.lock();
        keys.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = keys.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        keys.insert(key, Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn key(key: &str) -> Idempotency {
        Idempotency {
            key: key.to_owned(),
            fingerprint: [0; 32],
        }
    }

    #[tokio::test]
    async fn requests_with_one_key_wait() {
        let keys = IdempotencyLocks::default();
        let first = keys.acquire("user", Some(&key("a"))).await;
        assert!(
            keys.acquire("user", Some(&key("b")))
                .now_or_never()
                .is_some()
        );
        assert!(
            keys.acquire("other", Some(&key("a")))
                .now_or_never()
                .is_some()
        );
        assert!(keys.acquire("user", None).now_or_never().is_some());
        assert!(
            keys.acquire("user", Some(&key("a")))
                .now_or_never()
                .is_none()
        );
        drop(first);
        assert!(
            keys.acquire("user", Some(&key("a")))
                .now_or_never()
                .is_some()
        );
        drop(keys.acquire("user", Some(&key("c"))).await);
        assert_eq!(keys.0.lock().len(), 1, "unused locks are forgotten");
    }
}
