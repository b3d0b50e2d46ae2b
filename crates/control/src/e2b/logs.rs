//! Logs of a sandbox: `GET /sandboxes/{id}/logs`, which the CLI of E2B polls, and version 2.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json as Answer};
use model::{LogSource, SandboxId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{Id, Query};
use super::error::Result;
use super::living::find_living;
use crate::api::format_time;
use crate::app::App;
use crate::auth::Principal;
use crate::hosts::LogEntry;

/// Lines of one answer where the query does not say.
const DEFAULT_LIMIT: usize = 1000;
/// Most lines of one answer.
const MAX_LIMIT: usize = 10_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LogQuery {
    /// Milliseconds since the Unix epoch.
    start: Option<i64>,
    /// The same in version 2, where it is also an end for lists that go backward.
    cursor: Option<i64>,
    limit: Option<usize>,
    direction: Option<String>,
    search: Option<String>,
}

/// Returns logs as lines, each of which is a JSON object in a string, and as entries.
pub async fn read_logs_v1(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(query): Query<LogQuery>,
) -> Result<Answer<Value>> {
    let entries = read_entries(&app, &principal, &id, &query).await?;
    let lines: Vec<Value> = entries.iter().map(line_json).collect();
    let entries: Vec<Value> = entries.iter().map(entry_json).collect();
    Ok(Answer(json!({ "logs": lines, "logEntries": entries })))
}

/// Returns logs as entries.
pub async fn read_logs_v2(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(query): Query<LogQuery>,
) -> Result<Answer<Value>> {
    let entries = read_entries(&app, &principal, &id, &query).await?;
    let entries: Vec<Value> = entries.iter().map(entry_json).collect();
    Ok(Answer(json!({ "logs": entries })))
}

async fn read_entries(
    app: &App,
    principal: &Principal,
    id: &SandboxId,
    query: &LogQuery,
) -> Result<Vec<LogEntry>> {
    find_living(app, principal, id).await?;
    let mut stream = app.read_logs(principal, id, false).await?;
    let is_backward = query.direction.as_deref() == Some("backward");
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    let mark = query.start.or(query.cursor);
    let is_wanted = |entry: &LogEntry| {
        let is_in_time = match (mark, is_backward) {
            (Some(mark), false) => entry.time >= mark,
            (Some(mark), true) => entry.time <= mark,
            (None, _) => true,
        };
        let search = query.search.as_deref().unwrap_or_default();
        is_in_time && entry.line.contains(search)
    };
    // A log has at most so much as its host keeps; what is passed on is bounded here.
    let mut entries = std::collections::VecDeque::new();
    while let Some(entry) = stream.next().await? {
        if !is_wanted(&entry) {
            continue;
        }
        entries.push_back(entry);
        if entries.len() > limit {
            if !is_backward {
                entries.pop_back();
                break;
            }
            entries.pop_front();
        }
    }
    let mut entries = Vec::from(entries);
    if is_backward {
        entries.reverse();
    }
    Ok(entries)
}

const fn logger(source: LogSource) -> &'static str {
    match source {
        LogSource::Agent => "agent",
        LogSource::Console => "console",
    }
}

fn line_json(entry: &LogEntry) -> Value {
    let line = json!({
        "level": "info",
        "logger": logger(entry.source),
        "timestamp": format_time(entry.time),
        "message": entry.line,
    });
    json!({ "timestamp": format_time(entry.time), "line": line.to_string() })
}

fn entry_json(entry: &LogEntry) -> Value {
    json!({
        "timestamp": format_time(entry.time),
        "message": entry.line,
        "level": "info",
        "fields": { "logger": logger(entry.source) },
    })
}
