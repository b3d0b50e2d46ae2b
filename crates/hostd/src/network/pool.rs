//! Preallocated networks, so that a sandbox need not wait for its own: that would be a good part of
//! the time in which it starts from a snapshot.
//!
//! ```text
//!   claimed without a sandbox → made → available → claimed by a sandbox
//! ```
//! The last step replaces one file, and from there on all is as if the sandbox had claimed and made
//! it. A preallocated network is a claim of ours that names no sandbox, which the next start clears
//! like any other without one; an orderly shutdown does it itself. A network that another program
//! has removed since is made again.

use std::collections::{BTreeSet, VecDeque};

use linux::{link, netns};
use model::NetworkSpec;
use parking_lot::{Mutex, MutexGuard};
use stdx::error::chain;
use tokio::sync::Notify;

use super::{Error, Networks, SandboxNetworks, Slot, policy};

/// Name in the claims of preallocated networks; no sandbox has such an id.
const UNASSIGNED: &str = "nobody yet";
#[derive(Debug, Default)]
pub(super) struct Pool {
    networks: Mutex<Known>,
    taken: Notify,
}

#[derive(Debug, Default)]
struct Known {
    ready: VecDeque<Slot>,
    /// Slots that a sandbox has claimed, and whose network it has not created yet.
    assigned: BTreeSet<Slot>,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.networks.lock()
    }

    /// Returns true if the slot's network was preallocated; only the first call for a slot does.
    pub(super) fn has_made(&self, slot: Slot) -> bool {
        self.lock().assigned.remove(&slot)
    }

    /// Forgets a slot whose network is removed.
    pub(super) fn forget(&self, slot: Slot) {
        self.lock().assigned.remove(&slot);
    }
}

impl Networks {
    /// Returns the number of preallocated networks that are available.
    #[must_use]
    pub fn available_count(&self) -> usize {
        self.pool.lock().ready.len()
    }

    /// Waits until a preallocated network is taken.
    pub(crate) async fn wait_until_taken(&self) {
        self.pool.taken.notified().await;
    }

    /// Preallocates a network, whose TAP belongs to the user that `user` returns for its slot, with
    /// the rules of a sandbox that has none of its own.
    ///
    /// # Errors
    /// When the kernel refuses; the network is cleared then, unless that fails, too.
    pub fn preallocate(&self, user: impl FnOnce(Slot) -> u32) -> Result<(), Error> {
        let slot = self.slots.claim(UNASSIGNED).map_err(Error::Claim)?;
        match self
            .make(slot, user(slot))
            .and_then(|()| apply_default_policy(slot))
        {
            Ok(()) => self.pool.lock().ready.push_back(slot),
            Err(error) => return self.clear(slot).and(Err(error)),
        }
        Ok(())
    }

    /// Assigns an available network to a sandbox. `None` if there is none, or it cannot be claimed.
    pub(super) fn assign_available(&self, sandbox: &str) -> Option<Slot> {
        let slot = self.pool.lock().ready.pop_front()?;
        self.pool.taken.notify_one();
        match self.slots.hand_over(slot, sandbox) {
            Ok(()) => {
                self.pool.lock().assigned.insert(slot);
                Some(slot)
            }
            Err(error) => {
                tracing::warn!(slot = slot.number(), %error, "a network that was ready cannot be claimed");
                if let Err(error) = self.clear(slot) {
                    tracing::warn!(
                        slot = slot.number(),
                        error = chain(&error),
                        "nor cleared before the next start"
                    );
                }
                None
            }
        }
    }

    /// Returns true if the network of a slot exists: another program may have removed it.
    pub(super) fn is_there(slot: Slot) -> bool {
        link::exists(&slot.veth()) && netns::exists(&slot.netns())
    }

    /// Removes all networks that are available.
    ///
    /// # Errors
    /// Returns the first error; it goes on after each, and the next start tries again.
    pub fn clear_ready(&self) -> Result<(), Error> {
        let mut outcome = Ok(());
        while let Some(slot) = { self.pool.lock().ready.pop_front() } {
            outcome = outcome.and(self.clear(slot));
        }
        outcome
    }
}

fn apply_default_policy(slot: Slot) -> Result<(), Error> {
    let ruled = netns::enter(&slot.netns(), || {
        policy::table_for(&NetworkSpec::default(), &[]).commit()
    });
    ruled.map_err(|source| Error::Slot {
        action: "set the rules",
        slot,
        source,
    })
}

#[cfg(test)]
mod tests {
    use linux::nft::{Family, Transaction};

    use super::super::tests::is_gone;
    use super::super::{Holder, NetworkSettings, list_leftovers};
    use super::*;

    fn networks() -> (tempfile::TempDir, Networks) {
        let owner = tempfile::tempdir().unwrap();
        let networks = Networks::prepare(owner.path(), &NetworkSettings::default()).unwrap();
        (owner, networks)
    }

    #[test]
    fn preallocated_network_is_claimed_once() {
        let (_owner, networks) = networks();
        networks.preallocate(|_| 0).unwrap();
        let ahead = networks.claimed().unwrap()[0].clone();
        assert_eq!(
            (networks.available_count(), &ahead.1),
            (1, &Holder::Ours(UNASSIGNED.to_owned()))
        );
        let slot = networks.claim("sb-first").unwrap();
        assert_eq!((slot, networks.available_count()), (ahead.0, 0));
        assert!(networks.is_held_by(slot, "sb-first"));
        // Made again it would be refused: the namespace is there.
        assert!(networks.create(slot, 0).unwrap());
        let without = Transaction::new().delete_table((Family::Inet, policy::POLICY_TABLE));
        netns::enter(&slot.netns(), || without.commit()).unwrap();
        networks.create(slot, 0).unwrap_err();
        let other = networks.claim("sb-second").unwrap();
        assert_ne!(other, slot);
        networks.remove(slot, "sb-first").unwrap();
        networks.remove(other, "sb-second").unwrap();
        assert!(networks.claimed().unwrap().is_empty());
    }

    #[test]
    fn removed_network_is_created_again() {
        let (_owner, networks) = networks();
        networks.preallocate(|_| 0).unwrap();
        let slot = networks.claim("sb-test").unwrap();
        netns::remove(&slot.netns()).unwrap();
        assert!(!networks.create(slot, 0).unwrap(), "its rules went with it");
        assert!(list_leftovers().unwrap().contains(&slot.netns()));
        networks.remove(slot, "sb-test").unwrap();
        // Given back unused, and claimed again: the pool must not take it for made.
        networks.preallocate(|_| 0).unwrap();
        let slot = networks.claim("sb-test").unwrap();
        networks.remove(slot, "sb-test").unwrap();
        assert!(!networks.pool.has_made(slot));
    }

    #[test]
    fn the_orderly_end_leaves_nothing() {
        let (_owner, networks) = networks();
        networks.preallocate(|_| 0).unwrap();
        networks.preallocate(|_| 0).unwrap();
        let slots: Vec<Slot> = networks
            .claimed()
            .unwrap()
            .into_iter()
            .map(|(slot, _)| slot)
            .collect();
        networks.clear_ready().unwrap();
        assert!(networks.claimed().unwrap().is_empty() && networks.available_count() == 0);
        assert!(
            slots.iter().all(|slot| is_gone(*slot)),
            "{:?}",
            list_leftovers().unwrap()
        );
    }
}
