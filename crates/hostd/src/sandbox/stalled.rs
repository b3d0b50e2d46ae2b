//! Stall of a sandbox on disk pressure ([`crate::disk::room`]).

use tokio::sync::watch;

/// Reason for which a sandbox is stalled, while it is. Programs in it wait, as for a slow disk;
/// calls to its guest are refused, so that their callers do not.
#[derive(Debug, Default)]
pub struct Stalled(watch::Sender<Option<String>>);

impl Stalled {
    /// Returns the reason; `None` while the sandbox runs.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Waits until the sandbox is stalled, which may be now, and returns the reason.
    pub async fn wait_until_stalled(&self) -> String {
        let mut changes = self.0.subscribe();
        // The sender is in `self`, so the wait ends with a value.
        let reason = changes.wait_for(Option::is_some).await;
        reason.map_or_else(
            |_| String::new(),
            |reason| reason.clone().unwrap_or_default(),
        )
    }

    /// Sets or clears the reason.
    pub fn set(&self, reason: Option<&str>) {
        self.0.send_replace(reason.map(str::to_owned));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn waiter_is_told_when_stalled() {
        let stalled = Arc::new(Stalled::default());
        let waiting = Arc::clone(&stalled);
        let waiter = tokio::spawn(async move { waiting.wait_until_stalled().await });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished() && stalled.reason().is_none());
        stalled.set(Some("full"));
        assert_eq!(waiter.await.unwrap(), "full");
        assert_eq!(stalled.wait_until_stalled().await, "full");
        stalled.set(None);
        assert_eq!(stalled.reason(), None);
    }
}
