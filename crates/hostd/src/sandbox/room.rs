//! Keeps the disk of a running sandbox from running into a full disk of the host; what that means,
//! and every decision, is in [`crate::disk::room`].

use std::sync::Arc;
use std::time::Duration;

use stdx::error::chain;
use tokio::sync::watch;
use tokio::time::Instant;
use vmm::Vm;

use super::actor::{Actor, blocking};
use crate::disk::room::{self, Decision, Found, Look};

/// Between two looks at a disk that cannot be looked at, or that needs none.
const PAUSE: Duration = Duration::from_secs(1);
const HOLD: &str = "it stands still: the host's disk is full, and what it writes would be lost; it goes on by itself when \
    there is room";
const LOST: &str = "its disk is lost: the host's disk was full before the sandbox could be stopped";

/// Why a sandbox stands still, while it does. Programs in it wait, as for a slow disk; calls to its
/// guest are refused, so that their callers do not.
#[derive(Debug, Default)]
pub struct Hold(watch::Sender<Option<String>>);

impl Hold {
    #[must_use]
    pub fn get(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Says why from the moment on when it stands still, which may be now.
    pub async fn begins(&self) -> String {
        let mut changes = self.0.subscribe();
        // The sender is ours and lives as long as this.
        let why = changes
            .wait_for(Option::is_some)
            .await
            .map(|why| why.clone());
        why.ok().flatten().unwrap_or_default()
    }

    pub fn set(&self, why: Option<&str>) {
        self.0.send_replace(why.map(str::to_owned));
    }
}

/// Looks after the disk for as long as the sandbox runs. Comes back when it is lost, with the words
/// for that.
pub(super) async fn watch(actor: &Actor, vm: &Arc<dyn Vm>) -> String {
    // After a restart nobody knows whether the run before has stopped it; letting run what runs
    // changes nothing.
    let mut watch = Watch {
        actor,
        vm,
        stopped: true,
        last: None,
        full: false,
    };
    loop {
        match watch.look().await {
            Ok(Found::Lost) => return LOST.to_owned(),
            Ok(Found::Look(look)) => {
                let rate = watch.rate(look);
                watch.act(look, rate).await;
                tokio::time::sleep(room::next_look(look, rate)).await;
            }
            Ok(Found::Plain { free, reserve }) => {
                watch.note_full(free < reserve);
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                tracing::warn!(sandbox = %actor.handle.id, error, "cannot look at the disk");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

struct Watch<'a> {
    actor: &'a Actor,
    vm: &'a Arc<dyn Vm>,
    stopped: bool,
    /// When the last look was, and what was used then.
    last: Option<(Instant, u64)>,
    /// The host's disk is nearly full, which the log has.
    full: bool,
}

impl Watch<'_> {
    async fn look(&self) -> Result<Found, String> {
        let (id, dir) = (
            self.actor.handle.id.clone(),
            self.actor.host.ledger.dir(&self.actor.handle.id),
        );
        blocking(move || room::look(&id, &dir)).await
    }

    /// Bytes per second since the last look.
    fn rate(&mut self, look: Look) -> u64 {
        let now = Instant::now();
        let (before, used) = self
            .last
            .replace((now, look.used))
            .unwrap_or((now, look.used));
        let micros = now.duration_since(before).as_micros().max(1);
        u64::try_from(u128::from(look.used.saturating_sub(used)) * 1_000_000 / micros)
            .unwrap_or(u64::MAX)
    }

    async fn act(&mut self, look: Look, rate: u64) {
        match room::decide(look, rate, self.stopped) {
            Decision::Leave => {}
            Decision::Extend(to) => {
                if let Err(error) = self.extend(to).await {
                    tracing::warn!(sandbox = %self.actor.handle.id, error, "no room for what it writes");
                    self.stop().await;
                }
            }
            Decision::Stop => self.stop().await,
            Decision::Go(to) => match self.extend(to).await {
                Ok(()) => self.go().await,
                Err(error) => {
                    tracing::warn!(sandbox = %self.actor.handle.id, error, "still no room")
                }
            },
        }
    }

    async fn extend(&self, to: u64) -> Result<(), String> {
        let dir = self.actor.host.ledger.dir(&self.actor.handle.id);
        blocking(move || room::extend(&dir, to)).await
    }

    async fn stop(&mut self) {
        if let Err(error) = self.vm.pause().await {
            tracing::error!(sandbox = %self.actor.handle.id, error = chain(&error), "cannot be stopped");
            return;
        }
        self.stopped = true;
        self.tell(Some(HOLD));
    }

    async fn go(&mut self) {
        if let Err(error) = self.vm.resume().await {
            tracing::error!(sandbox = %self.actor.handle.id, error = chain(&error), "cannot go on");
            return;
        }
        self.stopped = false;
        if self.actor.handle.hold.get().is_some() {
            self.tell(None);
        }
        self.actor.handle.clock.notify_one();
    }

    /// In the log, and wherever the sandbox is shown.
    fn tell(&self, hold: Option<&str>) {
        let handle = &self.actor.handle;
        let line = hold.unwrap_or("it goes on: there is room on the host's disk again");
        tracing::warn!(sandbox = %handle.id, "{line}");
        handle.log.agent(line);
        handle.hold.set(hold);
        self.actor.host.report_use(&self.actor.record, handle);
    }

    fn note_full(&mut self, full: bool) {
        if full && !self.full {
            self.actor
                .handle
                .log
                .agent("the host's disk is nearly full: what the sandbox writes may be refused");
        }
        self.full = full;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_is_told_when_it_stands_still() {
        let hold = Arc::new(Hold::default());
        let waits = tokio::spawn({
            let hold = Arc::clone(&hold);
            async move { hold.begins().await }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished() && hold.get().is_none());
        hold.set(Some(HOLD));
        assert_eq!(waits.await.unwrap(), HOLD);
        assert_eq!(hold.begins().await, HOLD);
        hold.set(None);
        assert_eq!(hold.get(), None);
    }
}
