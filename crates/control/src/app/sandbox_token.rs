//! Access tokens of guest agents, for clients that speak to those themselves.
//!
//! Hosts make and keep them. Their reports and answers have them ([`crate::ports::guest_tokens`]); a
//! token that is not known here yet, since the sandbox was made through another control plane a
//! moment ago, or this one has just started, is asked for. So a failed look is never the last word
//! while a host may still know better, and nothing of it is kept.

use std::net::IpAddr;
use std::time::Duration;

use model::{ErrorCode, Resource, SandboxId};
use store::Sandbox;

use super::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::ReportedToken;
use crate::ports::file_signature::SignedFile;

/// Time for hosts that have just been connected to, to report what they have.
const FIRST_REPORTS: Duration = Duration::from_secs(3);
/// Time for the report of a sandbox that another control plane has made, which comes with its answer.
const REPORT_DELAY: Duration = Duration::from_millis(250);

/// Reason why the signer of a URL is not looked for: there were too many such requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManySearches {
    /// Time after which it may be tried again.
    pub wait: Duration,
}

impl App {
    /// Returns the token that the guest agent of a sandbox asks for.
    ///
    /// # Errors
    /// `Forbidden` for keys that may not use sandboxes; `NotFound`; `HostUnavailable`.
    pub async fn get_access_token(&self, principal: &Principal, id: &SandboxId) -> Result<String> {
        principal.require_write(Resource::Sandboxes)?;
        let sandbox = self.find_sandbox(principal, id).await?;
        self.read_guest_token(&sandbox).await
    }

    /// Returns the token that the guest agent of a sandbox asks for. Its host is asked where it is not
    /// known here, once for all that wait for it.
    ///
    /// # Errors
    /// `HostUnavailable`; the host's.
    pub(crate) async fn read_guest_token(&self, sandbox: &Sandbox) -> Result<String> {
        let (id, tokens) = (&sandbox.id, &self.ports.guest_tokens);
        if let Some(token) = tokens.get(id) {
            return Ok(token);
        }
        let host = self.find_host(id, sandbox.host_id.as_deref())?;
        let asking = {
            let id = id.clone();
            async move { host.probe(host.get_access_token(&id)).await }
        };
        let token = self.token_calls.join_call(id.clone(), asking).await?;
        if token.is_empty() {
            let text = format!("the host of sandbox {id} knows no access token of it");
            return Err(Error::new(ErrorCode::AgentError, text));
        }
        let host_id = sandbox.host_id.as_deref().unwrap_or_default();
        tokens.note_token(id, host_id, ReportedToken::Whole(token.clone()));
        Ok(token)
    }

    /// Returns true if `token` is that of the sandbox's guest agent.
    ///
    /// # Errors
    /// `HostUnavailable` if it is not known, and cannot be found out.
    pub(crate) async fn check_guest_token(&self, sandbox: &Sandbox, token: &[u8]) -> Result<bool> {
        let tokens = &self.ports.guest_tokens;
        if let Some(is_right) = tokens.check_token(&sandbox.id, token) {
            return Ok(is_right);
        }
        self.read_guest_token(sandbox).await?;
        Ok(tokens.check_token(&sandbox.id, token).unwrap_or_default())
    }

    /// Returns true if the URL of a file was signed with the token of the sandbox's guest agent.
    ///
    /// # Errors
    /// `HostUnavailable` if the token is not known, and cannot be found out.
    pub(crate) async fn check_file_signature(
        &self,
        sandbox: &Sandbox,
        signed: &SignedFile,
    ) -> Result<bool> {
        let token = self.read_guest_token(sandbox).await?;
        Ok(signed.is_signed_with(&token))
    }

    /// Finds the sandbox with whose token the URL of a file was signed, for a request from the address
    /// `from`. No host is asked.
    ///
    /// # Errors
    /// [`TooManySearches`] bounds what requests without a right can cause.
    pub(crate) async fn find_signer(
        &self,
        signed: &SignedFile,
        from: Option<IpAddr>,
    ) -> std::result::Result<Option<SandboxId>, TooManySearches> {
        let (tokens, limit) = (&self.ports.guest_tokens, &self.ports.search_limit);
        let count = || {
            let counted = limit.count_search(from, tokens.len());
            counted.map_err(|wait| TooManySearches { wait })
        };
        count()?;
        let before = tokens.change_count();
        if let Some(id) = tokens.find_signer(signed) {
            return Ok(Some(id));
        }
        self.wait_for_tokens().await;
        if tokens.change_count() == before {
            return Ok(None);
        }
        count()?;
        Ok(tokens.find_signer(signed))
    }

    /// Finds the sandbox whose guest agent asks for `token`. No host is asked.
    pub(crate) async fn find_token_owner(&self, token: &[u8]) -> Option<SandboxId> {
        let tokens = &self.ports.guest_tokens;
        let found = tokens.find_sandbox(token);
        if found.is_some() {
            return found;
        }
        self.wait_for_tokens().await;
        tokens.find_sandbox(token)
    }

    /// Waits for tokens that may be on their way: until all hosts have reported once, and for the
    /// report of a sandbox that was made a moment ago.
    async fn wait_for_tokens(&self) {
        let _ = tokio::time::timeout(FIRST_REPORTS, self.hosts.first_reports()).await;
        tokio::time::sleep(REPORT_DELAY).await;
    }
}
