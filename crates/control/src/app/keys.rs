//! Whose turn it is among requests with one idempotency key.
//!
//! Each finds what the one before it has left, whole or not at all. If they were at it together,
//! one could fail and take away what the other was just told of, or each could choose another host.
//! Requests of one control plane only: those of another one, and of one that died, meet each
//! other's rows, and what runs is not given up (`sandbox_delete::give_up`).

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use store::Idempotency;
use tokio::sync::{Mutex as Turns, OwnedMutexGuard};

/// Id of the API key, and the idempotency key.
type Key = (String, String);

/// Keys of requests that are being carried out.
#[derive(Debug, Default)]
pub struct Keys(Mutex<BTreeMap<Key, Weak<Turns<()>>>>);

impl Keys {
    /// Waits until no earlier request with this key is under way, and keeps later ones waiting as
    /// long as what it gives is held.
    pub async fn turn(
        &self,
        key_id: &str,
        idempotency: Option<&Idempotency>,
    ) -> Option<OwnedMutexGuard<()>> {
        let turns = self.turns((key_id.to_owned(), idempotency?.key.clone()));
        Some(turns.lock_owned().await)
    }

    fn turns(&self, key: Key) -> Arc<Turns<()>> {
        let mut keys = self.0.lock();
        keys.retain(|_, turns| turns.strong_count() > 0);
        if let Some(turns) = keys.get(&key).and_then(Weak::upgrade) {
            return turns;
        }
        let turns = Arc::default();
        keys.insert(key, Arc::downgrade(&turns));
        turns
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
    async fn one_key_is_one_at_a_time() {
        let keys = Keys::default();
        let first = keys.turn("user", Some(&key("a"))).await;
        assert!(keys.turn("user", Some(&key("b"))).now_or_never().is_some());
        assert!(keys.turn("other", Some(&key("a"))).now_or_never().is_some());
        assert!(keys.turn("user", None).now_or_never().is_some());
        assert!(keys.turn("user", Some(&key("a"))).now_or_never().is_none());
        drop(first);
        assert!(keys.turn("user", Some(&key("a"))).now_or_never().is_some());
        drop(keys.turn("user", Some(&key("c"))).await);
        assert_eq!(keys.0.lock().len(), 1, "what nobody holds is forgotten");
    }
}
