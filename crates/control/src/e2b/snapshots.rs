//! Snapshots and forks. The id of a snapshot is its name here.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json as Answer};
use http::{HeaderMap, StatusCode};
use model::{ErrorCode, SandboxState, TemplateName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{Body, Id, Query, Segment};
use super::error::{Failure, Result};
use super::list::{page_limit, page_response};
use super::living::find_living;
use super::template_ref::{TemplateRef, missing};
use super::time_limit::{DEFAULT_SEC, check_timeout};
use super::types;
use crate::api::read_idempotency;
use crate::app::sandbox_fork::{ForkRequest, MAX_COUNT};
use crate::app::snapshots::{self, NewSnapshot};
use crate::app::{App, spawn_detached};
use crate::auth::Principal;
use crate::hosts::Template;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SnapshotBody {
    name: Option<String>,
    memory: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SnapshotQuery {
    #[serde(rename = "sandboxID")]
    sandbox_id: Option<String>,
    name: Option<String>,
    limit: Option<u32>,
    #[serde(rename = "nextToken")]
    next_token: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ForkBody {
    timeout: Option<i64>,
    count: Option<u32>,
}

/// Makes a snapshot of a sandbox, which goes on. One of the same name is replaced.
pub async fn create_snapshot(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Body(body): Body<SnapshotBody>,
) -> Result<(StatusCode, Answer<Value>)> {
    find_living(&app, &principal, &id).await?;
    let names: Vec<String> = body.name.iter().cloned().collect();
    let name = match &body.name {
        Some(text) => snapshot_name(text)?,
        None => snapshots::random_name("snapshot")?,
    };
    let new = NewSnapshot {
        sandbox: id,
        name: name.clone(),
        memory: body.memory.unwrap_or(true),
        overwrite: body.name.is_some(),
    };
    spawn_detached(async move { app.create_snapshot(&principal, new).await }).await?;
    let answer = json!({ "snapshotID": name.as_str(), "names": names });
    Ok((StatusCode::CREATED, Answer(answer)))
}

/// Reads the name of a snapshot to make. That it cannot exist is a mistake in the request.
fn snapshot_name(text: &str) -> Result<TemplateName> {
    match TemplateRef::parse(text) {
        Ok(reference) => Ok(reference.name),
        Err(_) => {
            let parsed: std::result::Result<TemplateName, _> = text.parse();
            let problem = parsed.err().map(|error| error.problem).unwrap_or_default();
            let text = format!("the name of a snapshot {problem}, and its only tag is 'default'");
            Err(Failure::invalid(text))
        }
    }
}

/// Lists snapshots by name, one page of them.
pub async fn list_snapshots(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(query): Query<SnapshotQuery>,
) -> Result<Response> {
    let limit = page_limit(query.limit)? as usize;
    let name = match query.name.as_deref().map(TemplateRef::parse) {
        None => None,
        Some(Ok(reference)) => Some(reference.name),
        Some(Err(_)) => return Ok(page_response(Vec::new(), None)),
    };
    let after = query.next_token.as_deref().unwrap_or_default();
    let is_wanted = |template: &Template| {
        let source = template.source_sandbox_id.as_deref();
        let is_of_sandbox = query.sandbox_id.is_none() || source == query.sandbox_id.as_deref();
        let is_of_name = name.as_ref().is_none_or(|name| template.name == *name);
        template.is_snapshot() && is_of_sandbox && is_of_name && template.name.as_str() > after
    };
    let mut found = app.list_snapshots(&principal).await?;
    found.retain(is_wanted);
    let has_more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| has_more);
    let next = next.map(|template| template.name.to_string());
    let entries = found.iter().map(|template| {
        let name = template.name.as_str();
        json!({ "snapshotID": name, "names": [name] })
    });
    Ok(page_response(entries.collect(), next))
}

/// Deletes a snapshot.
pub async fn delete_snapshot(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Segment(reference): Segment,
) -> Result<StatusCode> {
    let name = TemplateRef::parse(&reference)?.name;
    let deleting = async move { app.delete_snapshot(&principal, &name).await };
    let deleted = spawn_detached(deleting).await;
    deleted.map_err(|error| match error.code {
        ErrorCode::NotFound => missing(&reference),
        _ => error.into(),
    })?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes children of a running sandbox, all or none.
pub async fn fork_sandbox(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    Id(id): Id,
    Body(body): Body<ForkBody>,
) -> Result<(StatusCode, Answer<Vec<Value>>)> {
    let count = body.count.unwrap_or(1);
    if !(1..=MAX_COUNT).contains(&count) {
        let text = format!("count must be from 1 to {MAX_COUNT}, not {count}");
        return Err(Failure::invalid(text));
    }
    let run_ms = check_timeout(body.timeout.unwrap_or(DEFAULT_SEC), 1, &app.limits)?;
    let source = find_living(&app, &principal, &id).await?;
    if source.state == SandboxState::Paused {
        let text = format!("sandbox {id} is paused; connect to it first");
        return Err(Failure::new(StatusCode::CONFLICT, text));
    }
    let idempotency = read_idempotency(&headers, &(id.as_str(), count, run_ms))?;
    let fork = ForkRequest {
        source: id,
        count,
        run_ms: Some(run_ms),
        idempotency,
    };
    let forking = {
        let (app, principal) = (Arc::clone(&app), principal.clone());
        async move { app.fork_opened(&principal, fork).await }
    };
    let children = spawn_detached(forking).await?.into_iter();
    let answers = children.map(|child| {
        let sandbox = types::answer(&app, child, &headers);
        json!({ "sandbox": sandbox })
    });
    Ok((StatusCode::CREATED, Answer(answers.collect())))
}
