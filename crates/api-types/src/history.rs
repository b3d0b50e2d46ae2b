//! Going back in the history of a sandbox.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auto_checkpoint::AutoCheckpoint;
use crate::sandbox::Sandbox;
use crate::template::Checkpoint;

/// Body of `POST /v1/sandboxes/{id}/undo`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UndoSandbox {
    /// Number of automatic checkpoints to go back. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 50)]
    pub steps: Option<u32>,
    /// Name of any checkpoint to go back to, instead of `steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 63, pattern = "^[a-z0-9][a-z0-9._-]*$")]
    pub checkpoint: Option<String>,
}

/// Answer to an undo.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Undone {
    pub sandbox: Sandbox,
    /// Checkpoint that it is at now.
    pub checkpoint: String,
    /// Checkpoint of the state before: a rollback to it takes the undo back.
    pub saved_as: String,
}

/// Automatic checkpoints of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// Absent while none are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_checkpoint: Option<AutoCheckpoint>,
    /// Where an undo of 1, 2, … steps goes.
    pub steps: Vec<Checkpoint>,
    /// Why the last automatic checkpoint could not be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}
