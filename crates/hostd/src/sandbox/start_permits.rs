//! Limits how many VMs start at the same time.
//!
//! | what | how many | from | until |
//! |---|---|---|---|
//! | permit | as many as processors | before network and disk are made | the VM runs |
//! | boot turn | as many as processors | before the permit, for a boot only | the guest agent has answered, or [`BOOT_TURN`] is over |
//!
//! A permit is held for our own work and the VMM's only, all of it with deadlines. A guest that
//! never answers keeps no permit, and so no other sandbox from starting.
//!
//! Boots need the processors until the guest agent answers, and each makes the others slower; and
//! the first of a kind saves the others their boot ([`crate::snapshot::preboot`]). So they take
//! turns, but this is best effort: no boot waits longer than [`TURN_WAIT`], whatever the guests do
//! that have the turns.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// Longest time for which a boot has its turn. Without hardware virtualisation a boot takes some
/// seconds.
const BOOT_TURN: Duration = Duration::from_secs(15);
/// Longest time for which a boot waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(20);

/// Permits and turns of one host.
#[derive(Debug)]
pub struct StartPermits {
    permits: Semaphore,
    boots: Semaphore,
}

/// The turn of a boot; `None` inside for a boot that did not get one, or needs none.
#[derive(Debug)]
pub(super) struct BootTurn<'a>(Option<SemaphorePermit<'a>>);

impl StartPermits {
    /// Creates the permits of a machine with `cpus` processors.
    #[must_use]
    pub fn new(cpus: usize) -> Self {
        Self {
            permits: Semaphore::new(cpus),
            boots: Semaphore::new(cpus),
        }
    }

    /// Waits for the permit to start a VM.
    pub(super) async fn acquire_permit(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.permits.acquire().await.ok()
    }

    /// Waits for the turn of a boot, at most [`TURN_WAIT`].
    pub(super) async fn acquire_boot_turn(&self) -> BootTurn<'_> {
        BootTurn(
            timeout(TURN_WAIT, self.boots.acquire())
                .await
                .ok()
                .and_then(Result::ok),
        )
    }
}

impl BootTurn<'_> {
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Waits for the guest, and releases the turn after [`BOOT_TURN`] at the latest.
    pub(super) async fn hold_during<T>(self, guest: impl Future<Output = T>) -> T {
        let mut guest = std::pin::pin!(guest);
        if self.0.is_some()
            && let Ok(done) = timeout(BOOT_TURN, &mut guest).await
        {
            return done;
        }
        drop(self);
        guest.await
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silent_guest_gives_turn_back() {
        let permits = StartPermits::new(1);
        let begun = Instant::now();
        let silent = async {
            permits
                .acquire_boot_turn()
                .await
                .hold_during(std::future::pending::<()>())
                .await
        };
        let next = async {
            tokio::task::yield_now().await;
            drop(permits.acquire_boot_turn().await);
        };
        tokio::select! {
            () = silent => {}
            () = next => {}
        }
        assert_eq!(begun.elapsed(), BOOT_TURN);
    }

    #[tokio::test(start_paused = true)]
    async fn boot_waits_bounded_time_for_turn() {
        let permits = StartPermits::new(1);
        let taken = permits.acquire_boot_turn().await;
        let begun = Instant::now();
        assert!(permits.acquire_boot_turn().await.0.is_none());
        assert_eq!(begun.elapsed(), TURN_WAIT);
        drop(taken);
    }
}
