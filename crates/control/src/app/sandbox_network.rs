//! Changes where a sandbox may connect to. The host writes the rules down and enforces them; its
//! report brings them into the row.

use model::{NetworkSpec, Resource, SandboxId};
use store::Sandbox;

use super::App;
use crate::auth::Principal;
use crate::error::Result;

impl App {
    /// Replaces all network rules of a sandbox. They are enforced on return, or once the sandbox is
    /// resumed.
    ///
    /// # Errors
    /// The host's; the former rules hold then.
    pub async fn set_network(
        &self,
        principal: &Principal,
        id: &SandboxId,
        rules: &NetworkSpec,
    ) -> Result<Sandbox> {
        principal.require_write(Resource::Network)?;
        let (_, host) = self.find_alive(principal, id).await?;
        let _actor = self.actors.note(id, principal);
        let report = host.update_network(id, rules).await?;
        self.apply_response(id, report).await
    }
}
