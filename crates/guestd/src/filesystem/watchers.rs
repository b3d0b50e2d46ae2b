//! Watchers that are polled (`CreateWatcher`, `GetWatcherEvents`, `RemoveWatcher`).
//!
//! Each has a task that takes events over as they come, so that new directories are watched at
//! once; a poll takes over the rest itself, so everything that happened before it is in its answer.
//! In memory only: after the process dies they are unknown. The kernel allows few inotify
//! instances; where they are used up, the watcher that has not been polled for longest, and not for
//! [`IDLE`], is given up for the new one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use guest_rpc::filesystem::FilesystemEvent;
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::error::{FileError, Kind};
use super::watch::{Watch, Wish};
use crate::as_user::blocking_as_user;
use crate::user::User;

/// A watcher that is polled is polled far more often than this.
const IDLE: Duration = Duration::from_secs(600);

/// All polled watchers of the agent.
#[derive(Debug, Default)]
pub struct Watchers {
    next: AtomicU64,
    all: Mutex<HashMap<String, Watcher>>,
}

#[derive(Debug)]
struct Watcher {
    watch: Arc<Mutex<Watch>>,
    polled: Instant,
    task: AbortHandle,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watchers {
    /// Starts a watcher and gives its id.
    ///
    /// # Errors
    /// As [`Watch::start`].
    pub async fn create(&self, wish: Wish, user: User) -> Result<String, FileError> {
        let watch = match start(wish.clone(), user.clone()).await {
            Err(e) if e.kind == Kind::Exhausted && self.give_up_idlest() => {
                start(wish, user).await?
            }
            other => other?,
        };
        let descriptor = watch.readiness()?;
        let watch = Arc::new(Mutex::new(watch));
        let task = tokio::spawn(keep_draining(watch.clone(), descriptor)).abort_handle();
        let id = format!("w{}", self.next.fetch_add(1, Ordering::Relaxed));
        let watcher = Watcher {
            watch,
            polled: Instant::now(),
            task,
        };
        self.locked(|all| all.insert(id.clone(), watcher));
        Ok(id)
    }

    /// Returns all events since the last poll.
    ///
    /// # Errors
    /// Not found; data loss, once, where events were lost.
    pub async fn poll(&self, id: &str) -> Result<Vec<FilesystemEvent>, FileError> {
        let watch = self.locked(|all| {
            let watcher = all.get_mut(id)?;
            watcher.polled = Instant::now();
            Some(watcher.watch.clone())
        });
        let watch = watch.ok_or_else(|| unknown(id))?;
        let events = blocking_as_user(move || {
            let mut watch = watch.lock();
            watch.drain();
            watch.take()
        });
        Ok(events.await?.into())
    }

    /// Ends a watcher.
    ///
    /// # Errors
    /// Not found.
    pub fn remove(&self, id: &str) -> Result<(), FileError> {
        self.locked(|all| all.remove(id))
            .map(drop)
            .ok_or_else(|| unknown(id))
    }

    fn give_up_idlest(&self) -> bool {
        self.locked(|all| {
            let idlest = all.iter().min_by_key(|(_, watcher)| watcher.polled);
            let Some(id) = idlest
                .filter(|(_, w)| w.polled.elapsed() >= IDLE)
                .map(|(id, _)| id.clone())
            else {
                return false;
            };
            all.remove(&id).is_some()
        })
    }

    fn locked<T>(&self, act: impl FnOnce(&mut HashMap<String, Watcher>) -> T) -> T {
        act(&mut self.all.lock())
    }
}

async fn start(wish: Wish, user: User) -> Result<Watch, FileError> {
    blocking_as_user(move || Watch::start(wish, &user)).await
}

fn unknown(id: &str) -> FileError {
    let id: String = id.chars().take(64).collect();
    FileError::new(
        Kind::NotFound,
        format!("watcher '{id}' does not exist: create one"),
    )
}

/// Ends when the watcher is dropped, which aborts it.
async fn keep_draining(watch: Arc<Mutex<Watch>>, descriptor: AsyncFd<std::os::fd::OwnedFd>) {
    while let Ok(mut ready) = descriptor.readable().await {
        ready.clear_ready();
        let watch = watch.clone();
        let drained = blocking_as_user(move || {
            watch.lock().drain();
            Ok(())
        });
        if let Err(e) = drained.await {
            return tracing::error!("a watcher stops: {e}");
        }
    }
}
