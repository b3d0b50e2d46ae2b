//! Links to ports.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /v1/sandboxes/{id}/port-links`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortLinkRequest {
    #[schema(minimum = 1, example = 3000)]
    pub port: u16,
    /// Seconds until the link opens nothing any more. Default 3600, at most 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2_592_000)]
    pub expires_in_sec: Option<u32>,
}

/// A link to a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortLink {
    /// For a browser. A name of the port's own, where it is known to lead to this server; else the
    /// same as `path_url`.
    pub url: String,
    /// On the server's own name. Pages there live in a browser's sandbox, without cookies and
    /// storage.
    pub path_url: String,
    /// For the header `X-Wrenn-Link` of programs; absent where ports are public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// RFC 3339; absent where ports are public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}
