//! Events of changes to rows of sandboxes.

use model::{EventKind, SandboxState};
use serde_json::json;

use super::Sandbox;
use crate::events::NewEvent;

/// Fields of the spec that events have, for who bills and audits. Not the environment, which may have
/// secrets.
const OF_SPEC: [&str; 3] = ["template", "vcpus", "memory_mb"];

/// Returns the event of a change after which the sandbox is as in `row`.
pub(super) fn sandbox_event(kind: EventKind, row: &Sandbox, now: i64) -> NewEvent {
    let mut data = json!({
        "state": row.state.as_str(),
        "reason": row.reason,
        "stop_reason": row.stop_reason,
        "name": row.attributes.name,
        "host_id": row.host_id,
        "disk_mb": row.disk.as_ref().map(|disk| disk.size_mb),
    });
    if let Ok(spec) = serde_json::to_value(&row.spec) {
        for field in OF_SPEC {
            data[field] = spec[field].clone();
        }
    }
    NewEvent {
        kind,
        team_id: Some(row.team_id.clone()),
        subject: row.id.to_string(),
        sandbox_id: Some(row.id.clone()),
        generation: Some(row.generation),
        data,
        now,
    }
}

/// Returns the event of a change by a user, which made `after` of `before`: it has what changed.
pub(super) fn update_event(before: &Sandbox, after: &Sandbox, now: i64) -> NewEvent {
    let mut event = sandbox_event(EventKind::SandboxUpdated, after, now);
    if after.attributes.name != before.attributes.name {
        event.data["previous_name"] = json!(before.attributes.name);
    }
    if after.attributes.labels != before.attributes.labels {
        event.data["labels"] = json!(after.attributes.labels);
    }
    if after.attributes.ends_at != before.attributes.ends_at {
        event.data["ends_at"] = json!(after.attributes.ends_at);
    }
    if after.spec.idle_settings() != before.spec.idle_settings() {
        event.data["idle"] = json!(after.spec.idle_settings());
    }
    if after.spec.checkpoint_policy() != before.spec.checkpoint_policy() {
        event.data["auto_checkpoint"] = json!(after.spec.checkpoint_policy());
    }
    event
}

/// Returns the events of a report, which made `after` of `before`.
pub(super) fn report_events(before: &Sandbox, after: &Sandbox, now: i64) -> Vec<NewEvent> {
    let mut kinds = Vec::new();
    if after.state != before.state {
        kinds.push(match after.state {
            SandboxState::Running if before.state == SandboxState::Paused => {
                EventKind::SandboxResumed
            }
            SandboxState::Running | SandboxState::Pending => EventKind::SandboxStarted,
            SandboxState::Paused => EventKind::SandboxPaused,
            SandboxState::Stopped => EventKind::SandboxStopped,
            SandboxState::Error => EventKind::SandboxFailed,
        });
    }
    if after.spec.network != before.spec.network {
        kinds.push(EventKind::SandboxNetworkChanged);
    }
    let event = |kind| {
        let mut event = sandbox_event(kind, after, now);
        match kind {
            EventKind::SandboxNetworkChanged => {
                event.data["network"] = json!(after.spec.network);
            }
            _ => event.data["previous_state"] = json!(before.state.as_str()),
        }
        event
    };
    kinds.into_iter().map(event).collect()
}
