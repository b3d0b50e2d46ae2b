//! The contract between control plane and host agent, generated from `api/host`: one service for
//! each noun. [`services::register_services`] serves all of them, [`client::HostClient`] calls them.
//!
//! Both sides are always of the same release.

pub mod batch;
pub mod client;
pub mod linger;
pub mod network;
pub mod services;
pub mod spec;
pub mod start_command;
pub mod stop_reason;
pub mod tunnel;

#[allow(clippy::all, clippy::pedantic, missing_debug_implementations, unused)]
mod generated {
    connectrpc::include_generated!();
}

pub use generated::hostagent::v1::*;

/// TCP port on which the host agent listens unless told otherwise (the original Wrenn's default).
pub const DEFAULT_PORT: u16 = 50051;

/// Bytes of file content in one stream message. Large enough to keep framing cheap, far below the
/// 4 MiB default limit of one Connect message.
pub const FILE_CHUNK_BYTES: usize = 256 * 1024;
