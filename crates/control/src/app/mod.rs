//! The use cases, one file each. They know nothing of HTTP.
//!
//! A use case that changes something runs as a task of its own ([`on_its_own`]): a client that
//! hangs up in the middle does not cut it in half. What a dying process leaves half done is
//! finished by `tasks`.

pub mod checkpoints;
pub mod exec;
pub mod files;
pub mod health;
pub mod keys;
pub mod logs;
pub mod ports;
pub mod report;
pub mod sandbox_create;
pub mod sandbox_delete;
pub mod sandbox_fork;
pub mod sandbox_network;
pub mod sandbox_pause;
pub mod sandbox_read;
pub mod sizes;
pub mod snapshots;
pub mod templates;

use std::collections::BTreeSet;
use std::sync::Arc;

use model::{Limits, SandboxId};
use parking_lot::Mutex;
use store::Store;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::hosts::Hosts;
use crate::ports::Ports;
use crate::rate_limit::RateLimits;

/// What every use case needs.
#[derive(Debug)]
pub struct App {
    pub store: Store,
    pub hosts: Hosts,
    pub limits: Limits,
    pub ports: Ports,
    /// Bytes of one file in `files/write`; `files/stream/write` has no limit.
    pub max_upload_bytes: u64,
    /// Rate limits of API keys.
    pub rate_limits: RateLimits,
    /// Sandboxes whose create is under way in this process; nobody else gives up on them.
    pub creating: Creating,
    /// Idempotency keys of creates and forks that are under way.
    pub keys: keys::Keys,
    /// Ends open streams and background tasks.
    pub shutdown: CancellationToken,
    /// Woken when there may be something to converge before the next round.
    pub converge: tokio::sync::Notify,
}

/// A set of ids, each in it as long as its guard lives. A set in memory is enough: when the process
/// dies, nobody creates them any more.
#[derive(Debug, Default, Clone)]
pub struct Creating(Arc<Mutex<BTreeSet<SandboxId>>>);

/// Keeps an id in [`Creating`].
#[derive(Debug)]
pub struct CreatingGuard {
    set: Creating,
    id: SandboxId,
}

impl Creating {
    #[must_use]
    pub fn begin(&self, id: &SandboxId) -> CreatingGuard {
        self.0.lock().insert(id.clone());
        CreatingGuard {
            set: self.clone(),
            id: id.clone(),
        }
    }

    #[must_use]
    pub fn ids(&self) -> BTreeSet<SandboxId> {
        self.0.lock().clone()
    }
}

impl Drop for CreatingGuard {
    fn drop(&mut self) {
        self.set.0.lock().remove(&self.id);
    }
}

/// Runs a use case to its end whether or not the caller still waits for it.
///
/// # Errors
/// The use case's own; a panic in it is an internal error.
pub async fn on_its_own<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    use tracing::Instrument;
    let work = runtime::trace::in_current_context(work.in_current_span());
    match tokio::spawn(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::internal(error)),
    }
}
