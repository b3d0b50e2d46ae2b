//! Calls that several requests wait for at once: one is made, and all of them get its outcome.

use std::collections::BTreeMap;
use std::fmt;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;

use crate::error::Result;

type Call<T> = BoxFuture<'static, Result<T>>;

/// Calls under way, by key. A call ends with the last request that waits for it.
pub struct SharedCalls<K, T: Clone>(Mutex<BTreeMap<K, WeakShared<Call<T>>>>);

impl<K, T: Clone> fmt::Debug for SharedCalls<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedCalls(…)")
    }
}

impl<K, T: Clone> Default for SharedCalls<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord, T: Clone> SharedCalls<K, T> {
    /// Waits for the call of `key` that is under way, or makes `call` if there is none.
    ///
    /// # Errors
    /// The call's.
    pub async fn join_call(
        &self,
        key: K,
        call: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.find_or_insert(key, call).await
    }

    fn find_or_insert(
        &self,
        key: K,
        call: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Shared<Call<T>> {
        let mut calls = self.0.lock();
        // Without a waiting request, or ended.
        calls.retain(|_, call| call.upgrade().is_some_and(|call| call.peek().is_none()));
        if let Some(call) = calls.get(&key).and_then(WeakShared::upgrade) {
            return call;
        }
        let call = call.boxed().shared();
        if let Some(weak) = call.downgrade() {
            calls.insert(key, weak);
        }
        call
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::future::{join_all, pending};

    use super::*;
    use crate::error::Error;

    #[tokio::test(start_paused = true)]
    async fn waiting_requests_share_one_call() {
        let calls = SharedCalls::default();
        let made = Arc::new(AtomicUsize::new(0));
        let call = || {
            let made = Arc::clone(&made);
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                match made.fetch_add(1, Ordering::Relaxed) {
                    0 => Err(Error::invalid("first")),
                    number => Ok(number),
                }
            }
        };
        let first = join_all((0..9).map(|_| calls.join_call("a", call()))).await;
        assert!(
            first
                .iter()
                .all(|got| got.as_ref().unwrap_err().message == "first")
        );
        // The next caller asks again after a failure.
        assert_eq!(calls.join_call("a", call()).await.unwrap(), 1);
        let other = tokio::join!(calls.join_call("a", call()), calls.join_call("b", call()));
        assert!(other.0.unwrap() != other.1.unwrap());
    }

    #[tokio::test]
    async fn abandoned_call_is_forgotten() {
        let calls: SharedCalls<&str, ()> = SharedCalls::default();
        assert!(calls.join_call("a", pending()).now_or_never().is_none());
        calls.join_call("a", async { Ok(()) }).await.unwrap();
        assert_eq!(calls.0.lock().len(), 1);
        calls.join_call("b", async { Ok(()) }).await.unwrap();
        assert_eq!(calls.0.lock().len(), 1);
    }
}
