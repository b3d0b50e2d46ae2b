//! Which snapshots stay since sandboxes are being made from them, and which are on their way out.
//!
//! A create looks a snapshot up, pins it, and writes it into the new sandbox's record; a removal
//! marks it, looks for sandboxes whose record has it, and takes its name away. Each of the two does
//! its I/O without a lock. Whichever of pin and mark comes second sees the first, so no sandbox is
//! begun from a snapshot that goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::SandboxId;
use parking_lot::{Mutex, MutexGuard};

use super::SnapshotId;

#[derive(Debug, Clone, Default)]
pub(super) struct Uses(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    pinned: BTreeMap<SandboxId, SnapshotId>,
    retiring: BTreeSet<SnapshotId>,
}

/// Keeps a snapshot until the record of the sandbox that is made from it does.
#[derive(Debug)]
pub(crate) struct Pin {
    uses: Uses,
    sandbox: SandboxId,
}

/// Keeps sandboxes from being made from a snapshot, while this lives.
#[derive(Debug)]
pub(crate) struct Retiring {
    uses: Uses,
    snapshot: SnapshotId,
}

impl Uses {
    /// Pins a snapshot for a sandbox that is being begun. `None` when the snapshot is on its way
    /// out.
    pub(super) fn pin(&self, snapshot: &SnapshotId, sandbox: &SandboxId) -> Option<Pin> {
        let mut state = self.lock();
        if state.retiring.contains(snapshot) {
            return None;
        }
        state.pinned.insert(sandbox.clone(), snapshot.clone());
        Some(Pin {
            uses: self.clone(),
            sandbox: sandbox.clone(),
        })
    }

    /// Marks a snapshot as on its way out.
    ///
    /// # Errors
    /// The sandboxes that are being begun from it.
    pub(super) fn retire(&self, snapshot: &SnapshotId) -> Result<Retiring, Vec<SandboxId>> {
        let mut state = self.lock();
        let pinned = state
            .pinned
            .iter()
            .filter(|(_, pinned)| *pinned == snapshot);
        let users: Vec<SandboxId> = pinned.map(|(sandbox, _)| sandbox.clone()).collect();
        if !users.is_empty() {
            return Err(users);
        }
        state.retiring.insert(snapshot.clone());
        Ok(Retiring {
            uses: self.clone(),
            snapshot: snapshot.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.uses.lock().pinned.remove(&self.sandbox);
    }
}

impl Drop for Retiring {
    fn drop(&mut self) {
        self.uses.lock().retiring.remove(&self.snapshot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_snapshot_is_not_retired() {
        let (uses, snapshot, sandbox) = (
            Uses::default(),
            SnapshotId("sn-1".to_owned()),
            SandboxId::random(),
        );
        let pin = uses.pin(&snapshot, &sandbox).unwrap();
        assert_eq!(
            uses.retire(&snapshot).unwrap_err(),
            std::slice::from_ref(&sandbox)
        );
        drop(pin);
        let retiring = uses.retire(&snapshot).unwrap();
        assert!(uses.pin(&snapshot, &sandbox).is_none());
        drop(retiring);
        assert!(uses.pin(&snapshot, &sandbox).is_some());
    }
}
