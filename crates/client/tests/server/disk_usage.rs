//! Space on disk: of each sandbox 10 MiB, of which 3 MiB go with it.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use client::types::{DiskUsage, SandboxDiskUsage, Sizes, Space};

use super::{Shared, refusal};

fn sizes(count: usize) -> Sizes {
    let count = count as u64;
    Sizes {
        size_bytes: count * (10 << 20),
        exclusive_bytes: count * (3 << 20),
        shared_bytes: count * (7 << 20),
    }
}

fn usage(id: &str) -> SandboxDiskUsage {
    SandboxDiskUsage {
        id: id.to_owned(),
        total: sizes(1),
        own: sizes(1),
        paused: sizes(0),
        checkpoints: Space::default(),
    }
}

pub async fn of_sandbox(State(world): Shared, Path(id): Path<String>) -> Response {
    match world.lock().expect("the world").sandboxes.get(&id) {
        Some(_) => Json(usage(&id)).into_response(),
        None => refusal(404, "not_found", &format!("no sandbox {id}")),
    }
}

pub async fn of_all(State(world): Shared) -> Json<DiskUsage> {
    let world = world.lock().expect("the world");
    let count = world.sandboxes.len();
    Json(DiskUsage {
        sandboxes: Space {
            count: count as u64,
            sizes: sizes(count),
        },
        total: sizes(count),
        by_sandbox: world.sandboxes.keys().map(|id| usage(id)).collect(),
        ..DiskUsage::default()
    })
}
