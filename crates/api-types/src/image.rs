//! Images that are pulled from registries, and those that nothing uses.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ErrorDetail;
use crate::template::Template;

/// Body of `POST /v1/images/{name}/pull`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// Reference of the image; without a registry it is Docker Hub's.
    #[schema(example = "alpine:3.20", min_length = 1, max_length = 600)]
    pub reference: String,
    /// Credentials for its registry. They are neither stored nor logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<RegistryCredentials>,
    /// Replace another image that the team has under that name. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<bool>,
}

/// Credentials for a registry: a name with a password or access token, or an identity token alone.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryCredentials {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub password: Option<String>,
    /// Refresh token of OAuth 2, as `docker login` stores it for some registries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub identity_token: Option<String>,
}

impl fmt::Debug for RegistryCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RegistryCredentials")
    }
}

/// A line of the answer of a pull. The last one is `done` or `error`; without either the answer
/// broke off, and the image may be there.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PullMessage {
    Progress {
        phase: PullPhase,
        /// Bytes of layers that have come.
        bytes: u64,
        /// Bytes of layers that there are.
        total_bytes: u64,
        layers_done: u32,
        layers: u32,
    },
    /// Sandboxes can be created from it.
    Done { image: Box<Template> },
    /// There is no new image.
    Error { error: ErrorDetail },
}

/// Phase of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PullPhase {
    Downloading,
    Unpacking,
}

/// Answer of `DELETE /v1/images`: images that no sandbox was made from.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PrunedImages {
    /// Nothing was deleted.
    pub dry_run: bool,
    /// Images that were deleted, or would be, by name.
    pub images: Vec<Template>,
    /// Bytes that are free on hosts when these are deleted.
    pub freed_bytes: u64,
    /// Bytes of them that stay, since snapshots or other images have them, too.
    pub shared_bytes: u64,
    /// Images that could not be deleted.
    pub failed: Vec<UnprunedImage>,
}

/// An unused image that could not be deleted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UnprunedImage {
    pub name: String,
    pub error: ErrorDetail,
}
