//! Sandboxes, and the server's health.

use std::collections::BTreeMap;

use model::{IdleChange, InvalidValue, NetworkSpec, ResourceRequest, SandboxSpec, TemplateName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auto_checkpoint::AutoCheckpoint;
use crate::network::NetworkRules;
use crate::supervised::SupervisedCommand;

pub use model::{OnTimeout, SandboxState as SandboxStatus, StopReason};

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
    /// Name, which stands for the id wherever one does. Unique among the team's sandboxes that are
    /// neither stopped nor failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "web-1")]
    pub name: Option<String>,
    /// Keys and values to find it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(example = json!({"team": "search", "env": "test"}))]
    pub labels: BTreeMap<String, String>,
    /// Time (RFC 3339) at which it is stopped, whatever it does. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub ends_at: Option<String>,
    /// What to do if a sandbox of that name lives already. Default `error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_exists: Option<IfExists>,
    /// When its host makes checkpoints by itself. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_checkpoint: Option<AutoCheckpoint>,
    /// Command that runs from its start on, and again as its policy says. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_command: Option<SupervisedCommand>,
}

/// Answer to a create whose name a living sandbox has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum IfExists {
    /// 409 `conflict`.
    #[default]
    Error,
    /// That sandbox, if it has the template, the sizes and the environment that are asked for; else
    /// 409 `conflict`.
    Return,
}

/// Body of `PATCH /v1/sandboxes/{id}`. What is left out stays as it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateSandbox {
    /// `null` takes the name away.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, example = "web-2")]
    pub name: Option<Option<String>>,
    /// Labels to set; those that are `null` are removed, and all others stay.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(example = json!({"env": "prod"}))]
    pub labels: BTreeMap<String, Option<String>>,
    /// Time (RFC 3339) at which it is stopped; `null`: it does not end by itself.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ends_at: Option<Option<String>>,
    /// Seconds without activity until `on_timeout` is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub timeout_sec: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_timeout: Option<OnTimeout>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_resume: Option<bool>,
}

impl From<&UpdateSandbox> for IdleChange {
    fn from(body: &UpdateSandbox) -> Self {
        Self {
            timeout_sec: body.timeout_sec,
            on_timeout: body.on_timeout,
            auto_resume: body.auto_resume,
        }
    }
}

/// Deserializes a field that is there, be it `null`.
fn given<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Answer to `GET /v1/sandboxes/count`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SandboxCount {
    pub count: u64,
}

impl TryFrom<CreateSandbox> for SandboxSpec {
    type Error = InvalidValue;

    /// Returns the spec of a create, with defaults for the fields that the body leaves out.
    fn try_from(body: CreateSandbox) -> Result<Self, InvalidValue> {
        let CreateSandbox {
            template,
            vcpus,
            memory_mb,
            timeout_sec,
            on_timeout,
            auto_resume,
            disk_mb,
            envs,
            public_ports,
            network,
            // They are no part of the spec.
            name: _,
            labels: _,
            ends_at: _,
            if_exists: _,
            auto_checkpoint,
            start_command,
        } = body;
        let template: Option<TemplateName> = template.map(|name| name.parse()).transpose()?;
        let network: Option<NetworkSpec> = network.map(TryInto::try_into).transpose()?;
        let spec = Self::builder()
            .template(template)
            .vcpus(vcpus)
            .memory_mb(memory_mb)
            .timeout_sec(timeout_sec.filter(|&seconds| seconds > 0))
            .on_timeout(on_timeout)
            .auto_resume(auto_resume)
            .disk_mb(disk_mb)
            .envs(envs)
            .public_ports(public_ports)
            .network(network)
            .auto_checkpoint(auto_checkpoint.map(model::AutoCheckpoint::from))
            .start_command(start_command.map(TryInto::try_into).transpose()?);
        Ok(spec.build())
    }
}

const fn auto_resume() -> bool {
    SandboxSpec::DEFAULT_AUTO_RESUME
}

impl From<&CreateSandbox> for ResourceRequest {
    fn from(body: &CreateSandbox) -> Self {
        Self {
            vcpus: body.vcpus,
            memory_mb: body.memory_mb,
            disk_mb: body.disk_mb,
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
    /// Why it is `stopped` or `error`, of a closed list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When it is stopped, whatever it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<String>,
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
    /// When its host makes checkpoints by itself; absent where it makes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_checkpoint: Option<AutoCheckpoint>,
    /// Its start command, without `envs`. `GET …/commands/start` has its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_command: Option<SupervisedCommand>,
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

impl Sandbox {
    /// Returns the answer about a sandbox on which no host has reported yet.
    #[must_use]
    pub fn from_spec(
        id: String,
        status: SandboxStatus,
        spec: SandboxSpec,
        created_at: String,
    ) -> Self {
        let SandboxSpec {
            template,
            vcpus,
            memory_mb,
            timeout_sec,
            on_timeout,
            auto_resume,
            disk_mb,
            // Environments can hold secrets.
            envs: _,
            public_ports,
            network,
            auto_checkpoint,
            start_command,
        } = spec;
        Self {
            id,
            status,
            reason: None,
            stop_reason: None,
            name: None,
            labels: BTreeMap::new(),
            ends_at: None,
            template: template.to_string(),
            vcpus,
            memory_mb,
            timeout_sec,
            on_timeout,
            auto_resume,
            disk_mb,
            disk: None,
            public_ports,
            network: network.into(),
            auto_checkpoint: auto_checkpoint.map(AutoCheckpoint::from),
            start_command: start_command.map(SupervisedCommand::from),
            guest_ip: None,
            host_ip: None,
            last_updated: created_at.clone(),
            created_at,
            started_at: None,
            last_active_at: None,
        }
    }
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
