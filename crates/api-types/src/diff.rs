//! Differences between the files of a sandbox at two moments.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use model::InodeKind;

/// A line of the answer of a comparison. The first one is `start`, the last one `end`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum DiffMessage {
    Start {
        /// Checkpoint before.
        from: String,
        /// Checkpoint after; absent for the present state.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
        /// The guest did not flush its file system before that moment: what it had in memory alone
        /// is not compared.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        from_unflushed: bool,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        to_unflushed: bool,
    },
    Change(Box<FileDiff>),
    /// Without this line the answer broke off.
    End {
        /// Reason why there may be more changes; absent where these are all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        incomplete: Option<String>,
        /// Number of files and directories that were compared.
        compared: u64,
        /// Number of changes that are unreadable.
        unreadable: u64,
    },
}

/// A file that is not as it was, or may be not: new without `before`, gone without `after`, unless
/// it is unreadable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileDiff {
    #[schema(example = "/home/user/notes.txt")]
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<FileState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<FileState>,
    /// The bytes of a regular file differ.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub content_changed: bool,
    /// Extended attributes differ, such as capabilities of a program.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attributes_changed: bool,
    /// Not all of it could be read at both moments, or of what is in a directory: it may differ in
    /// more than is told here. A side that could not be read at all is absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unreadable: bool,
    /// How the content differs, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<FilePatch>,
}

/// A file as it is at one of both moments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileState {
    pub kind: InodeKind,
    /// Bytes of a regular file.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symlink_target: Option<String>,
    /// Major and minor number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "7:0")]
    pub device: Option<String>,
    /// SHA-256 of the content, of a file without a unified diff.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// How a content differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FilePatch {
    /// Hunks of a unified diff. Empty where a side is binary, or too long.
    pub text: String,
    /// Lines are missing at the end, or all of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_cut: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_binary: bool,
}
