//! Names, labels, use and waits of the fake server's sandboxes.

use std::sync::{Arc, Mutex};

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use client::types::{CreateSandbox, IfExists, SandboxCount, UpdateSandbox};

use super::{Shared, World, refusal};

/// Routes of one sandbox.
pub fn of_sandbox() -> Router<Arc<Mutex<World>>> {
    Router::new()
        .route("/ping", post(ping))
        .route("/keep-alive", post(keep_alive))
        .route("/wait", get(wait))
}

pub fn note_query(world: &Mutex<World>, query: Option<String>) {
    let mut world = world.lock().expect("the world");
    world.queries.push(query.unwrap_or_default());
}

fn use_sandbox(world: &Mutex<World>, id: &str, call: &'static str) -> Response {
    let mut world = world.lock().expect("the world");
    if !world.sandboxes.contains_key(id) {
        return refusal(404, "not_found", &format!("no sandbox {id}"));
    }
    world.uses.push(call);
    StatusCode::NO_CONTENT.into_response()
}

async fn ping(State(world): Shared, Path(id): Path<String>) -> Response {
    use_sandbox(&world, &id, "ping")
}

async fn keep_alive(State(world): Shared, Path(id): Path<String>) -> Response {
    use_sandbox(&world, &id, "keep-alive")
}

/// The first wait is over before the status has come; it has come for the second.
async fn wait(State(world): Shared, Path(id): Path<String>, RawQuery(query): RawQuery) -> Response {
    let waits = {
        let mut world = world.lock().expect("the world");
        world.queries.push(query.unwrap_or_default());
        world.queries.len()
    };
    if waits == 1 {
        return refusal(504, "timeout", "not yet");
    }
    match world.lock().expect("the world").sandboxes.get(&id) {
        Some(sandbox) => Json(sandbox).into_response(),
        None => refusal(404, "not_found", &format!("no sandbox {id}")),
    }
}

pub async fn count(State(world): Shared, RawQuery(query): RawQuery) -> Response {
    note_query(&world, query);
    let count = world.lock().expect("the world").sandboxes.len() as u64;
    Json(SandboxCount { count }).into_response()
}

pub async fn update(
    State(world): Shared,
    Path(id): Path<String>,
    Json(change): Json<UpdateSandbox>,
) -> Response {
    let mut world = world.lock().expect("the world");
    let Some(sandbox) = world.sandboxes.get_mut(&id) else {
        return refusal(404, "not_found", &format!("no sandbox {id}"));
    };
    if let Some(name) = change.name {
        sandbox.name = name;
    }
    for (key, value) in change.labels {
        match value {
            Some(value) => drop(sandbox.labels.insert(key, value)),
            None => drop(sandbox.labels.remove(&key)),
        }
    }
    if let Some(ends_at) = change.ends_at {
        sandbox.ends_at = ends_at;
    }
    sandbox.timeout_sec = change.timeout_sec.unwrap_or(sandbox.timeout_sec);
    sandbox.on_timeout = change.on_timeout.unwrap_or(sandbox.on_timeout);
    sandbox.auto_resume = change.auto_resume.unwrap_or(sandbox.auto_resume);
    Json(&*sandbox).into_response()
}

/// Answers a create whose name is taken.
pub fn meet_name(world: &World, spec: &CreateSandbox) -> Option<Response> {
    let name = spec.name.as_ref()?;
    let mut all = world.sandboxes.values();
    let found = all.find(|sandbox| sandbox.name.as_ref() == Some(name))?;
    Some(match spec.if_exists {
        Some(IfExists::Return) => Json(found).into_response(),
        _ => refusal(409, "conflict", "a sandbox of that name is there already"),
    })
}
