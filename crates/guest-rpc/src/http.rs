//! Bodies of the guest agent's plain HTTP endpoints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `POST /init`: the host makes the guest its own machine, after boot and after every restore.
///
/// The first call needs no token and sets it; later calls must carry the token in force.
/// A field that is absent leaves what is in force; one that is not known is passed over, because the agent in a
/// kept snapshot is older than the host that restores it.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InitRequest {
    /// Token that every call but `GET /health` must carry from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    /// Environment of every process started from now on; replaces the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_vars: Option<BTreeMap<String, String>>,
    /// Wall clock of the host, nanoseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_ns: Option<u64>,
    /// Standard base64 of 32 or more bytes of the host's randomness, credited to the guest's pool,
    /// which is then reseeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy: Option<String>,
    /// Host name of the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// User for processes and files where a request names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_user: Option<String>,
    /// Working directory where a request names none; the user's home where this is absent too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_workdir: Option<String>,
    /// Value of `E2B_SANDBOX_ID` and `WRENN_SANDBOX_ID` in every process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
    /// Value of `E2B_TEMPLATE_ID` and `WRENN_TEMPLATE_ID` in every process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_connections: Option<bool>,
}

/// Answer to `POST /freeze`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Frozen {
    pub frozen: bool,
}

/// Never shows the token or the entropy.
impl std::fmt::Debug for InitRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InitRequest")
            .field("hostname", &self.hostname)
            .field("default_user", &self.default_user)
            .field("sandbox_id", &self.sandbox_id)
            .finish_non_exhaustive()
    }
}

/// `GET /metrics`. Names as the E2B control plane reads them (E2B contract 2.7); sizes in bytes unless named `_mib`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// Seconds since the Unix epoch.
    pub ts: i64,
    pub cpu_count: u32,
    pub cpu_used_pct: f32,
    pub mem_total: u64,
    pub mem_used: u64,
    pub mem_cache: u64,
    pub mem_total_mib: u64,
    pub mem_used_mib: u64,
    pub disk_used: u64,
    pub disk_total: u64,
}

/// Body of every plain HTTP error.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The HTTP status again.
    pub code: u16,
    pub message: String,
}

/// One entry of the answer to `POST /files`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct WrittenFile {
    pub path: String,
    pub name: String,
    /// Always `file`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
}
