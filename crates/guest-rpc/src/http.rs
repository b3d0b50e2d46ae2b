//! Bodies of the guest agent's plain HTTP endpoints.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Returns the signature of the URL of a file: `v1_` and the unpadded base64 of the SHA-256 over
/// `path:operation:user:token[:expiration]` (E2B contract 2.7).
#[must_use]
pub fn file_signature(
    path: &str,
    operation: &str,
    user: &str,
    token: &str,
    expiration: Option<&str>,
) -> String {
    let mut text = format!("{path}:{operation}:{user}:{token}");
    if let Some(expiration) = expiration {
        text.push(':');
        text.push_str(expiration);
    }
    format!(
        "v1_{}",
        STANDARD_NO_PAD.encode(Sha256::digest(text.as_bytes()))
    )
}

/// `POST /init`: the host makes the guest its own machine, after boot and after every restore.
///
/// The first call needs no token and sets it; later calls must carry the token in force. A field
/// that is absent leaves what is in force; one that is not known is passed over, because the agent
/// in a kept snapshot is older than the host that restores it.
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
    /// Working directory where a request names none; the user's home where this is absent too. An
    /// absolute one that the guest has not is created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_workdir: Option<String>,
    /// Value of `E2B_SANDBOX_ID` and `WRENN_SANDBOX_ID` in every process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
    /// Value of `E2B_TEMPLATE_ID` and `WRENN_TEMPLATE_ID` in every process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_id: Option<String>,
    /// 32 lower-case hexadecimal digits for `/etc/machine-id`, and for D-Bus's own copy where the
    /// image has one. On a disk that is held still (see [`FreezeRequest`]) it is written by
    /// `POST /thaw`, as is `/etc/hosts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// UUID (lower case, with hyphens) that `/proc/sys/kernel/random/boot_id` shows from now on:
    /// the kernel's own is the same in every clone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Resets every TCP connection that leaves the guest, except the one that this request came on:
    /// after a restore, what was at their other ends is out of reach. Those of the agent itself are
    /// among them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reset_connections: bool,
    /// MTU of the guest's link. Absent: that which it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// IPv6 of the guest's link. Absent: nothing any more of what it was given here before. A guest
    /// whose kernel has no IPv6 passes it over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6>,
}

/// Field `ipv6` of [`InitRequest`]. It is complete: there is no neighbour discovery and no router
/// advertisement on the link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ipv6 {
    /// The guest's address, with the length of its prefix.
    pub address: Ipv6Addr,
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Ipv6Addr,
    /// The gateway's hardware address.
    pub gateway_mac: [u8; 6],
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

/// `POST /freeze`: flushes the root file system and holds it still until `POST /thaw`, so that it
/// is whole on its disk while the host stops the machine. Needs the token; the body may be empty.
/// Processes that write wait for the thaw.
///
/// Both calls may be repeated. After a freeze that was not answered (the machine was stopped first,
/// or the host gave up) the host calls `/thaw`: it waits for a freeze that still goes on, and ends
/// it. `/thaw` has no body, answers 204, and then what `/init` wanted in files is written.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct FreezeRequest {
    /// True to give the disk's unused blocks back first.
    pub trim: bool,
    /// True to drop the page cache first, which makes a smaller snapshot and a slower start after
    /// it.
    pub drop_caches: bool,
    /// Milliseconds after which `drop_caches` and `trim` begin nothing new; absent: no limit. The
    /// flush and the freeze take as long as they take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_ms: Option<u64>,
    /// Milliseconds of the guest's running time (none pass while the machine is stopped) after
    /// which the agent thaws by itself, for a host that does not come back; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thaw_after_ms: Option<u64>,
}

/// Answer to `POST /freeze`, status 200 in either case.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct FreezeAnswer {
    /// True if nothing is written to the root file system now. If not, the machine can be stopped
    /// all the same: its disk is then as after a loss of power.
    pub frozen: bool,
    /// Reason why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// `POST /clock`: sets the guest's wall clock. Needs the token, may be repeated, writes nothing to
/// the disk, and so works on one that is held still. The monotonic clock is left alone. Agents of
/// before answer 404.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ClockRequest {
    /// Wall clock of the host, nanoseconds since the Unix epoch.
    pub time_ns: u64,
}

/// Answer to `POST /clock`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ClockAnswer {
    /// Wall clock of the guest as it is now, nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// Nanoseconds by which it was put forward, negative where it was put back; 0 where it was
    /// close enough.
    pub stepped_ns: i64,
}

/// `GET /metrics`. Names as the E2B control plane reads them (E2B contract 2.7); sizes in bytes
/// unless named `_mib`.
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

/// Name in `Upgrade` of `GET /tunnel/{port}`: 101, and from then on bytes of a TCP connection to
/// that port of the guest's loopback, both ways. Needs the token. 502: nothing listens there.
/// Agents of before answer 404.
pub const TUNNEL_PROTOCOL: &str = "wrenn-tunnel";

/// Body of every plain HTTP error.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The HTTP status again.
    pub code: u16,
    pub message: String,
}

/// Entry of the answer to `POST /files`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct WrittenFile {
    pub path: String,
    pub name: String,
    /// Kind of the file: always `file`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// `POST /files/uploads`: begins an upload that may be continued after a break. Guests of earlier
/// versions answer 404.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadStart {
    pub path: String,
    /// Bytes of the whole file.
    pub length: u64,
    /// Permission bits; those of the old file, or 0644, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// SHA-256 of the whole file, 64 lower-case hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// State of an upload: the answer to `POST /files/uploads`, `GET /files/uploads/{id}`, and to
/// `PATCH /files/uploads/{id}?offset=N`, whose body is appended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadState {
    pub id: String,
    /// Bytes that have arrived.
    pub offset: u64,
    pub length: u64,
    /// The file is in its place.
    pub is_complete: bool,
}
