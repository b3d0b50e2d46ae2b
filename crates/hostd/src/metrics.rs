//! Metrics of the host agent. [`METRICS`] is the one list; `docs/metrics.md` repeats it.

use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use linux::file::Space;
use linux::usage::HostMemory;
use metrics::{counter, gauge, histogram};
use model::SandboxState;
use runtime::metrics::{Metric, MetricKind};

use crate::sandbox::state::{Event, Phase};

const RPC_DURATION: &str = "wrenn_agent_rpc_duration_seconds";
const OPERATIONS: &str = "wrenn_agent_sandbox_operations_total";
const OPERATION_DURATION: &str = "wrenn_agent_sandbox_operation_duration_seconds";
const SANDBOXES: &str = "wrenn_agent_sandboxes";
const SANDBOX_LIMIT: &str = "wrenn_agent_sandbox_limit";
const NETWORKS_AVAILABLE: &str = "wrenn_agent_networks_available";
const MEMORY: &str = "wrenn_agent_host_memory_bytes";
const MEMORY_AVAILABLE: &str = "wrenn_agent_host_memory_available_bytes";
const DISK: &str = "wrenn_agent_host_disk_bytes";
const DISK_FREE: &str = "wrenn_agent_host_disk_free_bytes";

/// All metrics of the host agent.
pub const METRICS: &[Metric] = &[
    Metric {
        name: RPC_DURATION,
        kind: MetricKind::Histogram,
        help: "Time until the answer to a call of the control plane began, by method and class of its status.",
    },
    Metric {
        name: OPERATIONS,
        kind: MetricKind::Counter,
        help: "Changes of sandboxes by operation (create, pause, resume, remove) and outcome.",
    },
    Metric {
        name: OPERATION_DURATION,
        kind: MetricKind::Histogram,
        help: "Time that changes of sandboxes took, by operation and outcome.",
    },
    Metric {
        name: SANDBOXES,
        kind: MetricKind::Gauge,
        help: "Sandboxes of this host by state.",
    },
    Metric {
        name: SANDBOX_LIMIT,
        kind: MetricKind::Gauge,
        help: "Sandboxes that may run at the same time (AGENT_MAX_SANDBOXES).",
    },
    Metric {
        name: NETWORKS_AVAILABLE,
        kind: MetricKind::Gauge,
        help: "Preallocated networks that no sandbox has yet (AGENT_NETWORK_POOL is what is aimed at).",
    },
    Metric {
        name: MEMORY,
        kind: MetricKind::Gauge,
        help: "Memory of the host.",
    },
    Metric {
        name: MEMORY_AVAILABLE,
        kind: MetricKind::Gauge,
        help: "Memory of the host that new programs can have without swapping.",
    },
    Metric {
        name: DISK,
        kind: MetricKind::Gauge,
        help: "Size of the file system with the sandboxes.",
    },
    Metric {
        name: DISK_FREE,
        kind: MetricKind::Gauge,
        help: "Free space of the file system with the sandboxes.",
    },
];

/// Operations on sandboxes, and their outcomes.
const ALL_OPERATIONS: [&str; 4] = ["create", "pause", "resume", "remove"];
const OUTCOMES: [&str; 2] = ["ok", "error"];
const STATES: [SandboxState; 5] = [
    SandboxState::Pending,
    SandboxState::Running,
    SandboxState::Paused,
    SandboxState::Stopped,
    SandboxState::Error,
];

/// Declares the metrics, and shows those that only count events as 0 from the start.
pub fn install() {
    runtime::metrics::install(METRICS);
    for operation in ALL_OPERATIONS {
        for outcome in OUTCOMES {
            counter!(OPERATIONS, "operation" => operation, "outcome" => outcome).absolute(0);
        }
    }
}

/// Returns the name of the operation that a phase does; `None` if it only lasts.
pub(crate) fn operation_name(phase: &Phase) -> Option<&'static str> {
    match phase {
        Phase::Creating => Some("create"),
        Phase::Pausing => Some("pause"),
        Phase::Resuming => Some("resume"),
        Phase::Removing => Some("remove"),
        Phase::Suspending { .. } => Some("suspend"),
        Phase::Releasing { .. } => Some("release"),
        Phase::Running | Phase::Paused { .. } | Phase::Ended { .. } | Phase::Gone => None,
    }
}

/// Records the work of a phase that is an operation, with the event that ended it. One that was cut
/// off by a removal is no outcome of it.
pub(crate) fn record_phase(phase: &Phase, event: &Event, elapsed: Duration) {
    let operation = match operation_name(phase) {
        Some(operation) if ALL_OPERATIONS.contains(&operation) => operation,
        _ => return,
    };
    let outcome = match event {
        Event::Remove => return,
        Event::Failed(_) | Event::NotSaved(_) | Event::Exited(_) => "error",
        _ => "ok",
    };
    counter!(OPERATIONS, "operation" => operation, "outcome" => outcome).increment(1);
    histogram!(OPERATION_DURATION, "operation" => operation, "outcome" => outcome).record(elapsed);
}

/// Measures a call of the control plane: middleware of axum, behind the check of the token.
pub(crate) async fn measure_call(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let method = path
        .strip_prefix("/hostagent.v1.")
        .unwrap_or("other")
        .to_owned();
    let begin = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    // Only a method that exists is a label.
    let method = if status == 404 {
        "other".to_owned()
    } else {
        method
    };
    let class = match status {
        100..=399 => "ok",
        400..=499 => "4xx",
        _ => "5xx",
    };
    histogram!(RPC_DURATION, "method" => method, "status" => class).record(begin.elapsed());
    response
}

/// State of the host at a scrape.
pub(crate) struct Reading {
    pub(crate) states: Vec<SandboxState>,
    pub(crate) sandbox_limit: usize,
    pub(crate) networks_available: usize,
    pub(crate) memory: HostMemory,
    /// `None` until it was read first.
    pub(crate) disk: Option<Space>,
}

/// Sets the gauges.
pub(crate) fn record_reading(reading: &Reading) {
    for state in STATES {
        let in_state = reading.states.iter().filter(|other| **other == state);
        gauge!(SANDBOXES, "state" => state.as_str()).set(in_state.count() as f64);
    }
    gauge!(SANDBOX_LIMIT).set(reading.sandbox_limit as f64);
    gauge!(NETWORKS_AVAILABLE).set(reading.networks_available as f64);
    gauge!(MEMORY).set(reading.memory.total as f64);
    gauge!(MEMORY_AVAILABLE).set(reading.memory.available as f64);
    if let Some(disk) = reading.disk {
        gauge!(DISK).set(disk.total as f64);
        gauge!(DISK_FREE).set(disk.free as f64);
    }
}
