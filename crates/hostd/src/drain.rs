//! Drain of a host: it takes no new sandboxes, and those that it has go on.
//!
//! ```text
//!              wrenn-agent drain           no sandbox runs
//!  in service ───────────────────▶ draining ◀─────────────▶ drained
//!      ▲                               │                       │
//!      └───────────────────────────────┴─── wrenn-agent undrain
//! ```
//! The operator owns it. On disk is the file `draining` in the directory of the agent, and nothing
//! else: the agent looks for it at each create and whenever it describes itself, so that a drain
//! holds over restarts, and one that died before it wrote the file has changed nothing. Whether the
//! host is drained is not written; the control plane records each change as an event.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const FILE: &str = "draining";

/// Drain of one host. Blocking.
#[derive(Debug, Clone)]
pub struct Drain {
    file: PathBuf,
}

impl Drain {
    /// Returns the drain of the agent with that directory.
    #[must_use]
    pub fn new(agent_dir: &Path) -> Self {
        Self {
            file: agent_dir.join(FILE),
        }
    }

    /// Returns true if the host is to take no new sandboxes.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        // One that cannot be looked for is no reason to refuse everything.
        self.file.try_exists().unwrap_or(false)
    }

    /// Has the host take no new sandboxes. Idempotent.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn request(&self) -> io::Result<()> {
        File::create(&self.file)?.sync_all()?;
        self.sync_dir()
    }

    /// Has the host take new sandboxes again. Idempotent.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn withdraw(&self) -> io::Result<()> {
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed?,
        }
        self.sync_dir()
    }

    fn sync_dir(&self) -> io::Result<()> {
        linux::file::sync_dir(self.file.parent().unwrap_or(Path::new("/")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drain_holds_until_withdrawn() {
        let dir = tempfile::tempdir().unwrap();
        let drain = Drain::new(dir.path());
        drain.withdraw().unwrap();
        assert!(!drain.is_requested());
        drain.request().unwrap();
        drain.request().unwrap();
        assert!(Drain::new(dir.path()).is_requested());
        drain.withdraw().unwrap();
        assert!(!drain.is_requested());
    }
}
