//! Sandboxes of this host: their life ([`state`]), their record ([`ledger`]), the task that drives
//! each ([`actor`]), and the one place through which the rest of the agent asks for them
//! ([`Manager`]).

pub mod activity;
mod actor;
pub mod auto_checkpoint;
mod backoff;
mod base_image;
mod boot_source;
mod capture;
mod clock;
mod command;
pub mod command_ends;
mod context;
mod create;
mod egress;
pub mod error;
pub mod fork_notes;
pub mod handle;
mod init_guest;
pub mod ledger;
pub mod log;
pub mod manager;
mod preboot;
mod release;
pub mod report;
pub mod resources;
pub mod stalled;
mod start_command;
pub mod start_permits;
pub mod state;
mod step_error;

pub use error::{ErrorCode, SandboxError};
pub use handle::Handle;
pub use manager::Manager;
