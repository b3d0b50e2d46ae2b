//! Where stages begin, and where copied files come from.

use serde::Serialize;

/// Where a stage begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum StageBase {
    /// An empty file system.
    Scratch,
    /// Number of an earlier stage of the Dockerfile.
    Stage(usize),
    /// Reference of an image.
    Image(String),
}
