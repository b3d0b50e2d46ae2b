//! The plain HTTP endpoints of the agent other than `/files`: `/health`, `/init`, `/freeze`,
//! `/thaw`, `/clock`, `/metrics`, `/envs`, `/tunnel`.

mod clock;
pub mod error;
mod freeze;
mod init;
mod machine;
mod metrics;
mod tunnel;

use std::collections::BTreeMap;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;

use crate::Agent;

pub use metrics::CpuMeter;

/// Returns the routes of this module.
pub fn router(agent: &Agent) -> Router {
    Router::new()
        // Any 2xx says to the SDKs that the sandbox runs.
        .route("/health", get(async || StatusCode::NO_CONTENT))
        .route("/init", post(init::init))
        .route("/freeze", post(freeze::freeze))
        .route("/thaw", post(freeze::thaw))
        .route("/clock", post(clock::clock))
        .route("/metrics", get(metrics::metrics))
        .route("/envs", get(envs))
        .route("/tunnel/{port}", get(tunnel::tunnel))
        .with_state(agent.clone())
}

async fn envs(State(agent): State<Agent>) -> Json<BTreeMap<String, String>> {
    let mut envs = agent.settings.identity_envs();
    envs.extend(agent.settings.envs());
    Json(envs)
}
