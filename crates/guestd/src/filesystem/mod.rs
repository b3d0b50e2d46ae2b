//! The Connect service `filesystem.Filesystem`.

use crate::Agent;

/// The service, to be merged with the others.
pub fn service(_agent: &Agent) -> connectrpc::Router {
    connectrpc::Router::new()
}
