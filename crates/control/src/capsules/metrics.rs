//! `/v1/capsules/{id}/metrics`: what a capsule used, for one of the original's ranges.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use http::Uri;
use model::{ErrorCode, SandboxState};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stdx::time::now_ms;

use crate::api::extract::{Id, Query};
use crate::api::metrics::{self, MetricsQuery};
use crate::app::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{ResourceSizes, UsagePoint, UsageQuery};

/// Ranges: name, length and shortest time between two points in seconds.
const RANGES: [(&str, i64, u32); 7] = [
    ("5m", 300, 1),
    ("10m", 600, 1),
    ("1h", 3600, 30),
    ("2h", 7200, 30),
    ("6h", 21_600, 300),
    ("12h", 43_200, 300),
    ("24h", 86_400, 300),
];
const DEFAULT_RANGE: &str = "10m";

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RangeQuery {
    range: Option<String>,
}

/// Returns what a capsule used over time, oldest first; with fields of our own API in the query, as
/// that has it.
pub async fn get_metrics(
    state: State<Arc<App>>,
    principal: Extension<Principal>,
    id: Id,
    uri: Uri,
) -> Result<Response> {
    let pairs = uri.query().unwrap_or_default().split('&');
    let mut names = pairs.map(|pair| pair.split('=').next().unwrap_or_default());
    if names.any(|name| ["from", "to", "step"].contains(&name)) {
        let own = read_query::<MetricsQuery>(&uri)?;
        let answer = metrics::get_sandbox_metrics(state, principal, id, Query(own)).await?;
        return Ok(answer.into_response());
    }
    let RangeQuery { range } = read_query(&uri)?;
    let range = range.as_deref().unwrap_or(DEFAULT_RANGE);
    let (State(app), Id(id)) = (state, id);
    let query = usage_query(range, now_ms())?;
    let row = app.get_sandbox(&principal, &id).await?;
    if !matches!(row.state, SandboxState::Running | SandboxState::Paused) {
        let text = format!("capsule {id} is {}, and has no metrics", row.state);
        return Err(Error::new(ErrorCode::NotFound, text));
    }
    let series = app.list_usage(&principal, &id, query).await?;
    let points = series.points.iter();
    let points: Vec<Value> = points
        .map(|point| metric_point(&series.sizes, point))
        .collect();
    let answer = json!({ "sandbox_id": id, "range": range, "points": points });
    Ok(Answer(answer).into_response())
}

fn read_query<T: DeserializeOwned>(uri: &Uri) -> Result<T> {
    let read = axum::extract::Query::<T>::try_from_uri(uri);
    let read = read.map_err(|error| {
        let text = format!(
            "the query is not what this route reads: {}",
            error.body_text()
        );
        Error::invalid(text)
    })?;
    Ok(read.0)
}

fn usage_query(range: &str, now: i64) -> Result<UsageQuery> {
    let found = RANGES.iter().find(|(name, ..)| *name == range);
    let (_, seconds, step_sec) = found.ok_or_else(|| {
        let names = RANGES.map(|(name, ..)| name).join(", ");
        Error::invalid(format!("range must be one of {names}"))
    })?;
    Ok(UsageQuery {
        from: now - seconds * 1000,
        to: now,
        step_sec: *step_sec,
    })
}

fn metric_point(sizes: &ResourceSizes, point: &UsagePoint) -> Value {
    let cpus = f64::from(sizes.cpu_count.max(1));
    // Of all processors together, to two digits.
    let cpu = (point.cpu_percent / cpus * 100.0).round() / 100.0;
    json!({
        "timestamp_unix": point.time / 1000,
        "cpu_pct": cpu,
        "mem_bytes": point.memory_bytes,
        "disk_bytes": point.disk_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_length_and_step() {
        let query = usage_query("2h", 10_000_000).unwrap();
        assert_eq!((query.to - query.from, query.step_sec), (7_200_000, 30));
        let wrong = usage_query("1d", 0).unwrap_err().message;
        assert!(
            wrong.contains("5m, 10m") && wrong.contains("24h"),
            "{wrong}"
        );
    }

    #[test]
    fn processors_are_one_hundred_percent() {
        let sizes = ResourceSizes {
            cpu_count: 4,
            ..ResourceSizes::default()
        };
        let point = UsagePoint {
            time: 1_767_225_600_123,
            cpu_percent: 200.0,
            memory_bytes: 7,
            disk_bytes: 9,
            rx_bytes_per_sec: 0,
            tx_bytes_per_sec: 0,
            guest: None,
        };
        let expected = json!({
            "timestamp_unix": 1_767_225_600, "cpu_pct": 50.0, "mem_bytes": 7, "disk_bytes": 9,
        });
        assert_eq!(metric_point(&sizes, &point), expected);
    }
}
