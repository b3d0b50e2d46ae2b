//! Files in a sandbox.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use model::FileKind;

/// Names one path in the guest; relative paths start at the working directory of the image's
/// configuration, without one at the user's home. A byte that is not UTF-8 is written as U+10FFFD,
/// `x` and two hexadecimal digits, here and in all answers.
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

/// A text frame of a watch. The first one is `started`, the last one `ended` or `error`. Paths are
/// absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WatchServerMessage {
    /// Every change from now on is reported.
    Started,
    Create {
        path: String,
        is_directory: bool,
    },
    Write {
        path: String,
    },
    /// Removed, or moved out of the watched directory.
    Remove {
        path: String,
        is_directory: bool,
    },
    /// Both paths are below the watched directory.
    Rename {
        from: String,
        path: String,
        is_directory: bool,
    },
    /// Permission bits, owner or another attribute.
    Chmod {
        path: String,
        is_directory: bool,
    },
    /// Changes that are not reported: list the directory again. The watch goes on.
    Lost {
        data: String,
    },
    /// The directory itself is gone.
    Ended {
        data: String,
    },
    Error {
        code: String,
        data: String,
    },
}

/// Body of `POST /v1/sandboxes/{id}/files/search`. `name`, `content` or both must be there.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchFilesRequest {
    /// Directory below which is searched, or a file.
    #[schema(example = "/home/user", min_length = 1, max_length = 4096)]
    pub path: String,
    /// Glob of the names of files; with a slash, of their paths below `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "*.py", min_length = 1, max_length = 4096)]
    pub name: Option<String>,
    /// Regular expression that a line of a file has, in the syntax of Rust's `regex`. Files with a
    /// NUL byte are passed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "def \\w+", min_length = 1, max_length = 4096)]
    pub content: Option<String>,
    /// `content` is text, not a regular expression.
    #[serde(default)]
    pub literal: bool,
    #[serde(default)]
    pub ignore_case: bool,
    /// Levels to go down; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10000)]
    pub depth: Option<u32>,
    /// Most matches. Default 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10000)]
    pub limit: Option<u32>,
    /// Longest time. Default 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 300)]
    pub timeout_sec: Option<u32>,
    /// User in the guest; the template's default user where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// A line of the answer of a search; the last one is `end`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SearchMessage {
    Match {
        path: String,
        kind: FileKind,
        /// Number of the line that has `content`, from 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        line: Option<u64>,
        /// That line, at most 1024 bytes of it. Bytes that are not UTF-8 are replaced.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// The line is longer than `text`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_cut: bool,
    },
    /// Without this line the answer broke off.
    End {
        /// Reason why there may be more matches; absent where these are all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        incomplete: Option<String>,
        /// Number of files whose content was searched.
        searched: u64,
        /// Number of files that were passed over because they are binary.
        binary: u64,
        /// Number of files and directories that could not be read.
        unreadable: u64,
    },
}
