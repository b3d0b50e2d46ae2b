//! `/v1/sandboxes/{id}/logs`.

use std::sync::Arc;

use api_types::LogEntry;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Id, Query};
use super::view;
use crate::app::App;
use crate::auth::Principal;
use crate::error::{Error, Result};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogsQuery {
    /// Stay and send what comes, until the sandbox is deleted.
    follow: Option<bool>,
}

/// Read the logs
///
/// Console and agent events, oldest first, one JSON object per line. What the console says was
/// written by the guest: do not trust it.
#[utoipa::path(
    get, path = "/{id}/logs", tag = "sandboxes", params(LogsQuery),
    responses(
        (status = 200, description = "One object per line", body = LogEntry, content_type = "application/x-ndjson"),
        (status = 502, description = "The host agent failed"),
    )
)]
pub async fn logs(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(query): Query<LogsQuery>,
) -> Result<Response> {
    let logs = app
        .read_logs(&principal, &id, query.follow.unwrap_or_default())
        .await?;
    let stop = app.shutdown.clone();
    let lines = stream::try_unfold((logs, stop), |(mut logs, stop)| async move {
        let entry = tokio::select! {
            entry = logs.next() => entry?,
            () = stop.cancelled() => None,
        };
        let Some(entry) = entry else { return Ok(None) };
        Ok::<_, Error>(Some((line(&view::log(entry))?, (logs, stop))))
    });
    Ok((
        [(CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response())
}

fn line(entry: &LogEntry) -> Result<Bytes> {
    let mut line = serde_json::to_vec(entry).map_err(Error::internal)?;
    line.push(b'\n');
    Ok(line.into())
}
