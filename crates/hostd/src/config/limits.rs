//! Limits of the numbers of sandboxes, checkpoints and snapshots on one host.

use runtime::config::Variables;

pub(crate) const SANDBOXES: &str = "AGENT_MAX_SANDBOXES";
pub(crate) const CHECKPOINTS: &str = "AGENT_MAX_CHECKPOINTS";
pub(crate) const SNAPSHOTS: &str = "AGENT_MAX_SNAPSHOTS";
pub(crate) const IMAGES: &str = "AGENT_MAX_IMAGES";
pub(crate) const IMAGE_MB: &str = "AGENT_IMAGE_MAX_MB";

/// Default of `AGENT_MAX_SANDBOXES`: more than the memory of most hosts has room for.
const DEFAULT_SANDBOXES: usize = 1000;
/// Default of `AGENT_MAX_CHECKPOINTS`. Each checkpoint takes inodes, and disk space for the data
/// that was written since the one before.
const DEFAULT_CHECKPOINTS: usize = 100;
/// Default of `AGENT_MAX_SNAPSHOTS`. Each snapshot takes a whole image on disk.
const DEFAULT_SNAPSHOTS: usize = 100;

/// Default of `AGENT_MAX_IMAGES`. Each image takes gigabytes.
const DEFAULT_IMAGES: usize = 200;
/// Default of `AGENT_IMAGE_MAX_MB`: images for machine learning have some 15 GiB.
const DEFAULT_IMAGE_MB: u64 = 20 * 1024;

/// Most sandboxes, checkpoints and snapshots on one host.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Sandboxes that hold resources (`AGENT_MAX_SANDBOXES`).
    pub sandboxes: usize,
    /// Checkpoints of one sandbox (`AGENT_MAX_CHECKPOINTS`).
    pub checkpoints: usize,
    /// Snapshots that were made from one sandbox and still exist (`AGENT_MAX_SNAPSHOTS`).
    pub snapshots: usize,
    /// Images that were imported on this host (`AGENT_MAX_IMAGES`).
    pub images: usize,
    /// Bytes of an image that is imported, unpacked (`AGENT_IMAGE_MAX_MB`).
    pub image_bytes: u64,
}

/// Reads a number of MiB whose bytes are a number, too.
fn image_mb(variables: &mut Variables<'_>) -> u64 {
    let range = 1..=1 << 40;
    variables.parse_within(IMAGE_MB, &range, DEFAULT_IMAGE_MB)
}

impl Limits {
    pub(super) fn from_variables(variables: &mut Variables<'_>) -> Self {
        let mut number = |name, default| variables.parse_or(name, "a number from 0", default);
        Self {
            sandboxes: number(SANDBOXES, DEFAULT_SANDBOXES),
            checkpoints: number(CHECKPOINTS, DEFAULT_CHECKPOINTS),
            snapshots: number(SNAPSHOTS, DEFAULT_SNAPSHOTS),
            images: number(IMAGES, DEFAULT_IMAGES),
            image_bytes: image_mb(variables) << 20,
        }
    }
}
