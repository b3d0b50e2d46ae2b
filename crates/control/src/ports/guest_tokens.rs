//! Tokens that guest agents ask for, as hosts report them. A client with such a token may use the
//! agent's port without a key, and clients of E2B get it in the answer that makes a sandbox.
//!
//! In memory alone: nothing of it is stored or logged, and it is no more than the token of the host
//! agent beside it can ask for. A host reports all of its sandboxes when its watch begins, and each
//! answer about a sandbox has its token. What is not here may have been made through another control
//! plane a moment ago, so the sandbox's host is asked then (`app::sandbox_token`): that a token is
//! unknown is never remembered.

use std::collections::{BTreeSet, HashMap};

use model::SandboxId;
use parking_lot::{RwLock, RwLockWriteGuard};
use sha2::{Digest, Sha256};

use super::file_signature::SignedFile;
use crate::hosts::{ReportedToken, SandboxReport};

type TokenHash = [u8; 32];

/// Tokens by sandbox.
#[derive(Debug, Default)]
pub struct GuestTokens(RwLock<Known>);

#[derive(Default)]
struct Known {
    tokens: HashMap<SandboxId, Entry>,
    by_hash: HashMap<TokenHash, SandboxId>,
    /// Number of tokens that came.
    version: u64,
}

struct Entry {
    hash: TokenHash,
    /// `None` from hosts of a version before.
    token: Option<String>,
    host_id: String,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known")
            .field("tokens", &self.tokens.len())
            .finish_non_exhaustive()
    }
}

impl GuestTokens {
    /// Takes the token out of a host's report.
    pub fn note_report(&self, report: &SandboxReport) {
        match report {
            SandboxReport::Removed { id, host_id } => self.write().remove(id, host_id),
            SandboxReport::Present {
                report,
                token: Some(token),
                ..
            } => self.note_token(&report.id, &report.host_id, token.clone()),
            SandboxReport::Present { token: None, .. } => {}
        }
    }

    /// Keeps a token that a host has given for a sandbox.
    pub fn note_token(&self, id: &SandboxId, host_id: &str, token: ReportedToken) {
        let (hash, token) = match token {
            ReportedToken::Whole(token) => (hash_of(token.as_bytes()), Some(token)),
            ReportedToken::Hash(hash) => (hash, None),
        };
        let is_known = |entry: &Entry| {
            entry.hash == hash
                && entry.host_id == host_id
                && (entry.token.is_some() || token.is_none())
        };
        // Most reports say what is known already.
        if self.0.read().tokens.get(id).is_some_and(is_known) {
            return;
        }
        let entry = Entry {
            hash,
            token,
            host_id: host_id.to_owned(),
        };
        self.write().insert(id, entry);
    }

    /// Forgets what a host has no more, whose full list of sandboxes has come.
    pub fn retain_reported(&self, host_id: &str, reported: &BTreeSet<SandboxId>) {
        let mut known = self.write();
        let is_gone = |(id, entry): &(&SandboxId, &Entry)| {
            entry.host_id == host_id && !reported.contains(*id)
        };
        let gone: Vec<SandboxId> = known
            .tokens
            .iter()
            .filter(is_gone)
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            known.remove(&id, host_id);
        }
    }

    /// Returns the token of a sandbox; `None` if it is not known.
    #[must_use]
    pub fn get(&self, id: &SandboxId) -> Option<String> {
        self.0.read().tokens.get(id)?.token.clone()
    }

    /// Returns true if `token` is that of the sandbox; `None` if that is not known. Times tell of
    /// hashes only, which are no secret.
    #[must_use]
    pub fn check_token(&self, id: &SandboxId, token: &[u8]) -> Option<bool> {
        let known = self.0.read();
        known
            .tokens
            .get(id)
            .map(|entry| entry.hash == hash_of(token))
    }

    /// Returns the sandbox whose token `token` is.
    #[must_use]
    pub fn find_sandbox(&self, token: &[u8]) -> Option<SandboxId> {
        self.0.read().by_hash.get(&hash_of(token)).cloned()
    }

    /// Returns the sandbox with whose token the URL of a file was signed. Computes a hash for each
    /// sandbox.
    #[must_use]
    pub fn find_signer(&self, signed: &SignedFile) -> Option<SandboxId> {
        let check = signed.prepare_check();
        let known = self.0.read();
        let mut tokens = known.tokens.iter();
        let signer = tokens.find(|(_, entry)| {
            let token = entry.token.as_deref();
            token.is_some_and(|token| check.is_signed_with(token))
        });
        signer.map(|(id, _)| id.clone())
    }

    /// Returns the number of sandboxes whose token is known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.read().tokens.len()
    }

    /// Returns true if no token is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a number that grows with each token that comes.
    #[must_use]
    pub fn change_count(&self) -> u64 {
        self.0.read().version
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.0.write()
    }
}

impl Known {
    fn insert(&mut self, id: &SandboxId, entry: Entry) {
        let hash = entry.hash;
        let before = self.tokens.insert(id.clone(), entry);
        if let Some(before) = before.filter(|before| before.hash != hash) {
            self.forget_hash(&before.hash, id);
        }
        self.by_hash.insert(hash, id.clone());
        self.version += 1;
    }

    /// Removes a sandbox, unless another host has it.
    fn remove(&mut self, id: &SandboxId, host_id: &str) {
        let is_there = |entry: &Entry| entry.host_id == host_id;
        if !self.tokens.get(id).is_some_and(is_there) {
            return;
        }
        if let Some(entry) = self.tokens.remove(id) {
            self.forget_hash(&entry.hash, id);
        }
    }

    fn forget_hash(&mut self, hash: &TokenHash, id: &SandboxId) {
        if self.by_hash.get(hash) == Some(id) {
            self.by_hash.remove(hash);
        }
    }
}

fn hash_of(token: &[u8]) -> TokenHash {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use model::{Generation, SandboxState};
    use proptest::prelude::*;
    use store::Report;

    use super::*;

    fn report(id: &SandboxId, token: Option<ReportedToken>) -> SandboxReport {
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
            token,
        }
    }

    fn whole(token: &str) -> ReportedToken {
        ReportedToken::Whole(token.to_owned())
    }

    #[test]
    fn token_opens_own_sandbox_until_removal() {
        let tokens = GuestTokens::default();
        let id = SandboxId::random();
        tokens.note_report(&report(&id, Some(whole("token"))));
        assert_eq!(tokens.check_token(&id, b"token"), Some(true));
        assert_eq!(tokens.check_token(&id, b"other"), Some(false));
        assert_eq!(tokens.check_token(&SandboxId::random(), b"token"), None);
        // A host of an earlier version says nothing, which takes nothing back.
        tokens.note_report(&report(&id, None));
        assert_eq!(tokens.get(&id).as_deref(), Some("token"));
        let removed = |host_id: &str| SandboxReport::Removed {
            id: id.clone(),
            host_id: host_id.to_owned(),
        };
        tokens.note_report(&removed("another host"));
        assert_eq!(tokens.find_sandbox(b"token"), Some(id.clone()));
        tokens.note_report(&removed("host"));
        assert_eq!(tokens.check_token(&id, b"token"), None);
        assert_eq!(tokens.find_sandbox(b"token"), None);
    }

    #[test]
    fn hash_alone_checks_and_keeps_token() {
        let tokens = GuestTokens::default();
        let id = SandboxId::random();
        let hash = || ReportedToken::Hash(hash_of(b"token"));
        tokens.note_report(&report(&id, Some(hash())));
        assert_eq!(tokens.check_token(&id, b"token"), Some(true));
        assert_eq!(tokens.get(&id), None);
        tokens.note_token(&id, "host", whole("token"));
        let version = tokens.change_count();
        tokens.note_report(&report(&id, Some(hash())));
        assert_eq!(tokens.get(&id).as_deref(), Some("token"));
        assert_eq!(tokens.change_count(), version);
    }

    proptest! {
        /// Whatever is reported, removed and listed anew, both ways to look tell the same.
        #[test]
        fn indexes_agree_with_reports(steps in proptest::collection::vec((0..4usize, 0..4u8, 0..3u8), 0..60)) {
            let ids: Vec<SandboxId> = (0..4).map(|_| SandboxId::random()).collect();
            let tokens = GuestTokens::default();
            let mut model: HashMap<SandboxId, String> = HashMap::new();
            for (number, token, step) in steps {
                let id = &ids[number];
                match step {
                    0 => {
                        let token = format!("{number} {token}");
                        tokens.note_report(&report(id, Some(whole(&token))));
                        model.insert(id.clone(), token);
                    }
                    1 => {
                        let host_id = "host".to_owned();
                        tokens.note_report(&SandboxReport::Removed { id: id.clone(), host_id });
                        model.remove(id);
                    }
                    _ => {
                        let mut listed: BTreeSet<SandboxId> = model.keys().cloned().collect();
                        listed.remove(id);
                        tokens.retain_reported("another host", &BTreeSet::new());
                        tokens.retain_reported("host", &listed);
                        model.remove(id);
                    }
                }
                prop_assert_eq!(tokens.len(), model.len());
                for id in &ids {
                    prop_assert_eq!(tokens.get(id), model.get(id).cloned());
                }
                for (number, id) in ids.iter().enumerate() {
                    for token in 0..4u8 {
                        let token = format!("{number} {token}");
                        let owner = (model.get(id) == Some(&token)).then(|| id.clone());
                        prop_assert_eq!(tokens.find_sandbox(token.as_bytes()), owner);
                    }
                }
            }
        }
    }
}
