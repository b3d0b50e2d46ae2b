//! `/health` and `/ready`.

use std::sync::Arc;

use api_types::Health;
use axum::Json as Answer;
use axum::extract::State;
use model::ErrorCode;

use super::extract::{NoQuery, Query};
use crate::app::App;
use crate::error::{Error, Result};

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

/// Ask whether the server takes requests
///
/// Needs no key. For load balancers: 503 from the moment at which the server is told to end, while
/// it still answers requests (`CP_DRAIN_SEC`), and while its database does not answer.
#[utoipa::path(
    get, path = "/ready", tag = "server", security(()),
    responses(
        (status = 200, description = "It does", body = Health),
        (status = 503, description = "It is ending, or its database does not answer"),
    )
)]
pub async fn ready(
    State(app): State<Arc<App>>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Health>> {
    if !app.is_ready().await {
        let text = "the server takes no requests: it is ending, or its database does not answer; ask another one, or try again";
        return Err(Error::new(ErrorCode::HostUnavailable, text));
    }
    Ok(Answer(Health {
        status: "ok".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }))
}
