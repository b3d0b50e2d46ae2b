//! The sandboxes of this host: what each is ([`state`]), what is remembered of it ([`ledger`]), who
//! drives it ([`actor`]), and the one place through which everybody else asks for them
//! ([`Manager`]).

pub mod activity;
pub mod actor;
mod attend;
mod backoff;
mod base;
mod capture;
mod checkpoint;
mod clock;
mod create;
pub(crate) mod egress;
pub mod forks;
mod handle;
mod init_guest;
pub(crate) mod instant;
mod instants;
pub mod ledger;
pub mod log;
mod manager;
mod order;
mod preboot;
mod reclaim;
mod registry;
mod release;
pub mod room;
mod sleep;
pub mod state;
pub mod turns;

pub use checkpoint::Checkpoint;
pub use handle::Handle;
pub use manager::{Manager, Refused};
