//! Sandboxes together with the token of their guest agent, for clients that speak to that themselves.
//!
//! The host's answer has the token. Where it has not, as from a host of a version before, a second
//! call asks for it; if that fails, the client would never learn of the sandbox, and ask again for
//! another one. So:
//!
//! | the token is missing after | what becomes of the sandbox |
//! |---|---|
//! | a create or fork | it is deleted; the wish is durable before the answer, `tasks::reconcile` goes on with it |
//! | the same with an idempotency key | it stays: the request, sent again, finds it |
//! | connecting | nothing was done yet: the token comes first |
//!
//! If we die in between, the client has no answer, as at any other moment; with an idempotency key it
//! finds what was made.

use std::slice;

use model::SandboxId;
use store::Sandbox;

use super::App;
use super::sandbox_create::{CreateRequest, Created};
use super::sandbox_fork::ForkRequest;
use super::sandbox_timeout::Connected;
use crate::auth::Principal;
use crate::error::{Error, Result};

/// Sandbox, and the token that its guest agent asks for.
#[derive(Debug)]
pub struct OpenedSandbox {
    pub sandbox: Sandbox,
    pub access_token: String,
}

impl App {
    /// Creates a sandbox, and returns it with its token.
    ///
    /// # Errors
    /// As [`Self::create_sandbox`]; nothing that only a request without an idempotency key made is left.
    pub async fn create_opened(
        &self,
        principal: &Principal,
        request: CreateRequest,
    ) -> Result<OpenedSandbox> {
        let is_repeatable = request.idempotency.is_some();
        let created = Box::pin(self.create_sandbox(principal, request)).await?;
        let (Created::New(sandbox) | Created::Existing(sandbox)) = created;
        let token = self.read_guest_token(&sandbox).await;
        let made = slice::from_ref(&sandbox);
        let access_token = self
            .keep_or_discard(principal, made, is_repeatable, token)
            .await?;
        Ok(OpenedSandbox {
            sandbox,
            access_token,
        })
    }

    /// Forks a sandbox, and returns its children with their tokens.
    ///
    /// # Errors
    /// As [`Self::fork_sandbox`]; nothing that only a request without an idempotency key made is left.
    pub async fn fork_opened(
        &self,
        principal: &Principal,
        fork: ForkRequest,
    ) -> Result<Vec<OpenedSandbox>> {
        let is_repeatable = fork.idempotency.is_some();
        let children = self.fork_sandbox(principal, fork).await?;
        let reads = children.iter().map(|child| self.read_guest_token(child));
        let tokens = futures::future::try_join_all(reads).await;
        let tokens = self
            .keep_or_discard(principal, &children, is_repeatable, tokens)
            .await?;
        let pairs = children.into_iter().zip(tokens);
        let opened = pairs.map(|(sandbox, access_token)| OpenedSandbox {
            sandbox,
            access_token,
        });
        Ok(opened.collect())
    }

    /// Makes a sandbox run as [`Self::connect_sandbox`] does, and returns it with its token, and true if
    /// it was paused.
    ///
    /// # Errors
    /// As [`Self::connect_sandbox`].
    pub async fn connect_opened(
        &self,
        principal: &Principal,
        id: &SandboxId,
        run_ms: i64,
    ) -> Result<(OpenedSandbox, bool)> {
        let access_token = self.get_access_token(principal, id).await?;
        let connected = self.connect_sandbox(principal, id, run_ms).await?;
        let Connected {
            sandbox,
            was_paused,
        } = connected;
        let opened = OpenedSandbox {
            sandbox,
            access_token,
        };
        Ok((opened, was_paused))
    }

    /// Returns the tokens of sandboxes that were made just now. Without them these are deleted, unless
    /// the same request would find them again.
    async fn keep_or_discard<T>(
        &self,
        principal: &Principal,
        made: &[Sandbox],
        is_repeatable: bool,
        tokens: Result<T>,
    ) -> Result<T> {
        match tokens {
            Err(error) if !is_repeatable => Err(self.discard(principal, made, error).await),
            tokens => tokens,
        }
    }

    /// Deletes sandboxes of which no client will learn, and returns the error for it.
    async fn discard(&self, principal: &Principal, sandboxes: &[Sandbox], error: Error) -> Error {
        tracing::warn!(
            error = error.chain(),
            "no token of a new sandbox: it is deleted"
        );
        for sandbox in sandboxes {
            let discarded = self.discard_sandbox(principal, sandbox).await;
            if let Err(failed) = discarded {
                let id = &sandbox.id;
                tracing::error!(sandbox = %id, error = failed.chain(), "a sandbox that no client knows stays");
                return error.after_change(&format!("sandbox {id} was made, and can be deleted"));
            }
        }
        error
    }
}
