//! Access tokens of guest agents, for clients that speak to those themselves. Only hosts have them.

use futures::future::join_all;
use model::{Resource, SandboxId};

use super::App;
use crate::auth::Principal;
use crate::error::Result;
use crate::hosts::SignedFile;

impl App {
    /// Returns the token that the guest agent of a sandbox asks for.
    ///
    /// # Errors
    /// `Forbidden` for keys that may not use sandboxes; `NotFound`; `HostUnavailable`.
    pub async fn get_access_token(&self, principal: &Principal, id: &SandboxId) -> Result<String> {
        principal.require_write(Resource::Sandboxes)?;
        let sandbox = self.find_sandbox(principal, id).await?;
        let host = self.find_host(id, sandbox.host_id.as_deref())?;
        host.get_access_token(id).await
    }

    /// Finds the sandbox with whose token the URL of a file was signed. Hosts that do not answer are
    /// passed over.
    pub(crate) async fn find_signed_file(&self, signed: &SignedFile) -> Option<SandboxId> {
        let hosts = self.hosts.all().iter();
        let asked = hosts.map(|host| host.probe(host.find_file_signature(signed)));
        let answers = join_all(asked).await;
        answers.into_iter().find_map(|answer| answer.ok().flatten())
    }
}
