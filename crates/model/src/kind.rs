//! Kinds of templates, files and log lines, as hosts report them and users see them.

use serde::{Deserialize, Serialize};

/// Origin of a template, which decides how sandboxes start from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TemplateKind {
    /// Installed on the host as a root file system; sandboxes boot from it.
    Base,
    /// Disk of a sandbox; sandboxes boot from it.
    Image,
    /// Disk and memory of a sandbox; sandboxes go on from there, with its sizes.
    Snapshot,
}

impl TemplateKind {
    /// Returns the kind as it stands in bodies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Image => "image",
            Self::Snapshot => "snapshot",
        }
    }
}

/// Type of an entry of a guest's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Other,
}

/// Type of a file, as the file system on a disk has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum InodeKind {
    File,
    Directory,
    Symlink,
    BlockDevice,
    CharacterDevice,
    Fifo,
    Socket,
}

/// Writer of a line in the log of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    /// The guest's serial console. Written by the guest: do not trust it.
    Console,
    /// The host agent, about what it did with the sandbox.
    Agent,
}
