//! What sandboxes and the host use: as the test says.

use host_rpc as rpc;
use host_rpc::StatsService;

use super::super::world::Sandbox;
use super::{Agent, unary};

#[allow(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl StatsService for Agent {
    unary!(get_usage(self, request: GetUsageRequest) -> GetUsageResponse, "GetUsage", {
        let world = self.shared.world();
        let found = request.sandbox_ids.iter().filter_map(|id| world.sandboxes.get(id));
        let sandboxes = found.map(|sandbox| {
            let points = world.usage.get(&sandbox.id);
            rpc::SandboxUsage {
                sandbox_id: sandbox.id.clone(),
                sizes: sizes(sandbox).into(),
                latest: points.and_then(|points| points.last().cloned()).into(),
                ..Default::default()
            }
        });
        rpc::GetUsageResponse { sandboxes: sandboxes.collect(), ..Default::default() }
    });

    unary!(list_usage(self, request: ListUsageRequest) -> ListUsageResponse, "ListUsage", {
        let id = request.sandbox_id;
        let sizes = if id.is_empty() {
            rpc::ResourceSizes { cpu_count: 2, memory_bytes: 1 << 34, disk_bytes: 1 << 40, ..Default::default() }
        } else {
            self.find(&id, |sandbox| sizes(sandbox))?
        };
        let points = self.shared.world().usage.get(&id).cloned().unwrap_or_default();
        let is_wanted = |point: &rpc::UsagePoint| (request.from_ms..=request.to_ms).contains(&point.time_ms);
        rpc::ListUsageResponse {
            sizes: sizes.into(),
            step_sec: request.step_sec.max(1),
            points: points.into_iter().filter(is_wanted).collect(),
            ..Default::default()
        }
    });
}

fn sizes(sandbox: &Sandbox) -> rpc::ResourceSizes {
    rpc::ResourceSizes {
        cpu_count: sandbox.spec.vcpus,
        memory_bytes: u64::from(sandbox.spec.memory_mb) << 20,
        disk_bytes: 4 << 30,
        ..Default::default()
    }
}
