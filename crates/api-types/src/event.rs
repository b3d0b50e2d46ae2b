//! Events: what changed, when, and who changed it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A change of a sandbox, command, template, key or host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// The same wherever the event is sent to, and of no other event.
    #[schema(example = "evt-19d3c1a2b4f-2a")]
    pub id: String,
    /// Place in the order of all events: `cursor` of the request for those that follow.
    #[schema(example = "42")]
    pub cursor: String,
    /// What changed and how.
    #[serde(rename = "type")]
    #[schema(example = "sandbox.paused")]
    pub kind: String,
    /// RFC 3339.
    #[schema(example = "2026-01-01T00:00:00.123Z")]
    pub time: String,
    /// Team whose event it is; absent for events of the installation, such as those of hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_id: Option<String>,
    /// Id or name of what changed.
    #[schema(example = "sb-4f2k9d0c3m1x7q8w5zra")]
    pub subject: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
    /// Generation of the sandbox after the change. It only grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    pub actor: EventActor,
    /// `X-Request-Id` of the request that made the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What else there is to tell, by type; fields may be added.
    #[schema(value_type = Object)]
    pub data: BTreeMap<String, serde_json::Value>,
}

/// Who made a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventActor {
    /// Id of an API key, `operator` for `wrenn-cp` on the server, or `system`.
    #[schema(example = "key-00f1e2d3c4b5a697")]
    pub id: String,
    /// Network address of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "192.0.2.7")]
    pub address: Option<String>,
}
