//! Files in a sandbox.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use model::FileKind;

/// Names one path in the guest; relative paths start at the user's home. A byte that is not UTF-8
/// is written as U+10FFFD, `x` and two hexadecimal digits, here and in all answers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PathRequest {
    #[schema(example = "/home/user/notes.txt", min_length = 1, max_length = 4096)]
    pub path: String,
    /// User in the guest; the template's default user where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// Body of `POST /v1/sandboxes/{id}/files/list`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ListFilesRequest {
    #[schema(min_length = 1, max_length = 4096)]
    pub path: String,
    /// Levels to go down. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 32)]
    pub depth: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Most entries of a page. Without it all entries come in one list, up to 100,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// `X-Next-Cursor` of the page before, unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[A-Za-z0-9_-]{1,5462}$")]
    pub cursor: Option<String>,
}

/// Body of `POST /v1/sandboxes/{id}/files/move`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveFileRequest {
    #[schema(example = "/home/user/draft.txt", min_length = 1, max_length = 4096)]
    pub source: String,
    /// The new path itself, also where a directory is there. Missing parents are made.
    #[schema(example = "/home/user/final.txt", min_length = 1, max_length = 4096)]
    pub destination: String,
    /// Replaces a file that is there, or an empty directory by a directory. Default true.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub overwrite: bool,
    /// User in the guest; the template's default user where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

fn yes() -> bool {
    true
}

/// Body of `POST /v1/sandboxes/{id}/files/chmod`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChmodRequest {
    #[schema(example = "/home/user/run.sh", min_length = 1, max_length = 4096)]
    pub path: String,
    /// As of chmod(1): octal digits, or a symbolic mode such as `u+rwX,go-w`.
    #[schema(
        example = "u+x",
        min_length = 1,
        max_length = 256,
        pattern = "^[0-7ugoarwxXst,+=-]+$"
    )]
    pub mode: String,
    /// Of a directory also all that is below it.
    #[serde(default)]
    pub recursive: bool,
    /// User in the guest; the template's default user where absent. Only the owner and root may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// Body of `POST /v1/sandboxes/{id}/files/chown`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChownRequest {
    #[schema(example = "/srv/data", min_length = 1, max_length = 4096)]
    pub path: String,
    /// Name or number of the new owner; it stays where absent. Owner or group must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "user", min_length = 1)]
    pub owner: Option<String>,
    /// Name or number of the new group; it stays where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "user", min_length = 1)]
    pub group: Option<String>,
    /// Of a directory also all that is below it.
    #[serde(default)]
    pub recursive: bool,
    /// User in the guest; the template's default user where absent. Only root may give files away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "root")]
    pub user: Option<String>,
}

/// One file, as `stat` shows it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FileInfo {
    pub path: String,
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    pub owner: String,
    pub group: String,
    /// RFC 3339.
    pub modified_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symlink_target: Option<String>,
}
