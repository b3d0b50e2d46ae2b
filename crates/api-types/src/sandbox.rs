//! Sandboxes, and the server's health.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::network::NetworkRules;

/// Body of `POST /v1/sandboxes`. Every field has a default.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSandbox {
    /// Default `minimal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        example = "minimal",
        min_length = 1,
        max_length = 63,
        pattern = "^[a-z0-9][a-z0-9._-]*$"
    )]
    pub template: Option<String>,
    /// Default 1; from a snapshot with memory always the snapshot's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub vcpus: Option<u32>,
    /// MiB. Default 512; from a snapshot with memory always the snapshot's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 128)]
    pub memory_mb: Option<u32>,
    /// Seconds without activity until `on_timeout` is done. 0 and absent mean 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    pub timeout_sec: Option<u32>,
    /// Default `pause`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_timeout: Option<OnTimeout>,
    /// True if a command in the paused sandbox, a call on its files or a connection to a port
    /// resumes it. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_resume: Option<bool>,
    /// MiB of the root disk. Default, and least, is the size of the template's file system; from a
    /// snapshot with memory always the snapshot's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 16)]
    pub disk_mb: Option<u32>,
    /// Environment of every process in the sandbox.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    /// True if the address of a port is enough to use it, without a key or a link. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_ports: Option<bool>,
    /// Where it may connect to. Default: the public internet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkRules>,
}

/// What is done with a sandbox that nobody uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// It is paused; nothing is lost.
    #[default]
    Pause,
    /// It is stopped; its disk and memory go.
    Kill,
}

impl From<model::OnTimeout> for OnTimeout {
    fn from(action: model::OnTimeout) -> Self {
        match action {
            model::OnTimeout::Pause => Self::Pause,
            model::OnTimeout::Kill => Self::Kill,
        }
    }
}

impl From<OnTimeout> for model::OnTimeout {
    fn from(action: OnTimeout) -> Self {
        match action {
            OnTimeout::Pause => Self::Pause,
            OnTimeout::Kill => Self::Kill,
        }
    }
}

const fn auto_resume() -> bool {
    model::SandboxSpec::DEFAULT_AUTO_RESUME
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SandboxStatus {
    Pending,
    Running,
    Paused,
    Stopped,
    Error,
}

impl From<model::SandboxState> for SandboxStatus {
    fn from(state: model::SandboxState) -> Self {
        match state {
            model::SandboxState::Pending => Self::Pending,
            model::SandboxState::Running => Self::Running,
            model::SandboxState::Paused => Self::Paused,
            model::SandboxState::Stopped => Self::Stopped,
            model::SandboxState::Error => Self::Error,
        }
    }
}

/// A sandbox. Times are RFC 3339.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Sandbox {
    #[schema(example = "sb-0123456789abcdefghij")]
    pub id: String,
    pub status: SandboxStatus,
    /// Why it is `stopped` or `error`; or why it is `running` but stands still, as when the host's
    /// disk is full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub template: String,
    pub vcpus: u32,
    pub memory_mb: u32,
    pub timeout_sec: u32,
    #[serde(default)]
    pub on_timeout: OnTimeout,
    #[serde(default = "auto_resume")]
    pub auto_resume: bool,
    /// MiB of the root disk; known once a host has the sandbox, or where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mb: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
    /// Whether its ports need no key and no link.
    #[serde(default)]
    pub public_ports: bool,
    #[serde(default)]
    pub network: NetworkRules,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_ip: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<String>,
    pub created_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_active_at: Option<String>,
    pub last_updated: String,
}

/// A root disk on its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Disk {
    /// What it is made of: `dm`, `reflink`, `qcow2` or `copy`.
    #[schema(example = "dm")]
    pub backend: String,
    /// Allocated on the host, without what it shares with others.
    pub used_bytes: u64,
}

/// Answer to `GET /health`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`, or `degraded` when no host can be reached.
    pub status: String,
    pub version: String,
}
