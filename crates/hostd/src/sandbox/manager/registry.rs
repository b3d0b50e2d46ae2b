//! The map of this agent's sandboxes.
//!
//! It is locked for look-ups alone, never over I/O or an await: a disk that takes half a minute for
//! an fsync stops no call about another sandbox. While a sandbox is being begun ([`super::begin`])
//! the map has a placeholder, and calls about that id wait for the outcome.
//!
//! | entry | means | a call about that id |
//! |---|---|---|
//! | `Beginning` | the first record is being written; nothing of it counts yet | waits until the entry is `Begun` or gone |
//! | `Begun` | an actor drives it | gets its handle |
//!
//! A reservation that is dropped, by an error or a panic, takes its placeholder away.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::SandboxId;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::sandbox::error::SandboxError;
use crate::sandbox::handle::Handle;

type Entries = BTreeMap<SandboxId, Entry>;

#[derive(Debug, Clone, Default)]
pub(super) struct Registry(Arc<Mutex<Entries>>);

#[derive(Debug)]
enum Entry {
    /// Token that is cancelled when the entry is replaced or removed.
    Beginning(CancellationToken),
    Begun(Handle),
}

/// Outcome of [`Registry::reserve_id`].
#[derive(Debug)]
pub(super) enum Reserved {
    /// There is a sandbox of that id already.
    Begun(Handle),
    New(Reservation),
}

/// Exclusive right to begin the sandbox of one id.
#[derive(Debug)]
pub(super) struct Reservation {
    registry: Registry,
    id: SandboxId,
    done: CancellationToken,
}

impl Registry {
    /// Reserves the id for a new sandbox, or returns the sandbox that has it. Waits while another
    /// call is beginning it.
    ///
    /// # Errors
    /// [`SandboxError::Full`] when `most` sandboxes hold resources, or are about to.
    pub(super) async fn reserve_id(
        &self,
        id: &SandboxId,
        most: usize,
    ) -> Result<Reserved, SandboxError> {
        loop {
            let beginning = {
                let mut entries = self.0.lock();
                match entries.get(id) {
                    Some(Entry::Begun(handle)) => return Ok(Reserved::Begun(handle.clone())),
                    Some(Entry::Beginning(done)) => done.clone(),
                    None => {
                        check_limit(&entries, most)?;
                        let done = CancellationToken::new();
                        entries.insert(id.clone(), Entry::Beginning(done.clone()));
                        let reservation = Reservation {
                            registry: self.clone(),
                            id: id.clone(),
                            done,
                        };
                        return Ok(Reserved::New(reservation));
                    }
                }
            };
            beginning.cancelled().await;
        }
    }

    /// Returns the handle of a sandbox; waits while it is being begun.
    pub(super) async fn find(&self, id: &SandboxId) -> Option<Handle> {
        loop {
            let beginning = match self.0.lock().get(id)? {
                Entry::Begun(handle) => return Some(handle.clone()),
                Entry::Beginning(done) => done.clone(),
            };
            beginning.cancelled().await;
        }
    }

    /// Returns all sandboxes that have been begun, by id.
    pub(super) fn handles(&self) -> Vec<Handle> {
        let begun = |entry: &Entry| match entry {
            Entry::Begun(handle) => Some(handle.clone()),
            Entry::Beginning(_) => None,
        };
        self.0.lock().values().filter_map(begun).collect()
    }

    /// Waits until every sandbox that is being begun now has been begun or refused.
    pub(super) async fn wait_until_begun(&self) {
        let beginning: Vec<CancellationToken> = {
            let entries = self.0.lock();
            let tokens = entries.values().filter_map(|entry| match entry {
                Entry::Beginning(done) => Some(done.clone()),
                Entry::Begun(_) => None,
            });
            tokens.collect()
        };
        for done in beginning {
            done.cancelled().await;
        }
    }

    /// Checks that one more sandbox may hold resources.
    ///
    /// # Errors
    /// As [`Registry::reserve_id`].
    pub(super) fn check_limit(&self, most: usize) -> Result<(), SandboxError> {
        check_limit(&self.0.lock(), most)
    }

    /// Inserts a sandbox that an earlier run of the agent had begun.
    pub(super) fn insert(&self, handle: Handle) {
        self.0
            .lock()
            .insert(handle.id.clone(), Entry::Begun(handle));
    }

    pub(super) fn remove(&self, id: &SandboxId) {
        self.0.lock().remove(id);
    }
}

fn check_limit(entries: &Entries, most: usize) -> Result<(), SandboxError> {
    let holds = |entry: &&Entry| match entry {
        Entry::Beginning(_) => true,
        Entry::Begun(handle) => handle.record.borrow().phase.may_hold_resources(),
    };
    let live = entries.values().filter(holds).count();
    if live >= most {
        Err(SandboxError::Full(live))
    } else {
        Ok(())
    }
}

impl Reservation {
    /// Replaces the placeholder by the sandbox, which has an actor now.
    pub(super) fn insert_handle(self, handle: Handle) {
        self.registry.insert(handle);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut entries = self.registry.0.lock();
        if matches!(entries.get(&self.id), Some(Entry::Beginning(_))) {
            entries.remove(&self.id);
        }
        drop(entries);
        self.done.cancel();
    }
}
