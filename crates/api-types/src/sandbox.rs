//! Sandboxes, and the server's health.

use std::collections::BTreeMap;

use model::{InvalidValue, NetworkSpec, ResourceRequest, SandboxSpec, TemplateName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::network::NetworkRules;

pub use model::{OnTimeout, SandboxState as SandboxStatus};

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
            .network(network);
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
        } = spec;
        Self {
            id,
            status,
            reason: None,
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
