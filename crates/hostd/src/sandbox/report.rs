//! Builds the report about a sandbox for the control plane from its record.

use host_rpc as rpc;
use model::SandboxState;
use sha2::{Digest, Sha256};

use super::handle::Handle;
use super::ledger::{Ledger, Record};
use super::state::Phase;
use crate::disk::MIB;

/// Returns the report about a sandbox. Reads the usage of its disk, which may block.
#[must_use]
pub fn sandbox_report(ledger: &Ledger, record: &Record, handle: &Handle) -> rpc::SandboxReport {
    let is_running = record.phase.state() == SandboxState::Running;
    let slot = record.slot.filter(|_| is_running);
    let guest_ip = is_running.then(|| vmm::GUEST_IP.to_string());
    let host_ip = slot.map(|slot| slot.host_ip().to_string());
    rpc::SandboxReport {
        sandbox_id: record.id.to_string(),
        generation: record.generation.0,
        state: state(&record.phase).into(),
        reason: reason(record, handle),
        stop_reason: rpc::stop_reason::to_message(record.phase.stop_reason()).into(),
        spec: rpc::spec::to_reported(&record.spec).into(),
        guest_ip: guest_ip.unwrap_or_default(),
        host_ip: host_ip.unwrap_or_default(),
        created_at_ms: record.created_at_ms,
        started_at_ms: record.started_at_ms.unwrap_or_default(),
        last_active_at_ms: record
            .started_at_ms
            .map_or(0, |_| handle.activity.last_ms()),
        disk: disk(ledger, record).into(),
        access_token_sha256: Sha256::digest(record.token.as_bytes()).to_vec(),
        access_token: record.token.clone(),
        ..rpc::SandboxReport::default()
    }
}

/// Returns the reason for which it has ended, is paused or is stalled; empty if there is none.
fn reason(record: &Record, handle: &Handle) -> String {
    let stalled = handle.stalled.reason();
    let stalled = stalled.filter(|_| record.phase == Phase::Running);
    stalled.unwrap_or_else(|| record.phase.reason().to_owned())
}

fn disk(ledger: &Ledger, record: &Record) -> Option<rpc::Disk> {
    let disk = record.disk?;
    Some(rpc::Disk {
        backend: disk.backend.name().to_owned(),
        size_mb: u32::try_from(disk.size_bytes.div_ceil(MIB)).unwrap_or(u32::MAX),
        used_bytes: crate::disk::used_bytes(&ledger.sandbox_dir(&record.id)),
        ..rpc::Disk::default()
    })
}

fn state(phase: &Phase) -> rpc::SandboxState {
    match (phase, phase.state()) {
        (Phase::Gone, _) => rpc::SandboxState::SANDBOX_STATE_REMOVED,
        (_, SandboxState::Pending) => rpc::SandboxState::SANDBOX_STATE_PENDING,
        (_, SandboxState::Running) => rpc::SandboxState::SANDBOX_STATE_RUNNING,
        (_, SandboxState::Paused) => rpc::SandboxState::SANDBOX_STATE_PAUSED,
        (_, SandboxState::Stopped) => rpc::SandboxState::SANDBOX_STATE_STOPPED,
        (_, SandboxState::Error) => rpc::SandboxState::SANDBOX_STATE_ERROR,
    }
}
