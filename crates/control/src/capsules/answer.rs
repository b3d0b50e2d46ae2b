//! Capsules as clients of the original read them: our own answers about sandboxes, with the names
//! and states of the original beside or instead of ours.

use model::SandboxState;
use serde_json::{Value, json};
use store::Sandbox;

use crate::api::view;
use crate::app::App;

/// State of a capsule on its way to another one, which the row does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    Pausing,
    Resuming,
}

impl Transition {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Pausing => "pausing",
            Self::Resuming => "resuming",
        }
    }
}

/// Returns the answer about a capsule. Its disk is told of where it is known.
#[must_use]
pub fn describe_capsule(app: &App, row: Sandbox) -> Value {
    describe(app, row, true)
}

/// Returns an entry of a list.
#[must_use]
pub fn list_entry(app: &App, row: Sandbox) -> Value {
    describe(app, row, false)
}

/// Returns the answer about a capsule on its way to another state.
#[must_use]
pub fn describe_transition(app: &App, row: Sandbox, transition: Transition) -> Value {
    let mut answer = describe_capsule(app, row);
    answer["status"] = json!(transition.as_str());
    answer
}

fn describe(app: &App, row: Sandbox, with_disk: bool) -> Value {
    let status = status_of(&row);
    let disk = row.disk.clone();
    let ours = match with_disk {
        true => view::sandbox(row),
        false => view::listed_sandbox(row),
    };
    let mut answer = serde_json::to_value(ours).unwrap_or_default();
    answer["status"] = json!(status);
    answer["metadata"] = answer["labels"].clone();
    // The longest time stands for none.
    if answer["timeout_sec"] == json!(app.limits.max_timeout_sec) {
        answer["timeout_sec"] = json!(0);
    }
    if let Some(disk) = disk {
        answer["disk_size_mb"] = json!(disk.size_mb);
        if with_disk {
            answer["disk_used_mb"] = json!(disk.used_bytes >> 20);
        }
    }
    answer
}

/// Returns the status of a capsule in the original's words.
#[must_use]
pub fn status_of(row: &Sandbox) -> &'static str {
    match row.state {
        SandboxState::Running if row.is_pausing() => Transition::Pausing.as_str(),
        SandboxState::Pending => "starting",
        state => state.as_str(),
    }
}
