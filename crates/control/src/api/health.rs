//! `/health`.

use std::sync::Arc;

use api_types::Health;
use axum::Json as Answer;
use axum::extract::State;

use super::extract::{NoQuery, Query};
use crate::app::App;
use crate::error::Result;

/// Ask whether the server is well
///
/// Needs no key. `degraded`: it answers, but a host or the store does not; the server's log says
/// which.
#[utoipa::path(
    get, path = "/health", tag = "server", security(()),
    responses((status = 200, description = "It answers", body = Health))
)]
pub async fn health(
    State(app): State<Arc<App>>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Health>> {
    let problems = app.find_problems().await;
    for problem in &problems {
        tracing::debug!("health: {problem}");
    }
    let status = if problems.is_empty() {
        "ok"
    } else {
        "degraded"
    };
    Ok(Answer(Health {
        status: status.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }))
}
