//! The sandboxes of this host: what each is ([`state`]), what is remembered of it ([`ledger`]), who drives it
//! ([`actor`]), and the one place through which everybody else asks for them ([`Manager`]).

pub mod activity;
pub mod actor;
mod attend;
mod capture;
mod create;
pub(crate) mod egress;
pub mod forks;
pub(crate) mod instant;
mod instants;
pub mod ledger;
pub mod log;
mod manager;
mod order;
mod reclaim;
mod release;
pub mod room;
mod sleep;
pub mod state;

use std::time::{SystemTime, UNIX_EPOCH};

pub use actor::Handle;
pub use instants::Checkpoint;
pub use manager::{Manager, Refused};

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
