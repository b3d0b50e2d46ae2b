//! What sandboxes use: always the same.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use client::types::{HostMetrics, MetricsPoint, ResourceSizes, SandboxUsage};

use super::{Shared, refusal};

fn point() -> MetricsPoint {
    MetricsPoint {
        time: "2026-01-01T00:00:00.000Z".to_owned(),
        cpu_percent: 12.5,
        memory_used_bytes: 256 << 20,
        disk_used_bytes: 1 << 20,
        network_rx_bytes_per_sec: 0,
        network_tx_bytes_per_sec: 0,
        guest: None,
    }
}

fn sizes() -> ResourceSizes {
    ResourceSizes {
        cpu_count: 1,
        memory_total_bytes: 2 << 30,
        disk_total_bytes: 4 << 30,
    }
}

pub async fn usage(
    State(world): Shared,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let mut world = world.lock().expect("the world");
    match &mut world.usage_reads_before_failure {
        Some(0) => {
            world.usage_reads_before_failure = None;
            return refusal(502, "agent_error", "the host agent failed");
        }
        Some(more) => *more -= 1,
        None => {}
    }
    let ids: Vec<String> = match query.get("ids") {
        Some(ids) => ids.split(',').map(str::to_owned).collect(),
        None => world.sandboxes.keys().cloned().collect(),
    };
    let mut all = Vec::new();
    for id in ids {
        let Some(sandbox) = world.sandboxes.get(&id) else {
            return refusal(404, "not_found", &format!("there is no sandbox {id}"));
        };
        all.push(SandboxUsage {
            status: sandbox.status,
            sizes: sizes(),
            latest: Some(point()),
            id,
        });
    }
    Json(all).into_response()
}

pub async fn hosts() -> Json<Vec<HostMetrics>> {
    Json(vec![HostMetrics {
        id: "host-a".to_owned(),
        sizes: sizes(),
        sandboxes: 7,
        step_sec: 1,
        points: vec![point(), point()],
    }])
}
