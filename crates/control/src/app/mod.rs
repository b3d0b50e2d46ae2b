//! The use cases: methods of [`App`], one file each. They know nothing of HTTP.
//!
//! The first argument of each is the [`Principal`](crate::auth::Principal) who asks: it is checked
//! for its scopes first, and what belongs to another team is answered as if it were not there. The
//! others are reconcilers' and are private to the crate.
//!
//! A use case that changes something runs as a task of its own ([`spawn_detached`]): a client that
//! hangs up in the middle does not cut it in half. After a crash in between, `tasks` finishes the
//! work.

mod actors;
pub mod checkpoints;
mod claimed_pause;
mod command_ends;
pub mod commands;
pub mod diff;
pub mod disk_usage;
pub mod events;
pub mod exec;
pub mod file_streams;
pub mod files;
pub mod health;
mod held;
mod idempotency_lock;
pub mod image_prune;
mod image_pulls;
pub(crate) mod image_uploads;
mod images;
pub mod logs;
pub mod metrics;
mod own_address;
mod placement;
pub mod ports;
mod report;
pub mod resources;
pub mod run_history;
pub mod sandbox_create;
pub mod sandbox_delete;
pub mod sandbox_end;
pub mod sandbox_fork;
mod sandbox_named;
pub mod sandbox_network;
pub mod sandbox_open;
pub mod sandbox_pause;
pub mod sandbox_ping;
pub mod sandbox_read;
pub mod sandbox_timeout;
pub mod sandbox_token;
pub mod sandbox_update;
pub mod sandbox_wait;
mod shared_calls;
mod snapshot_lock;
pub mod snapshots;
pub mod templates;
pub mod undo;
mod uploads;
pub mod webhooks;

use std::collections::BTreeSet;
use std::sync::Arc;

use model::{Limits, SandboxId};
use parking_lot::Mutex;
use store::Store;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::events::LiveEvents;
use crate::hosts::Hosts;
use crate::ports::Ports;
use crate::rate_limit::RateLimits;
use crate::webhooks::Webhooks;
pub use actors::Actors;
pub use command_ends::EarlyEnds;
pub use held::HeldSandboxes;
pub use idempotency_lock::IdempotencyLocks;
pub use image_uploads::ImageUploads;
pub use own_address::OwnAddress;
pub use shared_calls::SharedCalls;

/// State that all use cases share.
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
    /// Sandboxes whose create is under way in this process; reconcilers leave them alone.
    pub in_flight_creates: InFlightCreates,
    /// Imports of images that are under way in this process.
    pub image_uploads: ImageUploads,
    /// Who changes which sandbox at this moment.
    pub actors: Actors,
    pub events: LiveEvents,
    pub early_ends: EarlyEnds,
    pub webhooks: Webhooks,
    /// Sandboxes of hosts that the store has no record of, and that stay.
    pub held_sandboxes: HeldSandboxes,
    pub idempotency_locks: IdempotencyLocks,
    /// Calls that ask hosts for tokens of guest agents.
    pub token_calls: SharedCalls<SandboxId, String>,
    /// Held while a host is chosen and a place on it is reserved.
    pub placement_lock: Mutex<()>,
    /// Address at which this process reaches its own API.
    pub own_address: OwnAddress,
    /// Token that ends open streams and background tasks.
    pub shutdown: CancellationToken,
    /// Cancelled before that, while requests are still taken.
    pub draining: CancellationToken,
    /// Notified when there may be something to reconcile before the next round.
    pub reconcile: tokio::sync::Notify,
}

/// Ids of sandboxes that are being created, each as long as its guard lives. Memory is enough: when
/// the process dies, their creates end with it.
#[derive(Debug, Default, Clone)]
pub struct InFlightCreates(Arc<Mutex<BTreeSet<SandboxId>>>);

/// Membership of an id in [`InFlightCreates`], until this is dropped.
#[derive(Debug)]
pub struct InFlightCreate {
    set: InFlightCreates,
    id: SandboxId,
}

impl InFlightCreates {
    #[must_use]
    pub fn insert(&self, id: &SandboxId) -> InFlightCreate {
        self.0.lock().insert(id.clone());
        InFlightCreate {
            set: self.clone(),
            id: id.clone(),
        }
    }

    #[must_use]
    pub fn ids(&self) -> BTreeSet<SandboxId> {
        self.0.lock().clone()
    }
}

impl Drop for InFlightCreate {
    fn drop(&mut self) {
        self.set.0.lock().remove(&self.id);
    }
}

/// Runs a use case to its end whether or not the caller still waits for it.
///
/// # Errors
/// The use case's own; a panic in it is an internal error.
pub async fn spawn_detached<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(runtime::trace::in_current_context(work)).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::internal(error)),
    }
}
