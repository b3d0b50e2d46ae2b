//! Paths of the files that the agent reads and makes.

use std::path::{Path, PathBuf};

use runtime::config::Variables;

const KERNEL: &str = "AGENT_KERNEL_PATH";
const IMAGES: &str = "AGENT_IMAGES_PATH";
const SANDBOXES: &str = "AGENT_SANDBOXES_PATH";
const SNAPSHOTS: &str = "AGENT_SNAPSHOTS_PATH";
const ENVD: &str = "AGENT_ENVD_PATH";

/// Files and directories, all absolute.
#[derive(Debug, Clone)]
pub struct PathConfig {
    /// `AGENT_KERNEL_PATH`: a bzImage or an ELF vmlinux.
    pub kernel: PathBuf,
    /// `AGENT_IMAGES_PATH`: base images, one file each.
    pub images: PathBuf,
    /// `AGENT_SANDBOXES_PATH`: the ledger, one directory for each sandbox.
    pub sandboxes: PathBuf,
    /// `AGENT_SNAPSHOTS_PATH`: templates made from sandboxes; best on the file system of the
    /// sandboxes.
    pub snapshots: PathBuf,
    /// `AGENT_ENVD_PATH`: the static guest agent.
    pub envd: PathBuf,
}

impl PathConfig {
    pub(super) fn from_variables(variables: &Variables<'_>, dir: &Path) -> Self {
        Self {
            kernel: variables.path(KERNEL, &dir.join("kernels/vmlinux")),
            images: variables.path(IMAGES, &dir.join("images")),
            sandboxes: variables.path(SANDBOXES, &dir.join("sandboxes")),
            snapshots: variables.path(SNAPSHOTS, &dir.join("snapshots")),
            envd: variables.path(ENVD, &beside_program("envd")),
        }
    }
}

/// Returns the path of a program next to this one: `make build` puts all into one directory.
fn beside_program(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let dir = program.parent().unwrap_or(Path::new("/usr/local/bin"));
    dir.join(name)
}
