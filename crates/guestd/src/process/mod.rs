//! Processes that the host starts in the guest, and the Connect services over them: that of E2B, and
//! ours for background commands ([`command`]).
//!
//! A process is *running* from its exec until its leader is collected, *draining* until its output
//! is through, then *ended*: its end is kept for [`KEEP_ENDED`] for those who connect late. It
//! belongs to its task in [`lifetime`], never to a client: who hangs up does not end it. All of
//! this is in memory; with the agent it is gone, and so is the guest.

mod command;
mod descriptor;
mod environment;
mod events;
mod input;
mod interpreter;
mod lifetime;
mod output;
pub mod request;
mod scope;
mod service;
mod spawn;
mod table;
mod terminal;

pub use command::Commands;
pub use table::Processes;

use crate::Agent;

/// Creates the router of both services of processes.
pub fn service(agent: &Agent) -> connectrpc::Router {
    service::service(agent).merge(command::service(agent))
}
