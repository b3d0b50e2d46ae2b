//! Comparison of the files of a sandbox at two moments. Only its host knows them.

use model::{Resource, SandboxId, SandboxState};

use super::App;
use super::files::check_path_text;
use crate::auth::Principal;
use crate::error::Result;
use crate::hosts::{DiffQuery, DiffStream};

/// Most changes of one comparison, and those of one that names no number.
pub const MAX_CHANGES: u32 = 100_000;
pub const DEFAULT_CHANGES: u32 = 10_000;
/// Longest time of one comparison, seconds, and that of one that names none.
pub const MAX_DIFF_SEC: u32 = 300;
pub const DEFAULT_DIFF_SEC: u32 = 60;

impl App {
    /// Begins a comparison. A paused sandbox stays paused. The present state of a running one takes
    /// the right to write: its guest stands still for it, as for a checkpoint.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound` for a checkpoint or path that does not exist; the sandbox's state;
    /// the host's.
    pub async fn diff_sandbox(
        &self,
        principal: &Principal,
        id: &SandboxId,
        query: DiffQuery,
    ) -> Result<DiffStream> {
        principal.require_read(Resource::Sandboxes)?;
        check_path_text("path", &query.path)?;
        let (sandbox, host) = self.find_alive(principal, id).await?;
        if query.to.is_none() && sandbox.state != SandboxState::Paused {
            principal.require_write(Resource::Sandboxes)?;
        }
        host.diff_sandbox(id, &principal.team_id, query).await
    }
}
