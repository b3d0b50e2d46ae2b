//! Conversions of space to and from messages.

use host_rpc as rpc;

use crate::disk_usage::{DiskUsageReport, DiskUsageScope, SandboxSpace, Space};
use crate::file_set::Sizes;

/// Returns the scope of a request, without what is no id and no name.
pub(super) fn scope_from(request: &rpc::GetDiskUsageRequest) -> DiskUsageScope {
    let sandboxes = request.sandbox_ids.iter();
    let snapshots = request.snapshots.iter();
    DiskUsageScope {
        sandboxes: sandboxes.filter_map(|id| id.parse().ok()).collect(),
        snapshots: snapshots.filter_map(|name| name.parse().ok()).collect(),
        whole_host: request.whole_host,
    }
}

pub(super) fn report_message(report: DiskUsageReport) -> rpc::GetDiskUsageResponse {
    let sandboxes = report.by_sandbox.into_iter();
    let sandboxes = sandboxes.map(|(id, space)| sandbox_message(id.to_string(), space));
    rpc::GetDiskUsageResponse {
        sandboxes: space(report.sandboxes).into(),
        paused: space(report.paused).into(),
        checkpoints: space(report.checkpoints).into(),
        snapshots: space(report.snapshots).into(),
        images: report.images.and_then(space).into(),
        preboot: report.preboot.and_then(space).into(),
        total: sizes(report.total).into(),
        by_sandbox: sandboxes.collect(),
        ..rpc::GetDiskUsageResponse::default()
    }
}

fn sandbox_message(sandbox_id: String, of: SandboxSpace) -> rpc::SandboxSpace {
    rpc::SandboxSpace {
        sandbox_id,
        total: sizes(of.total).into(),
        own: sizes(of.own).into(),
        paused: sizes(of.paused).into(),
        checkpoints: space(of.checkpoints).into(),
        ..rpc::SandboxSpace::default()
    }
}

fn space(space: Space) -> Option<rpc::Space> {
    Some(rpc::Space {
        count: u32::try_from(space.count).unwrap_or(u32::MAX),
        sizes: sizes(space.sizes).into(),
        ..rpc::Space::default()
    })
}

fn sizes(sizes: Sizes) -> Option<rpc::Sizes> {
    Some(rpc::Sizes {
        size_bytes: sizes.allocated,
        exclusive_bytes: sizes.exclusive,
        ..rpc::Sizes::default()
    })
}
