//! Source of a VM, which decides the first calls to its guest.

use std::path::PathBuf;

use crate::snapshot::preboot::BootKey;

/// Source of a sandbox's first VM.
#[derive(Debug, Clone)]
pub(crate) enum BootSource {
    /// An image, from which it boots.
    Image(PathBuf),
    /// A snapshot, from which it is restored. Its disk is a copy of the snapshot's, or one over
    /// `image`.
    Snapshot {
        dir: PathBuf,
        image: Option<PathBuf>,
    },
    /// An earlier run of the agent, which has created it.
    Restarted,
}

/// Origin of a running VM, which decides the first calls to its guest agent.
#[derive(Debug)]
pub(crate) enum BootKind {
    /// Booted: the guest agent takes any token. With a key, the preboot cache has no entry yet.
    Booted { key: Option<BootKey> },
    /// Restored from a snapshot. `token` is the access token held in guest memory; `None` before
    /// the first `/init`.
    /// `of_template` is true if the memory is that of another sandbox, and false for forks, and for
    /// what this one left itself.
    Restored {
        token: Option<String>,
        of_template: bool,
    },
}
