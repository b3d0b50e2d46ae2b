//! `GET` and `POST /files`.

use crate::Agent;

/// The routes of this module.
pub fn router(_agent: &Agent) -> axum::Router {
    axum::Router::new()
}
