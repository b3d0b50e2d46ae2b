//! The contract between host and guest agent: Connect services generated from `api/guest`, and the
//! plain HTTP bodies in [`http`].
//!
//! Peers are old for ever: the agent inside a kept snapshot never upgrades. Fields are only added.

#[allow(clippy::all, clippy::pedantic, missing_debug_implementations, unused)]
mod generated {
    connectrpc::include_generated!();
}

pub use generated::{command, file, filesystem, process};

pub mod archive;
pub mod bytes;
pub mod http;
pub mod start_error;

/// TCP port of the guest agent (E2B contract 2.1).
pub const PORT: u16 = 49983;

/// Version that the guest agent reports. The E2B SDKs switch features on by it (E2B contract 2.1),
/// so it names the level of that contract that we serve, not our own release.
pub const ENVD_VERSION: &str = "0.6.13";

/// Header that carries the per-sandbox token on every call but `GET /health`.
pub const ACCESS_TOKEN_HEADER: &str = "x-access-token";
