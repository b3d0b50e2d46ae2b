//! What sandboxes and the host use.

use std::sync::Arc;

use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};
use host_rpc as rpc;
use host_rpc::StatsService;
use stdx::task::run_blocking;
use stdx::time::now_ms;

use super::error::from_sandbox_error;
use super::{Agent, sandbox_id};
use crate::host::Host;
use crate::sandbox::state::Phase;
use crate::sandbox::{Handle, SandboxError};
use crate::stats::{Point, Query, Series};

/// Most sandboxes of one question.
const MAX_IDS: usize = 1000;

#[expect(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl StatsService for Agent {
    async fn get_usage(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::GetUsageRequest>,
    ) -> ServiceResult<rpc::GetUsageResponse> {
        let request = request.to_owned_message();
        if request.sandbox_ids.len() > MAX_IDS {
            let problem = format!("at most {MAX_IDS} sandboxes at once");
            return Err(ConnectError::invalid_argument(problem));
        }
        let now = now_ms();
        let mut sandboxes = Vec::new();
        for id in &request.sandbox_ids {
            if let Ok(handle) = self.manager.find_sandbox(&sandbox_id(id)?).await {
                sandboxes.push(sandbox_usage(&handle, now));
            }
        }
        Response::ok(rpc::GetUsageResponse {
            sandboxes,
            ..Default::default()
        })
    }

    async fn list_usage(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ListUsageRequest>,
    ) -> ServiceResult<rpc::ListUsageResponse> {
        let request = request.to_owned_message();
        let query = Query {
            from_ms: request.from_ms,
            to_ms: request.to_ms,
            step_sec: request.step_sec,
        };
        let (sizes, series) = if request.sandbox_id.is_empty() {
            let host = Arc::clone(&self.manager.host);
            let sizes = run_blocking(move || Ok::<_, SandboxError>(host_sizes(&host))).await;
            let sizes = sizes.map_err(from_sandbox_error)?;
            (sizes, self.manager.host.stats.series(query, now_ms()))
        } else {
            let id = sandbox_id(&request.sandbox_id)?;
            let found = self.manager.find_sandbox(&id).await;
            let handle = found.map_err(from_sandbox_error)?;
            (sandbox_sizes(&handle), handle.stats.series(query, now_ms()))
        };
        Response::ok(list_response(sizes, series))
    }
}

fn list_response(sizes: rpc::ResourceSizes, series: Series) -> rpc::ListUsageResponse {
    rpc::ListUsageResponse {
        sizes: sizes.into(),
        step_sec: series.step_sec,
        points: series.points.into_iter().map(point_message).collect(),
        ..Default::default()
    }
}

fn sandbox_usage(handle: &Handle, now_ms: i64) -> rpc::SandboxUsage {
    // It may have been paused since it was measured.
    let is_running = handle.record.borrow().phase == Phase::Running;
    let latest = handle.stats.latest(now_ms).filter(|_| is_running);
    rpc::SandboxUsage {
        sandbox_id: handle.id.to_string(),
        sizes: sandbox_sizes(handle).into(),
        latest: latest.map(point_message).into(),
        ..Default::default()
    }
}

fn sandbox_sizes(handle: &Handle) -> rpc::ResourceSizes {
    let record = handle.record.borrow();
    let size = record.spec.machine_size();
    rpc::ResourceSizes {
        cpu_count: size.vcpus,
        memory_bytes: u64::from(size.memory_mb) << 20,
        disk_bytes: record.disk.map_or(0, |disk| disk.size_bytes),
        ..Default::default()
    }
}

/// Blocking.
fn host_sizes(host: &Host) -> rpc::ResourceSizes {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let space = linux::file::file_system_space(host.state.ledger.dirs().root());
    rpc::ResourceSizes {
        cpu_count: u32::try_from(cpus).unwrap_or(u32::MAX),
        memory_bytes: crate::doctor::memory_bytes(),
        disk_bytes: space.map_or(0, |space| space.total),
        ..Default::default()
    }
}

fn point_message(Point { time_ms, usage }: Point) -> rpc::UsagePoint {
    let guest = usage.guest.map(|guest| rpc::GuestUsage {
        memory_bytes: guest.memory_bytes,
        disk_bytes: guest.disk_bytes,
        ..Default::default()
    });
    rpc::UsagePoint {
        time_ms,
        cpu_hundredths: usage.cpu_hundredths,
        memory_bytes: usage.memory_bytes,
        disk_bytes: usage.disk_bytes,
        rx_bytes_per_sec: usage.rx_bytes_per_sec,
        tx_bytes_per_sec: usage.tx_bytes_per_sec,
        guest: guest.into(),
        ..Default::default()
    }
}
