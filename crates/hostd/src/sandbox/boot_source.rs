//! What a VM comes from, and what follows from that for the first calls to its guest.

use std::path::PathBuf;

use crate::snapshot::preboot::BootKey;

/// What a sandbox is created from.
#[derive(Debug, Clone)]
pub(crate) enum BootSource {
    /// Boots from an image.
    Image(PathBuf),
    /// Is restored from a snapshot. Its disk is a copy of the snapshot's, or one over `image`.
    Snapshot {
        dir: PathBuf,
        image: Option<PathBuf>,
    },
    /// Was created by an earlier run of the agent.
    Restarted,
}

/// How the VM came to run, which decides how its guest agent is called first.
#[derive(Debug)]
pub(crate) enum BootKind {
    /// Booted: the guest agent takes any token. With a key, the preboot cache has no entry yet.
    Booted { key: Option<BootKey> },
    /// Restored from a snapshot. `token` is the access token held in guest memory; `None` before
    /// the first `/init`.
    Restored { token: Option<String> },
}
