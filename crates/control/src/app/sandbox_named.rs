//! Creates that meet a living sandbox of their name: whether it is what they ask for.

use model::{ErrorCode, ResourceRequest, SandboxSpec};
use stdx::time::now_ms;
use store::Sandbox;

use super::App;
use crate::auth::Principal;
use crate::error::{Error, Result};

impl App {
    /// Returns the living sandbox that was met by its name, once it has begun. `None` if it did not.
    ///
    /// # Errors
    /// `Conflict` if it is another one than was asked for.
    pub(super) async fn adopt_existing(
        &self,
        principal: &Principal,
        row: Sandbox,
        spec: &SandboxSpec,
        named: &ResourceRequest,
    ) -> Result<Option<Sandbox>> {
        let disk_mb = row.disk.as_ref().map(|disk| disk.size_mb);
        let differences = row.spec.fixed_differences(spec, named, disk_mb);
        if !differences.is_empty() {
            let text = format!(
                "sandbox {} has this name, with other {}; leave those out, take another name, or delete it",
                row.id,
                differences.join(", ")
            );
            return Err(Error::new(ErrorCode::Conflict, text));
        }
        let begun = self.wait_until_begun(principal, &row.id).await?;
        Ok(begun.filter(|sandbox| !sandbox.state.is_terminal()))
    }
}

/// Refuses an end that has come already.
pub(super) fn check_end(ends_at: Option<i64>) -> Result<()> {
    match ends_at {
        Some(at) if at <= now_ms() => Err(Error::invalid(
            "ends_at must be a time to come; is the clock of the client right?",
        )),
        _ => Ok(()),
    }
}

pub(super) fn name_taken(row: &Sandbox) -> Error {
    let text = format!(
        "sandbox {} has this name and is {}; take another name, delete it, or ask for it with `if_exists: return`",
        row.id, row.state
    );
    Error::new(ErrorCode::Conflict, text)
}
