//! Calls for which this server has nothing: they answer 501 and say what it is.

use super::error::{Failure, Result};

/// Refuses builds, tags and publication of templates.
pub async fn template_builds() -> Result<()> {
    Err(Failure::unsupported(
        "template builds over E2B's API",
        "make a template from a sandbox (snapshots), or import an image: docs/images.md",
    ))
}

/// Refuses volumes.
pub async fn volumes() -> Result<()> {
    Err(Failure::unsupported(
        "volumes",
        "keep files in a sandbox that is paused, or in a snapshot of it",
    ))
}

/// Refuses secrets.
pub async fn secrets() -> Result<()> {
    Err(Failure::unsupported(
        "secrets store",
        "pass values in the environment of a sandbox (envs)",
    ))
}

/// Refuses teams.
pub async fn teams() -> Result<()> {
    Err(Failure::unsupported(
        "team management over E2B's API",
        "keys and teams are made with `wrenn-cp key create`",
    ))
}
