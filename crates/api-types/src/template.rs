//! Templates, and the snapshots and checkpoints that are made of sandboxes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use model::{ImageConfig, TemplateKind};

/// Something that sandboxes can be created from.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Template {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: TemplateKind,
    /// What sandboxes made from a `snapshot` have; absent for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// MiB; as `vcpus`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    /// MiB; as `vcpus`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mb: Option<u32>,
    /// Allocated on the host.
    pub size_bytes: u64,
    /// What is free on the host when it is deleted.
    #[serde(default)]
    pub exclusive_bytes: u64,
    /// What stays, since sandboxes or other templates have it, too.
    #[serde(default)]
    pub shared_bytes: u64,
    /// The sandbox that it was made of; absent for `base`, and images that were imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_sandbox_id: Option<String>,
    /// Content address of an image that was imported: of its manifest (`oci`), of its configuration
    /// (`docker`), or of the file (`tar`, `ext4`). Absent for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^sha256:[0-9a-f]{64}$")]
    pub digest: Option<String>,
    /// Form that an image had when it was imported: `docker`, `oci`, `tar` or `ext4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Configuration of an image under the names of the OCI image specification: commands in
    /// sandboxes have its `Env`, `User` and `WorkingDir`. Absent where the image has none, and in
    /// lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub image_config: Option<Box<ImageConfig>>,
    /// RFC 3339.
    pub created_at: String,
}

/// Body of `POST /v1/snapshots`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshot {
    /// A sandbox that runs or is paused.
    #[schema(example = "sb-0123456789abcdefghij", pattern = "^sb-[a-z0-9]{20}$")]
    pub sandbox_id: String,
    /// Name of the template. Default `template-` and eight hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        example = "my-template",
        min_length = 1,
        max_length = 63,
        pattern = "^[a-z0-9][a-z0-9._-]*$"
    )]
    pub name: Option<String>,
    /// With the memory, so that sandboxes go on where this one is, with its vCPUs, memory and disk
    /// size. Without it they boot from its disk. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<bool>,
    /// Replace a snapshot of that name. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overwrite: Option<bool>,
}

/// Body of `POST /v1/sandboxes/{id}/fork`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkSandbox {
    /// How many. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 32)]
    pub count: Option<u32>,
}

/// Body of `POST /v1/sandboxes/{id}/checkpoints`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCheckpoint {
    /// Default `checkpoint-` and eight hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        example = "before-upgrade",
        min_length = 1,
        max_length = 63,
        pattern = "^[a-z0-9][a-z0-9._-]*$"
    )]
    pub name: Option<String>,
}

/// An instant of a sandbox that it can be put back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Checkpoint {
    pub name: String,
    /// Allocated on the host.
    pub size_bytes: u64,
    /// What is free on the host when it is deleted.
    #[serde(default)]
    pub exclusive_bytes: u64,
    /// What stays, since the sandbox, other checkpoints or templates have it, too.
    #[serde(default)]
    pub shared_bytes: u64,
    /// Made by the host, which removes it when newer ones need its place.
    #[serde(default)]
    pub automatic: bool,
    /// RFC 3339.
    pub created_at: String,
}
