//! Sandboxes that are held until an operator decides about them ([`crate::orphans`]).
//!
//! Memory is enough: the next process, and every other control plane, finds the same ones.

use std::collections::{BTreeMap, BTreeSet};

use model::SandboxId;
use parking_lot::Mutex;

/// Ids that one log line names.
const NAMED: usize = 10;

/// Held sandboxes by host, as the last round of reconciliation found them.
#[derive(Debug, Default)]
pub struct HeldSandboxes(Mutex<BTreeMap<String, BTreeSet<SandboxId>>>);

impl HeldSandboxes {
    /// Replaces those of a host, and logs the new ones.
    pub fn replace(&self, host_id: &str, held: BTreeSet<SandboxId>) {
        let mut hosts = self.0.lock();
        let before = hosts.entry(host_id.to_owned()).or_default();
        let new: Vec<&str> = held.difference(before).map(SandboxId::as_str).collect();
        if !new.is_empty() {
            let named = new.iter().take(NAMED).copied().collect::<Vec<_>>();
            tracing::warn!(
                host_id,
                count = new.len(),
                sandboxes = named.join(" "),
                "the host has sandboxes that this database has no record of; they are left alone: was a backup restored, \
                 or DATABASE_URL changed? `wrenn-cp orphans` lists, adopts and removes them"
            );
        }
        *before = held;
    }

    /// Returns the number of all of them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().values().map(BTreeSet::len).sum()
    }

    /// Returns true if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
