//! Hashes of the tokens that guest agents ask for, as hosts report them. A client with such a token
//! may use the agent's port without a key. Only the hash is here, so that the token cannot be read
//! from memory or database.
//!
//! Nothing of it is stored. A host reports all of its sandboxes when its watch begins; until then,
//! and for hosts of a version before, the agent's port takes keys and links alone.

use std::collections::HashMap;

use host_rpc as rpc;
use model::SandboxId;
use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest, Sha256};

type TokenHash = [u8; 32];

/// Token hashes by sandbox.
#[derive(Debug, Default)]
pub struct GuestTokens(Mutex<HashMap<SandboxId, TokenHash>>);

impl GuestTokens {
    /// Takes the hash out of a host's report.
    pub fn note_report(&self, report: &rpc::SandboxReport) {
        let Ok(id) = report.sandbox_id.parse::<SandboxId>() else {
            return;
        };
        if report.state.as_known() == Some(rpc::SandboxState::SANDBOX_STATE_REMOVED) {
            self.lock().remove(&id);
        } else if let Ok(hash) = TokenHash::try_from(report.access_token_sha256.as_slice()) {
            self.lock().insert(id, hash);
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

    fn lock(&self) -> MutexGuard<'_, HashMap<SandboxId, TokenHash>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_opens_its_own_sandbox_until_removal() {
        let (tokens, id) = (GuestTokens::default(), SandboxId::random());
        let mut report = rpc::SandboxReport {
            sandbox_id: id.to_string(),
            access_token_sha256: Sha256::digest(b"token").to_vec(),
            ..Default::default()
        };
        tokens.note_report(&report);
        assert!(tokens.is_token_of(&id, b"token") && !tokens.is_token_of(&id, b"other"));
        assert!(!tokens.is_token_of(&SandboxId::random(), b"token"));
        // A host of an earlier version says nothing, which takes nothing back.
        report.access_token_sha256 = Vec::new();
        tokens.note_report(&report);
        assert!(tokens.is_token_of(&id, b"token") && !tokens.is_token_of(&id, b""));
        report.state = rpc::SandboxState::SANDBOX_STATE_REMOVED.into();
        tokens.note_report(&report);
        assert!(!tokens.is_token_of(&id, b"token"));
    }
}
