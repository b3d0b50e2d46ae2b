//! Metrics of sandboxes, in the shape that clients of E2B read.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json as Answer};
use model::SandboxId;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use stdx::time::now_ms;

use super::body::{Id, Query};
use super::error::{Failure, Result};
use super::living::find_living;
use crate::api::format_time;
use crate::app::App;
use crate::auth::Principal;
use crate::hosts::{ResourceSizes, UsagePoint, UsageQuery};

/// Time before the end at which a series begins unless the query says.
const DEFAULT_SPAN_MS: i64 = 600_000;
/// Least time between two points, as E2B measures.
const STEP_SEC: u32 = 5;
/// Most sandboxes of one question.
const MAX_IDS: usize = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SeriesQuery {
    /// Seconds since the Unix epoch, both.
    start: Option<i64>,
    end: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct UsageIds {
    sandbox_ids: String,
}

/// Returns what a sandbox used over time, oldest first.
pub async fn list_usage(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(query): Query<SeriesQuery>,
) -> Result<Answer<Vec<Value>>> {
    find_living(&app, &principal, &id).await?;
    let to_ms = |seconds: i64| seconds.saturating_mul(1000);
    // The end is inclusive.
    let to = query
        .end
        .map_or_else(now_ms, |end| to_ms(end).saturating_add(999));
    let from = query.start.map(to_ms);
    let from = from.unwrap_or_else(|| to.saturating_sub(DEFAULT_SPAN_MS));
    if from > to {
        return Err(Failure::invalid("start must not be after end"));
    }
    let query = UsageQuery {
        from,
        to,
        step_sec: STEP_SEC,
    };
    let series = app.list_usage(&principal, &id, query).await?;
    let points = series.points.iter();
    let metrics = points.map(|point| metric_json(&series.sizes, point));
    Ok(Answer(metrics.collect()))
}

/// Returns what sandboxes use now, by id.
pub async fn get_usage(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(query): Query<UsageIds>,
) -> Result<Answer<Value>> {
    let ids = query.sandbox_ids.split(',').filter(|id| !id.is_empty());
    let ids: Vec<SandboxId> = ids
        .map(|id| id.parse().map_err(|_| Failure::no_sandbox(id)))
        .collect::<Result<_>>()?;
    if ids.is_empty() || ids.len() > MAX_IDS {
        let text = format!("sandbox_ids must be 1 to {MAX_IDS} ids with commas between them");
        return Err(Failure::invalid(text));
    }
    let usage = app.get_usage(&principal, &ids).await?;
    let latest = usage.into_iter().filter_map(|(_, usage)| {
        let metric = metric_json(&usage.sizes, &usage.latest?);
        Some((usage.id, metric))
    });
    let by_id: Map<String, Value> = latest.collect();
    Ok(Answer(json!({ "sandboxes": by_id })))
}

fn metric_json(sizes: &ResourceSizes, point: &UsagePoint) -> Value {
    let cpus = f64::from(sizes.cpu_count.max(1));
    let (memory, disk) = point
        .guest
        .unwrap_or((point.memory_bytes, point.disk_bytes));
    json!({
        "timestamp": format_time(point.time),
        "timestampUnix": point.time / 1000,
        "cpuCount": sizes.cpu_count,
        // Of all processors together.
        "cpuUsedPct": (point.cpu_percent / cpus * 100.0).round() / 100.0,
        "memUsed": memory,
        "memTotal": sizes.memory_bytes,
        // Not told apart from what is free.
        "memCache": 0,
        "diskUsed": disk,
        "diskTotal": sizes.disk_bytes,
    })
}
