//! Hashes of the tokens that guest agents ask for, as hosts report them. A client with such a token
//! may use the agent's port without a key. Only the hash is here, so that the token cannot be read
//! from memory or database.
//!
//! Nothing of it is stored. A host reports all of its sandboxes when its watch begins; until then,
//! and for hosts of a version before, the agent's port takes keys and links alone.

use std::collections::HashMap;

use model::SandboxId;
use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest, Sha256};

use crate::hosts::SandboxReport;

type TokenHash = [u8; 32];

/// Token hashes by sandbox.
#[derive(Debug, Default)]
pub struct GuestTokens(Mutex<HashMap<SandboxId, TokenHash>>);

impl GuestTokens {
    /// Takes the hash out of a host's report.
    pub fn note_report(&self, report: &SandboxReport) {
        match report {
            SandboxReport::Removed { id, .. } => drop(self.lock().remove(id)),
            SandboxReport::Present {
                report,
                access_token_sha256: Some(hash),
                ..
            } => drop(self.lock().insert(report.id.clone(), *hash)),
            SandboxReport::Present {
                access_token_sha256: None,
                ..
            } => {}
        }
    }

    /// Returns true if `token` is that of the sandbox. Times tell of hashes only, which are no
    /// secret.
    #[must_use]
    pub fn is_token_of(&self, id: &SandboxId, token: &[u8]) -> bool {
        self.lock()
            .get(id)
            .is_some_and(|hash| *hash == <TokenHash>::from(Sha256::digest(token)))
    }

    /// Returns the sandbox whose token `token` is.
    #[must_use]
    pub fn find_sandbox(&self, token: &[u8]) -> Option<SandboxId> {
        let wanted = TokenHash::from(Sha256::digest(token));
        let hashes = self.lock();
        let mut found = hashes.iter().filter(|(_, hash)| **hash == wanted);
        found.next().map(|(id, _)| id.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SandboxId, TokenHash>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use model::{Generation, SandboxState};
    use store::Report;

    use super::*;

    fn report(id: &SandboxId, access_token_sha256: Option<TokenHash>) -> SandboxReport {
        SandboxReport::Present {
            report: Box::new(Report {
                id: id.clone(),
                host_id: "host".to_owned(),
                generation: Generation::FIRST,
                state: SandboxState::Running,
                reason: None,
                stop_reason: None,
                guest_ip: None,
                host_ip: None,
                started_at: None,
                last_active_at: None,
                disk: None,
                network: None,
            }),
            settings: None,
            access_token_sha256,
        }
    }

    #[test]
    fn token_opens_own_sandbox_until_removal() {
        let tokens = GuestTokens::default();
        let id = SandboxId::random();
        let hash = Sha256::digest(b"token").into();
        tokens.note_report(&report(&id, Some(hash)));
        assert!(tokens.is_token_of(&id, b"token") && !tokens.is_token_of(&id, b"other"));
        assert!(!tokens.is_token_of(&SandboxId::random(), b"token"));
        assert_eq!(tokens.find_sandbox(b"token"), Some(id.clone()));
        assert_eq!(tokens.find_sandbox(b"other"), None);
        // A host of an earlier version says nothing, which takes nothing back.
        tokens.note_report(&report(&id, None));
        assert!(tokens.is_token_of(&id, b"token") && !tokens.is_token_of(&id, b""));
        tokens.note_report(&SandboxReport::Removed {
            id: id.clone(),
            host_id: "host".to_owned(),
        });
        assert!(!tokens.is_token_of(&id, b"token"));
        assert_eq!(tokens.find_sandbox(b"token"), None);
    }
}
