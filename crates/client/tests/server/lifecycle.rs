//! States, forks, checkpoints and snapshots of the fake server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use client::types::{
    AutoCheckpoint, Checkpoint, CreateCheckpoint, CreateSnapshot, DiffMessage, FileDiff, FilePatch,
    FileState, ForkSandbox, History, InodeKind, NetworkRules, SandboxStatus, Template,
    TemplateKind, UndoSandbox, Undone,
};

use super::{Shared, World, refusal, template};

type Routes = Router<Arc<Mutex<World>>>;

pub fn of_sandbox() -> Routes {
    Router::new()
        .route("/pause", post(pause))
        .route("/resume", post(resume))
        .route("/network", put(set_network))
        .route("/fork", post(fork))
        .route(
            "/checkpoints",
            get(list_checkpoints).post(create_checkpoint),
        )
        .route("/checkpoints/{name}", delete(delete_checkpoint))
        .route("/checkpoints/{name}/rollback", post(rollback))
        .route(
            "/auto-checkpoint",
            put(set_auto_checkpoint).delete(remove_auto_checkpoint),
        )
        .route("/undo", get(history).post(undo))
        .route("/diff", get(diff))
}

pub fn snapshots() -> Routes {
    Router::new()
        .route("/v1/snapshots", get(list_snapshots).post(create_snapshot))
        .route(
            "/v1/snapshots/{name}",
            get(get_snapshot).delete(delete_snapshot),
        )
}

fn missing(what: &str) -> Response {
    refusal(404, "not_found", &format!("there is no {what}"))
}

fn become_now(world: &Mutex<World>, id: &str, status: SandboxStatus) -> Response {
    match world.lock().expect("the world").sandboxes.get_mut(id) {
        Some(sandbox) => {
            sandbox.status = status;
            Json(sandbox.clone()).into_response()
        }
        None => missing(id),
    }
}

async fn pause(State(world): Shared, Path(id): Path<String>) -> Response {
    become_now(&world, &id, SandboxStatus::Paused)
}

async fn resume(State(world): Shared, Path(id): Path<String>) -> Response {
    become_now(&world, &id, SandboxStatus::Running)
}

async fn set_network(
    State(world): Shared,
    Path(id): Path<String>,
    Json(rules): Json<NetworkRules>,
) -> Response {
    match world.lock().expect("the world").sandboxes.get_mut(&id) {
        Some(sandbox) => {
            sandbox.network = rules;
            Json(sandbox.clone()).into_response()
        }
        None => missing(&id),
    }
}

async fn fork(
    State(world): Shared,
    Path(id): Path<String>,
    Json(body): Json<ForkSandbox>,
) -> Response {
    let mut world = world.lock().expect("the world");
    let Some(source) = world.sandboxes.get(&id).cloned() else {
        return missing(&id);
    };
    let child = |number| super::Sandbox {
        id: format!("sb-{number:020}"),
        ..source.clone()
    };
    let children: Vec<_> = (0..body.count.unwrap_or(1)).map(child).collect();
    world.sandboxes.extend(
        children
            .iter()
            .map(|child| (child.id.clone(), child.clone())),
    );
    (StatusCode::CREATED, Json(children)).into_response()
}

async fn list_checkpoints(State(world): Shared) -> Json<Vec<Checkpoint>> {
    Json(world.lock().expect("the world").checkpoints.clone())
}

async fn create_checkpoint(State(world): Shared, Json(body): Json<CreateCheckpoint>) -> Response {
    let name = body.name.unwrap_or_else(|| "checkpoint-0".to_owned());
    let checkpoint = Checkpoint {
        name,
        size_bytes: 1 << 20,
        exclusive_bytes: 3 << 10,
        shared_bytes: (1 << 20) - (3 << 10),
        automatic: false,
        created_at: "2026-01-01T00:00:00Z".to_owned(),
    };
    world
        .lock()
        .expect("the world")
        .checkpoints
        .push(checkpoint.clone());
    (StatusCode::CREATED, Json(checkpoint)).into_response()
}

async fn delete_checkpoint(
    State(world): Shared,
    Path((_, name)): Path<(String, String)>,
) -> Response {
    let checkpoints = &mut world.lock().expect("the world").checkpoints;
    let before = checkpoints.len();
    checkpoints.retain(|checkpoint| checkpoint.name != name);
    if checkpoints.len() < before {
        StatusCode::NO_CONTENT.into_response()
    } else {
        missing(&name)
    }
}

async fn rollback(State(world): Shared, Path((id, name)): Path<(String, String)>) -> Response {
    if !world
        .lock()
        .expect("the world")
        .checkpoints
        .iter()
        .any(|checkpoint| checkpoint.name == name)
    {
        return missing(&name);
    }
    become_now(&world, &id, SandboxStatus::Running)
}

/// Keeps the policy, and nothing else.
async fn set_auto_checkpoint(
    State(world): Shared,
    Json(policy): Json<AutoCheckpoint>,
) -> StatusCode {
    world.lock().expect("the world").policy = Some(policy);
    StatusCode::NO_CONTENT
}

async fn remove_auto_checkpoint(State(world): Shared) -> StatusCode {
    world.lock().expect("the world").policy = None;
    StatusCode::NO_CONTENT
}

/// All checkpoints are steps.
async fn history(State(world): Shared) -> Json<History> {
    let world = world.lock().expect("the world");
    Json(History {
        auto_checkpoint: world.policy,
        steps: world.checkpoints.iter().rev().cloned().collect(),
        failure: None,
    })
}

async fn undo(
    State(world): Shared,
    Path(id): Path<String>,
    Json(body): Json<UndoSandbox>,
) -> Response {
    let world = world.lock().expect("the world");
    let steps = body.steps.unwrap_or(1) as usize;
    let mut names = world.checkpoints.iter().rev().map(|it| it.name.clone());
    let to = match body.checkpoint {
        Some(name) => names.find(|known| *known == name),
        None => names.nth(steps - 1),
    };
    let sandbox = world.sandboxes.get(&id).cloned();
    match (to, sandbox) {
        (Some(checkpoint), Some(sandbox)) => Json(Undone {
            sandbox,
            checkpoint,
            saved_as: "undo-1".to_owned(),
        })
        .into_response(),
        _ => missing("step of the history"),
    }
}

async fn list_snapshots(State(world): Shared) -> Json<Vec<Template>> {
    Json(
        world
            .lock()
            .expect("the world")
            .snapshots
            .values()
            .cloned()
            .collect(),
    )
}

async fn create_snapshot(State(world): Shared, Json(body): Json<CreateSnapshot>) -> Response {
    let mut world = world.lock().expect("the world");
    let name = body.name.unwrap_or_else(|| "template-0".to_owned());
    if world.snapshots.contains_key(&name) && body.overwrite != Some(true) {
        return refusal(
            409,
            "conflict",
            &format!("there is a template {name} already"),
        );
    }
    let made = if body.memory == Some(false) {
        template(&name, TemplateKind::Image)
    } else {
        let vcpus = Some(2);
        let memory_mb = Some(256);
        let disk_mb = Some(4096);
        let source_sandbox_id = Some(body.sandbox_id);
        Template {
            vcpus,
            memory_mb,
            disk_mb,
            source_sandbox_id,
            ..template(&name, TemplateKind::Snapshot)
        }
    };
    world.snapshots.insert(name, made.clone());
    (StatusCode::CREATED, Json(made)).into_response()
}

async fn get_snapshot(State(world): Shared, Path(name): Path<String>) -> Response {
    match world.lock().expect("the world").snapshots.get(&name) {
        Some(snapshot) => Json(snapshot).into_response(),
        None => missing(&name),
    }
}

async fn delete_snapshot(State(world): Shared, Path(name): Path<String>) -> Response {
    match world.lock().expect("the world").snapshots.remove(&name) {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => missing(&name),
    }
}

/// One file of each kind of change, of checkpoints other than `same`; one that cannot be read of
/// `damaged`; an answer from `broken` has no end.
async fn diff(Query(query): Query<HashMap<String, String>>) -> Response {
    let from = query.get("from").cloned().unwrap_or_default();
    let patch = |text: &str| {
        query.contains_key("patches").then(|| FilePatch {
            text: text.to_owned(),
            is_cut: false,
            is_binary: text.is_empty(),
        })
    };
    let state = |size| FileState {
        kind: InodeKind::File,
        size,
        mode: 0o644,
        uid: 0,
        gid: 0,
        symlink_target: None,
        device: None,
        sha256: None,
    };
    let change = |path: &str, before, after, text: &str| {
        DiffMessage::Change(Box::new(FileDiff {
            path: path.to_owned(),
            before,
            after,
            content_changed: true,
            attributes_changed: false,
            unreadable: false,
            patch: patch(text),
        }))
    };
    let mut lines = vec![DiffMessage::Start {
        from: from.clone(),
        to: query.get("to").cloned(),
        from_unflushed: false,
        to_unflushed: false,
    }];
    if from != "same" {
        lines.extend([
            change(
                "/a\u{1b}",
                None,
                Some(state(5)),
                "@@ -0,0 +1 @@\n+a\u{1b}\n",
            ),
            change(
                "/b",
                Some(state(4)),
                Some(state(6)),
                "@@ -1 +1 @@\n-b\n+c\n",
            ),
            change("/d", Some(state(7)), None, ""),
        ]);
    }
    if from == "damaged" {
        lines.truncate(1);
        lines.push(DiffMessage::Change(Box::new(FileDiff {
            path: "/e".to_owned(),
            before: None,
            after: None,
            content_changed: false,
            attributes_changed: false,
            unreadable: true,
            patch: None,
        })));
    }
    if from != "broken" {
        let limit = query.get("limit").map(|_| "the limit".to_owned());
        let unreadable = u64::from(from == "damaged");
        lines.push(DiffMessage::End {
            incomplete: limit.or_else(|| (unreadable > 0).then(|| "1 is unreadable".to_owned())),
            compared: 3,
            unreadable,
        });
    }
    let text = lines
        .iter()
        .map(|line| serde_json::to_string(line).expect("JSON") + "\n");
    text.collect::<String>().into_response()
}
